import pytest
from typer.testing import CliRunner

from experiments import verdicts
from experiments.documents import VerdictResults
from ftkit.course.beliefs import FOLDER


def test_a_task_is_made_once_and_judged_by_the_kits_commands_and_what_is_finished_is_kept(tmp_path, monkeypatch):
    """The two commands are run in this process; `dates` has no closed field, so that --quick takes a second."""
    from ftkit.cli.main import app

    calls = []

    def call(*command):
        calls.append(command[0])
        words = [*map(str, command), *(["--quick"] if command[0] == "verdict" else [])]
        assert CliRunner().invoke(app, words).exit_code == 0

    monkeypatch.setenv("FTKIT_ENCODER", "")
    monkeypatch.setenv("FTKIT_RUNS", "")
    monkeypatch.setattr(verdicts, "_call", call)
    monkeypatch.setattr(verdicts, "FOLDER", tmp_path)
    monkeypatch.setattr(verdicts, "PAGE", tmp_path / "page.md")
    for _ in range(2):
        verdicts.main(["--run", str(tmp_path / "all"), "--tasks", "dates"])
    assert calls == ["task", "verdict", "verdict"]
    (kept,) = VerdictResults.load(tmp_path).verdicts
    assert (kept.task, kept.kind) == (
        "dates",
        "text",
    ) and 790 <= kept.train_rows + kept.of <= 810  # of 1,000; like rows together
    assert "## dates" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_the_page_says_what_the_results_say():
    if not (FOLDER / VerdictResults.FILE).is_file():
        pytest.skip("no verdicts are kept here")
    results = VerdictResults.load(FOLDER)
    page = verdicts.page_of(results)
    assert page == verdicts.PAGE.read_text(encoding="utf-8")
    for verdict in results.verdicts:
        assert f"## {verdict.task}\n" in page
        assert all(question.advice.text in page for question in verdict.questions)
