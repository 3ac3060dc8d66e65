"""Single measurements. Each runs in a process of its own: `python -m benchmarks.measure NAME '{"steps": 8}'`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PrinterCallback,
    TextIteratorStreamer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

from benchmarks.step import Where
from ftkit.common.machine import detect_hardware, resolve_dtype
from ftkit.common.memory import peak_memory_mb
from ftkit.common.profiles import Profile, read_profiles
from ftkit.data.prompt import chat_prompt, prompt_ids, prompt_text, training_example
from ftkit.data.task import Task, load_task
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.models.find import prepare_model
from ftkit.models.four_bit import keep_weights_unpacked
from ftkit.models.load import load_model, load_tokenizer, quiet_libraries
from ftkit.runs.run import Run, open_run
from ftkit.training import cpu_kernels as kernels
from ftkit.training.plan import plan_training
from ftkit.training.trainer import (
    CompletionTrainer,
    cast_adapter,
    completion_loss,
    lora_config,
    sft_config,
    training_data,
)

PLAIN_BATCH = 8  # examples a step of the plain recipe


def profile_of(settings: dict[str, Any]) -> Profile:
    """The cpu profile with the changes that a measurement asks for."""
    names = ("batch_size", "gradient_accumulation", "rank", "alpha", "seed", "max_length", "model", "dtype")
    changes = {key: settings[key] for key in names if key in settings}
    if "batch_size" in settings:
        changes.setdefault("gradient_accumulation", 1)
    return read_profiles()[settings.get("profile", "cpu")].with_changes(max_steps=settings.get("steps", 8), **changes)


def examples(profile: Profile, settings: dict[str, Any]) -> Any:
    """The desk's training rows; `length` tokens each if asked for, made by repeating messages."""
    tokenizer = load_tokenizer(profile.model)
    data = training_data(load_task("desk"), tokenizer, profile)
    if length := settings.get("length"):
        data = data.map(lambda row: _stretched(row, tokenizer, length))
    if steps := settings.get("sample"):
        return data.select(sample_of_an_epoch(list(data["length"]), steps, profile.seed))
    return data.select(range(settings["examples"])) if "examples" in settings else data


def planned_memory_mb(settings: dict[str, Any]) -> int:
    """What `ftkit plan` expects of a measurement."""
    profile = profile_of(settings)
    lengths = examples(profile, settings)["length"]
    return round(plan_training(profile=profile, method=settings.get("method", "qlora"), lengths=lengths).peak_mb)


