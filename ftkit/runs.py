"""Runs: one folder under `runs/` for each training. Every stage reads a run and adds its part to it."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftkit.common.errors import KitError
from ftkit.common.files import new_folder, read_json, replacing, write_json
from ftkit.common.machine import processor_name, versions
from ftkit.common.paths import kit_root, runs_dir
from ftkit.common.profiles import Profile
from ftkit.data.task import Task, load_task
from ftkit.intervals import share_interval
from ftkit.models.find import BASE_LICENCES, find_model, public_name

FORMAT = 1
REFERENCE = "reference"  # the name of the kit's own run
PARTS = ("task", "profile", "training", "versions", "machine")  # objects in `run.json`
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool}  # of the profile's values
RESTORE = "Restore it from a copy, or train again."
SPARE = 4  # tokens that an answer may be longer than the longest in training


@dataclass(frozen=True)
class Run:
    """A run folder. `run.json` holds what it was made from and what it measured; `adapter/` the trained weights."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        """The content of `run.json`. Raises `KitError` if it is missing or broken."""
        record = read_json(self.folder / "run.json")
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise KitError(f"{self.folder / 'run.json'} is not the record of a run (format {FORMAT}). {RESTORE}")
        if wrong := [part for part in PARTS if not isinstance(record.get(part, {}), dict)]:
            raise KitError(f"{self.folder / 'run.json'} is broken: {wrong[0]!r} is no object. {RESTORE}")
        return record

    @property
    def adapter(self) -> Path:
        """Folder of the trained adapter."""
        return self.folder / "adapter"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def is_reference(self) -> bool:
        """Whether it is the kit's own run and not one of yours."""
        return self.name == REFERENCE and self.folder.parent == runs_dir()

    @property
    def profile(self) -> Profile:
        """The profile that the run was trained with. Raises `KitError` if a value is missing or of another type."""
        try:
            profile = Profile(**self.record["profile"])
        except (KeyError, TypeError):
            raise KitError(f"{self.folder / 'run.json'} has no usable profile. {RESTORE}") from None
        for name, value in asdict(profile).items():
            if not isinstance(value, TYPES[Profile.__annotations__[name]]):
                raise KitError(f"{self.folder / 'run.json'}: the profile's {name} is {value!r}. {RESTORE}")
        return profile

    @property
    def answer_tokens(self) -> int:
        """Tokens that the tuned model may write: the profile's, and never fewer than its longest training answer took."""
        learned = self.record.get("training", {}).get("longest_completion", 0)
        return max(self.profile.max_new_tokens, learned + SPARE)

    @property
    def task(self) -> Task:
        """The task that the run was trained on."""
        try:
            folder = self.record["task"]["folder"]
        except (KeyError, TypeError):
            raise KitError(f"{self.folder / 'run.json'} does not name its task. {RESTORE}") from None
        return load_task(folder)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.record.get("status") == "finished"

    def update(self, **parts: Any) -> None:
        """Set parts of `run.json`, the file replaced as a whole."""
        write_json(self.folder / "run.json", {**self.record, **parts})

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run for one process; the system lets go of it when the process ends, however it ends."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.folder / ".lock", timeout=0):
                yield
        except Timeout:
            raise KitError(f"{self.name} is being trained by another process; wait, or start anew with --fresh.") from None

    @property
    def is_claimed(self) -> bool:
        """Whether another process is training this run now."""
        try:
            with self.claimed():
                return False
        except KitError:
            return True

    def log(self) -> list[dict[str, float]]:
        """The loss log: a dict a line with step, loss, learning rate, tokens seen and seconds."""
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        complete = (line for line in lines if line.endswith("}"))  # a killed process may leave half a line
        return [json.loads(line) for line in complete]


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

    Raises `KitError` if `run.json` lacks what it says.
    """
    try:
        return _card(run, merged)
    except (KeyError, TypeError, ValueError) as error:
        raise KitError(f"{run.folder / 'run.json'} lacks what a model card says ({error}). {RESTORE}") from None


def _card(run: Run, merged: bool) -> str:
    from huggingface_hub import ModelCardData

    record, profile, measured = run.record, run.profile, run.record["training"]
    licence = BASE_LICENCES.get(profile.model)
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", profile.model))  # else a folder of somebody's machine
    head = ModelCardData(
        base_model=profile.model if on_hub else None,
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        language="en",
        license=licence,
        tags=["qlora", "lora", "ftkit"],
    )
    task, base = record["task"], public_name(profile.model)
    settings = ("epochs", "examples_per_step", "learning_rate", "rank", "alpha", "dropout", "max_length", "seed")
    what = (
        "The adapter was added to the values that the base's 4-bit weights stand for: an ordinary model that needs neither "
        "peft nor bitsandbytes and answers as the adapter on its 4-bit base does, up to rounding."
        if merged
        else "It belongs to the 4-bit base that it was trained on; on other weights of the same name it answers otherwise."
    )
    lines = [
        f"---\n{head.to_yaml()}\n---",
        f"# {task['name']}: {f'{base}, fine-tuned and merged' if merged else f'a LoRA adapter for {base}'}",
        f"Fine-tuned with QLoRA (4-bit NF4 base, {measured['dtype']}) by ftkit {record['versions']['ftkit']}, "
        f"profile {profile.name}. {what}",
        "## Data",
        f"Task `{task['name']}`, {measured['examples']:,} training examples, fingerprint `{task['fingerprint']}`. "
        "The datasheet in the task's folder says how it was made and what it may be used for.",
        "## Training",
        "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {getattr(profile, name)} |" for name in settings)]),
        f"{measured['steps']} steps in {measured['seconds']:.0f} s on {record['machine']['processor']}, "
        f"{measured['tokens_per_second']:.0f} tokens/s, peak memory {measured['peak_memory_mb'] / 1000:.1f} GB, "
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
        f"This training took {measured['seconds'] / 3600:.2f} hours on one machine ({record['machine']['processor']}; "
        f"processes: {measured.get('processes', 1)}). Its energy was not measured, so no figure for carbon is given. Trials "
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
    name, dtype = json.dumps(base), run.record["training"]["dtype"]
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
    source = run.record.get("base_source")
    if merged or source in (None, "hub"):
        return ""
    return (
        f"\n\nThe base came from a {source}, not from the hub. The hub's weights of that name may differ a little, and the "
        "adapter then answers otherwise: take the merged model where you can."
    )


def _last_loss(run: Run) -> float:
    """The mean over the last tenth of the loss log: a single entry is of a few rows, and those of like length."""
    losses = [entry["loss"] for entry in run.log()] or [run.record["training"]["loss"]]
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _scores(run: Run) -> str:
    """The evaluation's scores with their 95 % intervals as a Markdown table, or that there are none yet."""
    path = run.folder / "evaluation.json"
    if not path.is_file():
        return f"Not evaluated yet: `ftkit evaluate {run.name}`."
    result = read_json(path)
    try:
        split, n = result["split"], result["n"]
        base, tuned = (_with_intervals(result["models"][side]["scores"], n) for side in ("base", "tuned"))
        gaps = {metric: _gap(found) for metric, found in result.get("comparisons", {}).get("base", {}).items()}
    except (KeyError, TypeError, AttributeError):
        return f"The evaluation in this run is of another version of ftkit: `ftkit evaluate {run.name}`."
    rows = "\n".join(f"| {m} | {base.get(m, '')} | {tuned[m]} | {gaps.get(m, '')} |" for m in tuned)
    head = f"{split} split, n = {n}, greedy decoding; in brackets the 95 % interval, the difference in points."
    return f"{head}\n\n| metric | base | tuned | difference |\n|---|---|---|---|\n{rows}"


