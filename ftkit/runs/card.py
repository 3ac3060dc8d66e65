"""The model card of a run, written from its records."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ftkit.common.errors import KitError
from ftkit.common.files import replacing
from ftkit.models.catalog import licence_of
from ftkit.models.find import public_name
from ftkit.runs.documents import Comparison, Evaluation, Score
from ftkit.runs.run import Run


def write_card(run: Run) -> Path:
    """Write the run's model card, `model_card.md`, from `run.json` and, once there is one, `evaluation.json`.

    Training and evaluation both call it, so that the card never lags behind.
    """
    path = run.folder / "model_card.md"
    with replacing(path) as temporary:
        temporary.write_text(card(run), encoding="utf-8")
    return path


def card(run: Run, merged: bool = False) -> str:
    """The model card of a run's adapter, or of its merged model, with front matter as the hub reads it (ModelCardData).

    Raises `KitError` if the run is not finished.
    """
    from huggingface_hub import ModelCardData

    record, profile, measured = run.record, run.profile, run.training
    licence = licence_of(profile.model)
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", profile.model))  # else a folder of somebody's machine
    head = ModelCardData(
        base_model=profile.model if on_hub else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        language="en",
        license=licence,
        tags=["qlora", "lora", "ftkit"],
    )
    task, base = record.task, public_name(profile.model)
    settings = ("epochs", "examples_per_step", "learning_rate", "rank", "alpha", "dropout", "max_length", "seed")
    what = (
        "The adapter was added to the values that the base's 4-bit weights stand for: an ordinary model that needs neither "
        "peft nor bitsandbytes and answers as the adapter on its 4-bit base does, up to rounding."
        if merged
        else "It belongs to the 4-bit base that it was trained on; on other weights of the same name it answers otherwise."
    )
    lines = [
        f"---\n{head.to_yaml()}\n---",
        f"# {task.name}: {f'{base}, fine-tuned and merged' if merged else f'a LoRA adapter for {base}'}",
        f"Fine-tuned with QLoRA (4-bit NF4 base, {measured.dtype}) by ftkit {record.versions['ftkit']}, "
        f"profile {profile.name}. {what}",
        "## Data",
        f"Task `{task.name}`, {measured.examples:,} training examples, fingerprint `{task.fingerprint}`. "
        "The datasheet in the task's folder says how it was made and what it may be used for.",
        "## Training",
        "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {getattr(profile, name)} |" for name in settings)]),
        f"{measured.steps} steps in {measured.seconds:.0f} s on {record.machine.processor}, "
        f"{measured.tokens_per_second:.0f} tokens/s, peak memory {measured.peak_memory_mb / 1000:.1f} GB, "
        f"mean loss of the last steps, on training rows, {_last_loss(run):.3f}.",
        "## Evaluation",
        _scores(run),
        "## Limits",
        "The answers can be wrong, also where they look right. It learned one task from examples; other messages, languages "
        "and tasks were not tested. Where health or money depends on an answer, a person has to check it.",
        "## Licence",
        f"Base model {base}: {licence or 'not known to the kit, see its own page'}. Data: {_data_licence(run)}. Whoever "
        "passes these weights on has to keep to both.",
        "## Environmental cost",
        f"This training took {measured.seconds / 3600:.2f} hours on one machine ({record.machine.processor}; "
        f"processes: {measured.processes}). Its energy was not measured, so no figure for carbon is given. Trials "
        "before it, the base model's own training and the use of the model come on top of that.",
        "## Use",
        _use(run, base, merged),
        f'With ftkit: `ftkit generate {run.name} "a message"`.',
    ]
    return "\n\n".join(lines) + "\n"


def _data_licence(run: Run) -> str:
    """What the task's datasheet says under **Licence.**; that it says nothing otherwise."""
    try:
        text = (run.task.folder / "DATASHEET.md").read_text(encoding="utf-8")
    except (KitError, OSError):
        text = ""
    found = re.search(r"\*\*Licen[cs]e\.?\*\*\s*([^\n]+)", text)
    return found.group(1).strip().rstrip(".") if found else "not stated, ask who made it"


def _use(run: Run, base: str, merged: bool) -> str:
    """Code that answers one message with plain transformers (and peft): run by the tests as it stands in the card."""
    try:
        system = run.task.system_prompt
    except KitError:
        system = "..."
    name, dtype = json.dumps(base), run.training.dtype
    chat = [{"role": "system", "content": system}, {"role": "user", "content": "a message"}]
    if merged:
        load = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")  # this folder, or its name on the hub\n'
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        )
    else:
        load = (
            "import torch\nfrom peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig\n\n"
            f'four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,\n'
            f"                              bnb_4bit_compute_dtype=torch.{dtype})\n"
            f"tokenizer = AutoTokenizer.from_pretrained({name})\n"
            f"base = AutoModelForCausalLM.from_pretrained({name}, quantization_config=four_bit, dtype=torch.{dtype})\n"
            'model = PeftModel.from_pretrained(base, "FOLDER", autocast_adapter_dtype=False)  # the adapter\'s folder\n'
        )
    return (
        f"```python\n{load}chat = {json.dumps(chat, ensure_ascii=False)}\n"
        'inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)\n'
        f"output = model.generate(**inputs.to(model.device), max_new_tokens={run.answer_tokens}, do_sample=False)\n"
        'answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)\n'
        "print(answer)\n```" + _base_note(run, merged)
    )


def _base_note(run: Run, merged: bool) -> str:
    """A run over a base that did not come from the hub says so: the hub's weights of that name may be others."""
    source = run.record.base_source
    if merged or source in (None, "hub"):
        return ""
    return (
        f"\n\nThe base came from a {source}, not from the hub. The hub's weights of that name may differ a little, and the "
        "adapter then answers otherwise: take the merged model where you can."
    )


def _last_loss(run: Run) -> float:
    """The mean over the last tenth of the loss log: a single entry is of a few rows, and those of like length."""
    losses = [entry.loss for entry in run.log()] or [run.training.loss]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _scores(run: Run) -> str:
    """The evaluation's scores with their 95 % intervals as a Markdown table, or that there are none yet."""
    if not Evaluation.exists(run.folder):
        return f"Not evaluated yet: `ftkit evaluate {run.name}`."
    try:
        result = Evaluation.load(run.folder)
    except KitError:
        return f"The evaluation in this run is of another version of ftkit: `ftkit evaluate {run.name}`."
    base, tuned = (result.models[side].scores for side in ("base", "tuned"))
    rows = "\n".join(
        f"| {metric} | {_share(base.get(metric))} | {_share(score)} | {_gap(result.comparisons['base'].get(metric))} |"
        for metric, score in tuned.items()
    )
    head = f"{result.split} split, n = {result.n}, greedy decoding; in brackets the 95 % interval, the difference in points."
    return f"{head}\n\n| metric | base | tuned | difference |\n|---|---|---|---|\n{rows}"


def _share(score: Score | None) -> str:
    """A score as "84.7 % (78.0 to 89.7)"."""
    if score is None:
        return ""
    low, high = (100 * bound for bound in score.interval)
    return f"{100 * score.value:.1f} % ({low:.1f} to {high:.1f})"


def _gap(compared: Comparison | None) -> str:
    """The difference of a paired comparison, with its interval."""
    if compared is None:
        return ""
    low, high = (100 * bound for bound in compared.interval)
    return f"{100 * compared.difference:+.1f} ({low:+.1f} to {high:+.1f})"