def sample_of_an_epoch(lengths: list[int], steps: int, seed: int) -> list[int]:
    """The rows of some steps of an epoch, drawn at random: the first ones would be its longest rows.

    The kit's order: batches of like length (of 4 rows, two a step), as transformers puts them together from all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    order = get_length_grouped_indices(lengths, PLAIN_BATCH // 2, generator=generator)
    drawn = torch.randperm(len(order) // PLAIN_BATCH, generator=generator)[:steps].tolist()
    return [row for step in drawn for row in order[PLAIN_BATCH * step : PLAIN_BATCH * (step + 1)]]


def _stretched(row: dict[str, Any], tokenizer: Any, length: int) -> dict[str, Any]:
    """The same example with its message repeated up to about `length` tokens."""
    prompt = [dict(message) for message in row["prompt"]]
    words = (prompt[1]["content"] + " ") * 60
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    missing = max(1, length - row["length"] + len(tokenizer(prompt[1]["content"])["input_ids"]))
    prompt[1]["content"] = tokenizer.decode(ids[:missing])
    return {**row, "prompt": prompt, "length": length}


def _plain_base(place: Any, **options: Any) -> Any:
    """The base in 4 bits as tutorials load it."""
    return AutoModelForCausalLM.from_pretrained(
        place,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        **options,
    )


def plain_training(**settings: Any) -> dict[str, Any]:
    """The recipe as tutorials print it: SFTTrainer with its defaults, a 4-bit base, LoRA on all linear layers, batch 8."""
    profile = profile_of(settings)
    data = examples(profile, settings).remove_columns("length")
    place, on_cpu = prepare_model(profile.model), detect_hardware().device == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=_plain_base(place, device_map={"": "cpu" if on_cpu else 0}),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=PLAIN_BATCH,
                learning_rate=profile.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=profile.warmup,
                max_steps=profile.max_steps,
                seed=profile.seed,
                use_cpu=on_cpu,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(place),
            peft_config=LoraConfig(
                r=profile.rank, lora_alpha=profile.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        return measured_training(trainer, settings)


def kit_training(**settings: Any) -> dict[str, Any]:
    """The kit's training with single levers taken out (`without` names them) or put in (`extra`)."""
    without, extra = set(settings.get("without", [])), set(settings.get("extra", []))
    if "threads" in without:
        torch.set_num_threads(1)
    full = settings.get("method") == "full"
    profile = profile_of(settings).with_changes(gradient_checkpointing="no checkpointing" in without)
    if "small steps" in extra:
        profile = profile.with_changes(batch_size=profile.batch_size // 2, gradient_accumulation=2)
    data = examples(profile, settings)
    set_seed(profile.seed)
    with tempfile.TemporaryDirectory() as folder:
        config = _kit_config(profile, Path(folder), "sample" in settings, without, extra)
        model = load_model(profile.model, profile.dtype, four_bit=settings.get("method", "qlora") == "qlora")
        fast = kernels.is_used(model.device.type)
        if fast and "attention" not in without:
            model.set_attn_implementation(kernels.register())
        if "dequantized once" in extra:
            model = model.dequantize(dtype=torch.bfloat16)
        if full:
            cast_adapter(model, torch.float32 if "fp32 weights" in extra else torch.bfloat16)
        trainer = (CompletionTrainer if "completion loss" not in without else SFTTrainer)(
            model=model,
            args=config,
            train_dataset=data.remove_columns("length") if "packing" in extra else data,
            processing_class=load_tokenizer(profile.model),
            peft_config=None if full else lora_config(profile),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(kernels.FollowLoad())
        if not full:
            cast_adapter(trainer.model, torch.bfloat16 if "bf16 adapter" in extra else torch.float32)
        if fast and "adapter layers" not in without:
            kernels.speed_up_adapters(trainer.model)
        if "kept scales" in without:
            kernels.dequantize_weight = lambda weight: dequantize_4bit(weight.data, weight.quant_state)
        if "compiled" in extra:
            trainer.model.get_base_model().model.compile()
        return measured_training(trainer, settings)


def _kit_config(profile: Profile, folder: Path, in_order: bool, without: set[str], extra: set[str]) -> SFTConfig:
    config = sft_config(profile, folder, resolve_dtype(profile.dtype))
    config.save_strategy = "no"
    if "round lengths" in without:
        config.pad_to_multiple_of = None
    if in_order:  # the rows are in the kit's order
        config.train_sampling_strategy = "sequential"
    if "packing" in extra:
        config.packing, config.max_length = True, 1024
        config.per_device_train_batch_size, config.gradient_accumulation_steps = 1, 1
    if "packing" in extra or "like lengths" in without:
        config.train_sampling_strategy = "random"
    return config


class Clock(TrainerCallback):
    """Times the steps of a training; stopped while the loss on the validation split is taken, every `every` steps.

    `rows` is how many of the split's first rows are taken; None: all of them.
    """

    def __init__(self, model: Any, every: int | None, rows: int | None = None) -> None:
        self.model, self.every = model, every
        self.held_out = load_task("desk").rows("validation")[:rows]
        self.seconds: list[float] = []
        self.losses: list[dict[str, float]] = []
        self.stopped = 0.0  # seconds
        self.began = self.last = time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.began = self.last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the step's time and, where it is due, the loss."""
        now = time.monotonic()
        self.seconds.append(round(now - self.last, 3))
        if self.every and state.global_step % self.every == 0:
            loss, running = (
                round(validation_loss(self.model, rows=self.held_out), 4),
                round(now - self.began - self.stopped, 2),
            )
            self.losses.append({"step": state.global_step, "seconds": running, "loss": loss})
            self.stopped += time.monotonic() - now
        self.last = time.monotonic()


def measured_training(trainer: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Train, and take the real (non-padding) tokens a second, the peak memory, and the loss on the validation split."""
    clock = Clock(trainer.model, settings.get("validate_every"), settings.get("validate_rows"))
    trainer.add_callback(clock)
    where = Where(trainer.model, settings["where"]) if "where" in settings else None
    if where:
        trainer.add_callback(where)
    before, began = peak_memory_mb(), time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began - clock.stopped
    result = {
        "device": detect_hardware().name,
        "steps": trainer.state.global_step,
        "tokens": int(trainer._total_train_tokens),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(trainer._total_train_tokens / seconds, 1),
        "step_seconds": clock.seconds,
        "peak_memory_mb": round(peak_memory_mb()),
        "memory_before_mb": round(before),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }
    if where:
        result |= where.figures()
    if clock.losses:
        result |= {"losses": clock.losses, "validation_loss": clock.losses[-1]["loss"]}
    if settings.get("roofline", True):
        result["matrix_gflops"] = round(matrix_rate(), 1)
    return result


def validation_loss(model: Any, task: Task | None = None, rows: Any = None, tokenizer: Any = None) -> float:
    """Mean cross-entropy of the validation split's completions, the same way for every recipe."""
    task = task or load_task("desk")
    tokenizer = tokenizer or load_tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    pairs, total, count = [], 0.0, 0
    for row in rows or task.rows("validation"):
        example = training_example(task, row)
        prompt, text = prompt_ids(tokenizer, example["prompt"]), example["completion"][0]["content"]
        answer = tokenizer(text + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        pairs.append((prompt + answer, [-100] * len(prompt) + answer))
    pairs.sort(key=lambda pair: len(pair[0]))
    with torch.no_grad():  # in training mode (dropout is 0): evaluation mode repacks 4-bit weights on some processors
        for start in range(0, len(pairs), PLAIN_BATCH):  # no more at once than in training: the peak of memory is its
            part = pairs[start : start + PLAIN_BATCH]
            longest = max(len(ids) for ids, _ in part)
            inputs = {
                "input_ids": torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in part]),
                "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in part]),
                "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in part]),
            }
            n = int((inputs["labels"] != -100).sum())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                total += float(completion_loss(inner, inputs)) * n
            count += n
    return total / count


def matrix_rate(seconds: float = 1.5) -> float:
    """bf16 matrix products of the model's own shapes that this machine does a second, in GFLOP/s, now."""
    a, b = torch.randn(848, 576, dtype=torch.bfloat16), torch.randn(1536, 576, dtype=torch.bfloat16)
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        for _ in range(20):
            torch.nn.functional.linear(a, b)
        done += 20
    return 2 * 848 * 576 * 1536 * done / (time.monotonic() - began) / 1e9


# --- generation ---


def _test_messages(n: int) -> list[str]:
    return [row["message"] for row in load_task("desk").rows("test")[:n]]


def _plain_model(run: Run) -> Any:
    """The tuned model as tutorials load it: the adapter over the 4-bit base, and nothing else."""
    quiet_libraries()
    model = _plain_base(prepare_model(run.profile.model))
    return PeftModel.from_pretrained(keep_weights_unpacked(model), run.adapter).eval()


def plain_generation(n: int = 12, **_: Any) -> dict[str, Any]:
    """`generate` on one message at a time, on the PEFT model."""
    run = open_run(None)
    model, tokenizer = _plain_model(run), load_tokenizer(run.profile.model)
    answers, tokens = [], 0
    began = time.monotonic()
    for message in _test_messages(n):
        prompt = prompt_text(tokenizer, chat_prompt(run.task, message))
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            output = model.generate(
                **inputs, max_new_tokens=run.profile.max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        new = output[0, inputs["input_ids"].shape[1] :]
        tokens += len(new)
        answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    seconds = time.monotonic() - began
    return {**_answered(answers, seconds), "tokens_per_second": round(tokens / seconds, 1)}


def kit_generation(n: int = 144, **_: Any) -> dict[str, Any]:
    """The evaluation's path: sorted batches."""
    answerer = Answerer.of_run(open_run(None))
    began = time.monotonic()
    answers = answerer.answer(_test_messages(n), TUNED)
    return _answered(answers, time.monotonic() - began)


def _answered(answers: list[str], seconds: float) -> dict[str, Any]:
    return {
        "n": len(answers),
        "seconds": round(seconds, 2),
        "messages_per_second": round(len(answers) / seconds, 3),
        "answers": answers,
        "peak_memory_mb": round(peak_memory_mb()),
    }


def streams(n: int = 5, **_: Any) -> dict[str, Any]:
    """First token and tokens a second as a demo gets them, for each message in turn three ways, in one process.

    Plain `generate` on the PEFT model with transformers' own streamer; the demo's `Answerer.stream`, tuned alone; and the
    demo as it is, base and tuned at once (the first token is then the slower side's). A first message warms all up.
    """
    run = open_run(None)
    answerer = Answerer.of_run(run)
    answerer.prepare_stream()  # as the demo does before it serves
    plain = _plain_model(run)
    sides: dict[str, list[dict[str, Any]]] = {"plain": [], "kit": [], "both sides": []}
    for number, message in enumerate(_test_messages(n + 1)):
        measured = {
            "plain": _plain_stream(answerer, plain, message),
            "kit": _kit_stream(answerer, message, (TUNED,)),
            "both sides": _kit_stream(answerer, message, (BASE, TUNED)),
        }
        del measured["both sides"]["answer"]
        for name, result in measured.items() if number else ():
            sides[name].append(result)
    return {"sides": sides}


def _plain_stream(answerer: Answerer, model: Any, message: str) -> dict[str, Any]:
    tokenizer = answerer.tokenizer
    prompt = prompt_text(tokenizer, answerer.prompt(message, TUNED))
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    keywords = {**inputs, "max_new_tokens": answerer.max_new_tokens, "do_sample": False, "streamer": streamer,
                "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    began = time.monotonic()
    answerer.worker.submit(model.generate, **keywords)  # in the thread of the other model: no threads that contend
    text, first = "", 0.0
    for piece in streamer:
        first = first or (time.monotonic() - began if piece else 0.0)
        text += piece
    return _streamed(first, len(tokenizer(text)["input_ids"]) + 1, time.monotonic() - began, text.strip())


def _kit_stream(answerer: Answerer, message: str, sides: tuple[str, ...]) -> dict[str, Any]:
    began, first, seconds, last = time.monotonic(), 0.0, 0.0, {}
    for last in answerer.stream(message, sides):
        passed = time.monotonic() - began
        if not first and all(answer.tokens for answer in last.values()):
            first = passed
        seconds = seconds or (passed if last[TUNED].finished else 0.0)
    return _streamed(first, last[TUNED].tokens + 1, seconds or time.monotonic() - began, last[TUNED].text)


def _streamed(first: float, tokens: int, seconds: float, answer: str) -> dict[str, Any]:
    return {
        "first_token_seconds": round(first, 3),
        "tokens_per_second": round(tokens / seconds, 2),
        "tokens": tokens,
        "answer": answer,
    }


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    f.__name__: f for f in (plain_training, kit_training, plain_generation, kit_generation, streams)
}

if __name__ == "__main__":
    quiet_libraries()
    print("RESULT " + json.dumps(MEASUREMENTS[sys.argv[1]](**json.loads(sys.argv[2]))), flush=True)