def _with_intervals(scores: dict[str, Any], n: int) -> dict[str, str]:
    """{metric: "84.7 % (78.0 to 89.7)"}: as it is saved; for a share without an interval, Wilson's for `n` examples."""
    shown = {}
    for metric, score in scores.items():
        value, interval = (score["value"], score.get("interval")) if isinstance(score, dict) else (score, None)
        right = round(value * n)
        low, high = interval or share_interval([True] * right + [False] * (n - right))
        shown[metric] = f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return shown


def _gap(found: dict[str, Any]) -> str:
    """The difference of a paired comparison, with its interval."""
    low, high = found["interval"]
    return f"{100 * found['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def new_run(task: Task, profile: Profile, reason: str) -> Run:
    """Make the folder of a new run, its `run.json` with everything that decides the result."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    stem = f"{task.name}-{profile.name}-{stamp}"
    folder, n = runs_dir() / stem, 1
    while folder.exists():
        n += 1
        folder = runs_dir() / f"{stem}-{n}"
    write_json(
        folder / "run.json",
        {
            "format": FORMAT,
            "status": "training",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": {"name": task.name, "folder": _portable(task.folder), "fingerprint": task.fingerprint()},
            "profile": asdict(profile),
            "base_source": {"hub": "hub", "folder": "folder"}.get(find_model(profile.model).kind, "PyPI package"),
            "reason": reason,
            "seed": profile.seed,
            "versions": versions(),
            "machine": {"system": platform.platform(terse=True), "processor": processor_name()},
        },
    )
    return Run(folder)


def _portable(folder: Path) -> str:
    """A kit's own task by its name (the run then works on every machine), another by its absolute path."""
    return folder.name if folder.parent == kit_root() / "data" else str(folder.resolve())


