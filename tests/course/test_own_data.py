"""Lesson 07 on files of other people, and its rule for what to do next; the map of goals and the reading list."""

import json
import re
from collections import Counter

import nbformat
import pytest

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.course.content import exercises, labs, lessons
from ftkit.course.lessons.lesson07 import NEXT, by_the_rule
from ftkit.data.task import load_task

ROOT = kit_root()
NOTEBOOK = ROOT / "notebooks" / "07_your_own_data.ipynb"
GOALS = (ROOT / "docs" / "goals.md").read_text(encoding="utf-8")
READING = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")


def run_on(path, twice=None, options=None):
    """All names after the lesson's cells, run one after the other with the one variable set to another file."""
    names: dict = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code" and cell.id != "first-cell":
            source = cell.source.replace("FILE = None", f"FILE = {str(path)!r}")
            source = source.replace("TWICE = None", f"TWICE = {twice and str(twice)!r}")
            source = source.replace("OPTIONS = {}", f"OPTIONS = {options or {}}")
            exec(compile(source, cell.id, "exec"), names)
    return names


@pytest.fixture
def tiny_lesson(tiny_choice, tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("ftkit.common.profiles.choose_profile", lambda *name: tiny_choice)


def test_the_lesson_runs_on_a_german_towns_complaints_with_the_options_that_it_asks_for(tiny_lesson, capsys):
    file = ROOT / "tests" / "brought" / "rathaus.csv"
    with pytest.raises(KitError, match=r"say which is the target .*'Amt'.*'Dringlichkeit'"):
        run_on(file)
    capsys.readouterr()
    names = run_on(file, options={"target": ["Amt", "Dringlichkeit"]})
    task, result = names["task"], names["result"]
    assert task.kind == "json" and {field.name for field in task.fields} == {"Amt", "Dringlichkeit"}
    assert result.n == 8 and set(names["answers"]) == {"nearest row", "base", "QLoRA"}
    said = capsys.readouterr().out
    assert "No second labels" in said and "agreement of two readings: not measured" in said


def test_the_lesson_runs_with_one_variable_changed_and_takes_a_second_reading_of_your_rows(tiny_lesson, tmp_path, capsys):
    twice = tmp_path / "twice.csv"
    lines = ["first,second", *["greeting,greeting"] * 9, "greeting,question"]
    twice.write_text("\n".join(lines), encoding="utf-8")
    names = run_on(ROOT / "tests" / "brought" / "greetings.json", twice)
    assert names["task"].kind == "label" and names["agreement"] == 0.9
    assert "guide 1: 10 rows, 90.0% equal" in capsys.readouterr().out


def test_the_rule_of_lesson_07_does_what_its_sentences_say():
    assert {want for want, _ in NEXT.values()} == {"guide", "stop", "test rows", "label", "change"}
    for case, (want, because) in NEXT.items():
        assert by_the_rule(*case) == want and because
    prose = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "markdown")
    rule = prose.split("### `read` A rule, written before")[1].split("### `exercise`")[0]
    assert re.findall(r"^\d\. .*?\*(guide|stop|test rows|label|change)\*", rule, re.MULTILINE) == [
        "guide",
        "stop",
        "test rows",
        "label",
        "change",
    ]


def rows_of(page):
    return [line.split(" | ") for line in page.splitlines() if line.startswith("| ") and "---" not in line]


def test_the_map_of_goals_has_every_lesson_and_names_only_exercises_that_exist():
    rows = {re.search(r"`(\w+)`", row[0])[1]: row for row in rows_of(GOALS.split("## Nine ways")[0]) if "`" in row[0]}
    mapped = {re.sub(r"^(\d\d\w?)_.*", r"\1", name): row for name, row in rows.items()}
    assert set(lessons()) | set(labs()) <= set(mapped)
    for lesson in (*lessons(), *labs()):
        _, goals, minutes, needs = mapped[lesson]
        named = [name for bracket in re.findall(r"\(((?:`\w+`(?:, )?)+)\)", goals) for name in re.findall(r"\w+", bracket)]
        known = [exercise.name for exercise in exercises(lesson)]
        assert set(named) <= set(known) and len(set(named)) == len(named), lesson
        assert 20 <= int(minutes) <= 120 and needs


def test_the_nine_ways_of_learning_are_balanced_over_the_lessons():
    used: Counter = Counter()
    paths = [*(ROOT / "notebooks").glob("[0-9]*.ipynb"), *(ROOT / "notebooks" / "labs").glob("*.ipynb")]
    for path in paths:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        ways = set(re.findall(r"^#{2,3} `([^`]+)`", prose, re.MULTILINE))
        assert len(ways) >= 5, path.name
        used.update(ways)
    listed = re.findall(r"^\| `([^`]+)` \| ", GOALS.split("## Nine ways")[1], re.MULTILINE)
    assert len(listed) == 9 and set(listed) == set(used)
    assert min(used.values()) > len(paths) / 2, used


