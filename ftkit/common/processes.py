"""Several processes, one training: who is first, and how they agree (`torchrun --nproc_per_node 2 -m ftkit.cli train`)."""

from __future__ import annotations

import os
from typing import Any


def rank() -> int:
    """This process's number; 0 when there is only one. torchrun sets it before the process starts."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes the run and prints."""
    return rank() == 0


def is_sharded() -> bool:
    """Whether the model itself is spread over the processes (FSDP, by `accelerate launch`)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def agree(value: Any) -> Any:
    """The first process's `value`, in all of them."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _state()
    values = [value]
    broadcast_object_list(values)
    return values[0]


def collect(value: Any) -> list[Any]:
    """Every process's `value`, by rank, in all of them."""
    if world_size() == 1:
        return [value]
    from accelerate.utils import gather_object

    _state()
    return gather_object([value])


def _state() -> Any:
    """Join the processes: nccl between GPUs, gloo between CPUs."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def part() -> None:
    """End the processes' connection once each has reached this line.

    Without this, gloo's threads can outlive what they use and abort a process that has done all its work.
    """
    import torch

    if world_size() > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
