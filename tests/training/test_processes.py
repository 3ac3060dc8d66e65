import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ftkit.common.paths import kit_root
from ftkit.common.processes import agree, collect, is_first, world_size
from ftkit.runs.documents import REPLAY
from ftkit.runs.run import Run

SCRIPT = """
import sys
from pathlib import Path
from ftkit.common.processes import is_first, world_size
from ftkit.common.profiles import Asked, Choice, read_profiles
from ftkit.data.task import load_task
from ftkit.training import looks
from ftkit.training.finetune import train

looks.LOSS_SHARE = looks.ANSWER_SHARE = 50.0  # held-out rows are looked at at every step
looks.WORTH_WATCHING = 1
task, model, batch = load_task(sys.argv[1]), sys.argv[2], int(sys.argv[3])
profile = read_profiles()["ci"].with_changes(
    model=model,
    rank=8,
    alpha=8,
    max_steps=6,
    checkpoint_steps=1,
    batch_size=batch,
    gradient_accumulation=1,
    dtype="float32",
    replay=0.34,
)
run = train(task, Choice(profile, "a test"), fresh=True, asked=Asked(minutes=30.0, keep_best=True))
if is_first():
    print(f"RUN {run.folder}\\n", end="", flush=True)  # a line in one piece: two processes write at once
print(f"WORLD {world_size()}\\n", end="", flush=True)
"""


@pytest.fixture
def eight_rows(broken_task):
    """A task of six training rows, two of general talk beside them: a step of eight sees all of them, in whatever order."""
    path = broken_task / "train.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:6]), encoding="utf-8")
    return broken_task


def trained(task, model, tmp_path, processes, batch):
    script = tmp_path / "train_it.py"
    script.write_text(SCRIPT)
    together = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29611"]
    command = [sys.executable, *(together if processes > 1 else []), str(script), str(task), str(model), str(batch)]
    environment = {**os.environ, "FTKIT_RUNS": str(tmp_path / f"runs-{processes}"), "OMP_NUM_THREADS": "1"}
    environment["FTKIT_CACHE"] = str(tmp_path / f"cache-{processes}")
    environment["PYTHONPATH"] = str(kit_root())
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"WORLD {processes}") == processes
    assert done.stdout.count("Finished:") == 1  # only the first speaks
    return Run(Path(next(line[4:] for line in done.stdout.splitlines() if line.startswith("RUN "))))


def test_two_processes_train_as_one_with_twice_the_batch(eight_rows, talking_model, tmp_path):
    two = trained(eight_rows, talking_model, tmp_path, 2, 4)
    one = trained(eight_rows, talking_model, tmp_path, 1, 8)
    for run in (two, one):  # the first process lets the base answer, the other gets its rows
        assert (run.training.examples, run.training.replay) == (6, 2)
    assert (two.folder / REPLAY).read_bytes() == (one.folder / REPLAY).read_bytes()
    assert two.training.processes == 2 and one.training.processes == 1
    assert len(list(two.folder.parent.iterdir())) == 1  # one run folder, not one for each process
    losses = [[entry.loss for entry in run.log()] for run in (two, one)]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert two.log()[-1].tokens == one.log()[-1].tokens
    curves = [dict(run.validation_curve()) for run in (two, one)]  # the first process looks, the others wait
    assert list(curves[0]) == list(curves[1]) == [3, 4, 5, 6]
    assert list(curves[0].values()) == pytest.approx(list(curves[1].values()), rel=2e-2)
    assert len(two.glimpses()) == len(one.glimpses()) == 3 * 5
    assert two.record.budget.steps == 6 and (two.training.kept_step or 6) == min(curves[0], key=curves[0].get)


def test_one_process_agrees_with_itself():
    assert world_size() == 1 and is_first()
    assert agree("a") == "a" and collect(3) == [3]


def test_the_fsdp_configuration_is_one_that_accelerate_takes():
    from accelerate.commands.config.config_args import ClusterConfig

    path = kit_root() / "ftkit" / "training" / "fsdp_qlora.yaml"
    config = ClusterConfig.from_yaml_file(str(path))
    assert str(config.distributed_type).endswith("FSDP") and config.mixed_precision == "bf16"
    assert yaml.safe_load(path.read_text())["fsdp_config"]["fsdp_version"] == 2


def test_under_fsdp_the_four_bit_weights_are_stored_in_the_models_dtype(tiny_model, monkeypatch):
    import torch

    from ftkit.models.four_bit import linear_4bit_layers
    from ftkit.models.load import load_model

    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    layers = linear_4bit_layers(load_model(str(tiny_model), "bfloat16"))
    assert layers and all(layer.weight.dtype == torch.bfloat16 for layer in layers)
