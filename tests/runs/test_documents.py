"""Every file of a run has one definition: what it refuses, what it keeps, and the page that is written from it."""

import importlib.util
import json

import pytest

from ftkit.common.errors import KitError
from ftkit.common.files import write_json
from ftkit.common.paths import kit_root
from ftkit.runs.documents import (
    DOCUMENTS,
    Comparison,
    Evaluation,
    ExportRecord,
    Fidelity,
    General,
    LogEntry,
    RunRecord,
)

SHIPPED = kit_root() / "data" / "reference_run"


@pytest.mark.parametrize("document", [RunRecord, Evaluation, General, Fidelity], ids=lambda document: document.FILE)
def test_a_shipped_file_is_read_and_written_without_a_change(document, tmp_path):
    document.load(SHIPPED).save(tmp_path)
    assert document.path(tmp_path).read_text(encoding="utf-8") == document.path(SHIPPED).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.FILE)
@pytest.mark.parametrize("version", [0, 99, None, "1"])
def test_another_version_is_refused_with_file_version_and_cure(document, version, tmp_path):
    write_json(document.path(tmp_path), {} if version is None else {"format": version})
    with pytest.raises(KitError) as refused:
        document.load(tmp_path)
    said = str(refused.value)
    assert document.FILE in said and f"reads version {document.version()}" in said and document.CURE in said
    assert f"of version {version}" in said if isinstance(version, int) else "of no known version" in said


def changed(tmp_path, document, change):
    """The refusal of a shipped file after a change."""
    data = json.loads(document.path(SHIPPED).read_text(encoding="utf-8"))
    change(data)
    write_json(document.path(tmp_path), data)
    with pytest.raises(KitError) as refused:
        document.load(tmp_path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("document", "change", "words"),
    [
        (RunRecord, lambda d: d["training"].update(steps="many"), "field 'training.steps': "),
        (RunRecord, lambda d: d["training"].update(steps=-1), "greater than or equal to 0, not -1"),
        (RunRecord, lambda d: d["profile"].update(rank=1.5), "field 'profile.rank': "),
        (RunRecord, lambda d: d.update(status="maybe"), "'training' or 'finished', not 'maybe'"),
        (RunRecord, lambda d: d.pop("seed"), "field 'seed': field required"),
        (RunRecord, lambda d: d.update(mood="good"), "field 'mood': extra inputs are not permitted"),
        (
            Evaluation,
            lambda d: d["models"]["tuned"]["scores"]["intent"].update(value=1.2),
            "models.tuned.scores.intent.value",
        ),
        (Evaluation, lambda d: d.update(kind="poem"), "field 'kind': "),
    ],
)
def test_a_wrong_field_is_named_with_what_should_be_there(document, change, words, tmp_path):
    said = changed(tmp_path, document, change)
    assert words in said and document.FILE in said and said.endswith(document.CURE)


def test_a_missing_and_a_broken_file_are_sentences(tmp_path):
    with pytest.raises(KitError, match=r"run\.json is missing"):
        RunRecord.load(tmp_path)
    RunRecord.path(tmp_path).write_text('{"format": 1', encoding="utf-8")
    with pytest.raises(KitError, match=r"run\.json is not readable as JSON"):
        RunRecord.load(tmp_path)


def test_a_document_cannot_be_changed_in_passing_and_what_was_not_set_is_not_written(tmp_path):
    record = ExportRecord(to="merged", run="a", adapter="0" * 16, created="today", size_mb=1.0)
    with pytest.raises(ValueError, match="frozen"):
        record.run = "b"
    record.save(tmp_path)
    written = json.loads(ExportRecord.path(tmp_path).read_text(encoding="utf-8"))
    assert written == {"to": "merged", "run": "a", "adapter": "0" * 16, "created": "today", "size_mb": 1.0, "format": 1}


def test_whether_a_difference_was_detected_follows_from_p_or_from_the_interval():
    common = {"n": 10, "first": 0.1, "second": 0.3, "difference": 0.2}
    assert Comparison(**common, interval=(-0.1, 0.5), p=0.01).detected
    assert not Comparison(**common, interval=(0.1, 0.5), p=0.2).detected
    assert Comparison(**common, interval=(0.1, 0.5)).detected and not Comparison(**common, interval=(-0.1, 0.5)).detected


def test_a_loss_log_may_hold_a_loss_that_is_no_number():
    line = json.dumps({"step": 1, "loss": float("nan"), "learning_rate": 0.1, "tokens": 3, "seconds": 1.5})
    assert str(LogEntry.model_validate_json(line).loss) == "nan"


def test_the_page_of_the_files_is_what_the_definitions_say():
    path = kit_root() / "docs" / "files.py"
    spec = importlib.util.spec_from_file_location("files_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert path.with_suffix(".md").read_text(encoding="utf-8") == module.page()
    for document in DOCUMENTS:
        assert f"## {document.FILE}\n" in module.page() and f"version {document.version()}" in module.page()
