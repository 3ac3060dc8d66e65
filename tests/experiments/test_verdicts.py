import csv

import pytest

from experiments import verdicts
from experiments.documents import VerdictResults
from ftkit.course.beliefs import FOLDER


def test_the_tables_hold_all_rows_of_the_two_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "TABLES", ("dates",))  # docstrings reads the files of ten libraries
    (path,) = verdicts.write_tables(tmp_path / "tables")
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["text", "target"] and len(rows) == len({text for text, _ in rows}) == 1000


def test_the_page_says_what_the_results_say():
    if not (FOLDER / VerdictResults.FILE).is_file():
        pytest.skip("no verdicts are kept here")
    results = VerdictResults.load(FOLDER)
    page = verdicts.page_of(results)
    assert page == verdicts.PAGE.read_text(encoding="utf-8")
    for verdict in results.verdicts:
        assert f"## {verdict.task}\n" in page
        assert all(question.advice.text in page for question in verdict.questions)