def all_runs() -> list[Run]:
    """Every run under `runs/`, the newest first."""
    folders = [p.parent for p in runs_dir().glob("*/run.json")]
    readable = []
    for folder in folders:
        try:
            readable.append((Run(folder).record["created"], folder.name, Run(folder)))
        except (KitError, KeyError):
            continue
    return [run for *_, run in sorted(readable, key=lambda entry: entry[:2], reverse=True)]


def reference_run() -> Run | None:
    """The run that the kit ships, for those who have none yet; None where it was left out.

    It is copied to `runs/reference` at first use, and again where the kit brings a newer one; what is added, is added there.
    """
    shipped, copy = Run(kit_root() / "data" / "reference_run"), Run(runs_dir() / REFERENCE)
    if not (shipped.folder / "run.json").is_file():
        return None
    if (copy.folder / "run.json").is_file() and copy.record["created"] != shipped.record["created"]:
        shutil.rmtree(copy.folder)
    if not copy.folder.exists():
        with new_folder(copy.folder) as temporary:
            shutil.copytree(shipped.folder, temporary, dirs_exist_ok=True)
    return copy


def open_run(name: str | Path | None = None, unfinished: bool = False) -> Run:
    """Open a run: a folder, a name under `runs/`, or (left out) the newest finished one, and without one the kit's own.

    The kit's own is also had by its name, "reference". `KitError` if there is no such run, or it is not finished (unless
    `unfinished` ones are wanted too).
    """
    if name is None:
        finished = [run for run in all_runs() if run.finished and not run.is_reference]
        own = finished[0] if finished else reference_run()
        if own is None:
            raise KitError(f"There is no finished run in {runs_dir()} yet. Make one: ftkit train")
        return own
    if name == REFERENCE and (reference := reference_run()):
        return reference
    folder = next((p for p in (Path(name).expanduser(), runs_dir() / str(name)) if (p / "run.json").is_file()), None)
    if folder is None:
        known = ", ".join(run.name for run in all_runs()[:5]) or "none yet"
        raise KitError(f"{name} is not a run: a run is a folder with run.json. Here are: {known}.")
    run = Run(folder)
    if not run.finished and not unfinished:
        raise KitError(f"{folder} is not finished. Go on with it: ftkit train {run.record['task']['folder']}")
    return run


def finished_run(task: Task, profile: Profile) -> Run | None:
    """The newest finished run with the same data and profile (model, recipe and seed); None if there is none."""
    return next((run for run in _runs_of(task, profile) if run.finished), None)


def unfinished_run(task: Task, profile: Profile) -> Run | None:
    """The newest run with the same data and profile that was stopped midway and that no process is training; or None."""
    return next((run for run in _runs_of(task, profile) if not run.finished and not run.is_claimed), None)


def _runs_of(task: Task, profile: Profile) -> Iterator[Run]:
    for run in all_runs():
        record = run.record
        if (
            not run.is_reference
            and record["task"]["fingerprint"] == task.fingerprint()
            and record["profile"] == asdict(profile)
        ):
            yield run