def test_the_reading_list_has_a_number_and_a_line_for_each_work():
    works = [row for row in rows_of(READING) if row[0] != "| lesson"]
    assert 15 <= len(works) <= 25
    known = {*lessons(), *labs(), "02b"}
    for lesson, work, where, take in works:
        assert set(lesson.removeprefix("| ").split(", ")) <= known, work
        assert re.search(r"arXiv \d{4}\.\d{5}$|doi 10\.\d{4,}/\S+$|^huggingface\.co/docs/\w+$", where), work
        assert "*" in work and 20 < len(take) < 140, work
    numbers = [where for _, _, where, _ in works if "docs" not in where]
    assert len(set(numbers)) == len(numbers)
    linked = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "notebooks").glob("0[07]_*.ipynb")]
    assert len(linked) == 2
    for notebook in linked:
        text = "".join("".join(cell["source"]) for cell in notebook["cells"])
        assert "../docs/reading.md" in text and "../docs/goals.md" in text


# --- what the lesson's prose says of the run whose outputs it shows ---


@pytest.fixture(scope="module")
def shown():
    """What each cell of the lesson printed, or its picture says, by the cell's id."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    said = {}
    for cell in cells:
        outputs = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
        said[cell.id.removeprefix("own-")] = "".join(outputs)
    return said


def says(sentence):
    """Fail where the lesson no longer says what a test is about."""
    prose = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "markdown")
    assert sentence in prose, sentence


def test_what_the_lesson_says_of_the_schools_file_is_so(shown):
    says("*Desk*, the label, has twelve values where the office has seven desks; one of them is empty")
    assert re.search(r"^Desk +12 different", shown["columns"], re.MULTILINE)
    messages, rows = (int(re.search(rf"^{name} +(\d+) ", shown["columns"], re.MULTILINE)[1]) for name in ("Message", "Nr"))
    assert messages < rows == 311
    says('the word "dentist" stands in two messages of the whole file, and they have different labels')
    school = load_task("school")
    every = [row for split in ("train", "validation", "test") for row in school.rows(split)]
    assert sorted(row["target"] for row in every if re.search(r"\bdentist\b", row["message"], re.IGNORECASE)) == [
        "absence",
        "collection",
    ]
    says("there are ten labels instead of seven, because three of them were typed in two ways")
    assert "there are only 10 different targets" in shown["new-code"] and shown["new-code"].count("differ only in") == 3
    says('"Jacob owes Ł14.80"')
    assert "Jacob owes Ł14.80" in shown["dry"] and "Is this right?" in shown["dry"]
    says("A tip for checking: a score near 80 %, known to 5 points, takes some 250 rows.")
    assert 240 < 1.96**2 * 0.8 * 0.2 / 0.05**2 < 250


def test_what_the_lesson_says_of_the_contenders_and_the_curve_is_so(shown):
    score = {name: float(value) for name, value in re.findall(r"^(\S.*?) +([\d.]+) %,", shown["costs"], re.MULTILINE)}
    says("A model that has read a great deal of English does better with the same rows")
    assert min(score["frozen encoder"], score["fine-tuned encoder"]) > score["TF-IDF"] > score["majority"]
    says("the tuned base was ahead of the fine-tuned encoder by some points, and 75 rows could not tell the two apart")
    assert score["QLoRA"] == max(score.values()) > score["fine-tuned encoder"]
    assert re.search(r"^fine-tuned encoder .*, not told apart;", shown["costs"], re.MULTILINE)
    says("its loss fell to nothing, and the loss on held-out rows rose from the first look to the last")
    looks = re.findall(r"loss ([\d.]+), validation ([\d.]+)", shown["verdict-code"])
    assert float(looks[-1][0]) < 0.01 and float(looks[-1][1]) > float(looks[0][1])
    says("The base that is only told the labels, or shown a few examples, is far behind all that were trained")
    trained = ("TF-IDF", "frozen encoder", "fine-tuned encoder", "QLoRA")
    assert max(score["base"], score["few-shot"]) + 10 < min(score[name] for name in trained)
    gains = {
        name: float(gain) for name, gain in re.findall(r"^(\S.*?) +from .*?([+-][\d.]+) points", shown["doublings"], re.M)
    }
    says("the last doubling had brought several points to each contender that has a curve")
    assert set(gains) == {"TF-IDF", "frozen encoder", "fine-tuned encoder"} and min(gains.values()) > 3
    assert "Too few test rows to tell" in " ".join(shown["rule"].split("Advice.")[1].split())
    says("the goal of four in five lay within the best contender's interval: the score itself was near it")
    low, high, goal = map(float, re.search(r"([\d.]+) to ([\d.]+); goal ([\d.]+)", shown["apply-code"]).groups())
    assert (
        low < goal <= high and abs(max(score.values()) / 100 - goal) < 0.05 and "Next step: test rows" in shown["apply-code"]
    )
