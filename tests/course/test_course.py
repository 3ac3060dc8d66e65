import ast
import os
import re
import subprocess
import sys
import textwrap
import threading

import nbformat
import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.course.content import (
    exercises,
    labs,
    lessons,
    progress_rows,
    quiz,
    read_lesson_file,
    right_answers,
    wrong_answers,
)
from ftkit.course.exercise import NOT_ATTEMPTED, RIGHT, WRONG
from ftkit.course.notebooks import solved
from ftkit.course.progress import progress_file, read_progress
from ftkit.models.catalog import PACKAGE
from tests.command import ftkit, refused
from tests.course.learner import ALL, PARTS, learner, value_of


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))


def test_the_first_lessons_have_the_exercises_and_questions_that_they_should():
    counts = {lesson: len(list(exercises(lesson))) for lesson in lessons()}
    assert counts["01"] >= 5 and counts["02"] >= 6
    assert all(len(quiz(lesson).questions) >= 4 for lesson in lessons())
    assert sum(counts.values()) >= 30
    assert sum(len(quiz(lesson).questions) for lesson in lessons()) >= 25
    for lesson in PARTS:
        names = [exercise.name for exercise in exercises(lesson)]
        assert list(wrong_answers(lesson)) == list(right_answers(lesson)) == names, lesson


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.key)
def test_the_solution_of_an_exercise_is_right(exercise, capsys):
    names = learner()
    exec(exercise.solution_code, names)
    assert exercise.judge(names[exercise.answer]) == (RIGHT, exercise.praise)
    exercise.check(names[exercise.answer])
    assert capsys.readouterr().out.startswith("Right")
    assert read_progress()["exercises"][exercise.key]["solved"]


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.key)
def test_an_untouched_exercise_is_not_attempted_and_does_not_stop_the_notebook(exercise, capsys):
    names = learner()
    exec(exercise.start, names)
    assert exercise.judge(names[exercise.answer])[0] == NOT_ATTEMPTED
    names["q"] = exercises(exercise.key.split(".")[0])
    exec(exercise.cell(), names)  # the very cell of the notebook
    assert capsys.readouterr().out.startswith("Not attempted")
    assert exercise.key not in read_progress()["exercises"]


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.key)
def test_typical_wrong_answers_get_their_own_messages(exercise):
    messages = set()
    for wrong in wrong_answers(exercise.key.split(".")[0])[exercise.name]:
        state, message = exercise.judge(value_of(exercise, wrong.code))
        assert state == WRONG, (wrong, state)
        assert wrong.message in message, (wrong, message)
        messages.add(message)
    assert len(messages) >= 2


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.key)
def test_an_exercise_has_growing_hints_a_short_cell_and_one_placeholder_to_fill(exercise, capsys):
    assert 2 <= len(exercise.hints) <= 3 and len(set(exercise.hints)) == len(exercise.hints)
    assert "..." in exercise.start and "..." not in exercise.solution_code
    assert len(exercise.cell().splitlines()) <= 20 and len(exercise.cell(solved=True).splitlines()) <= 20
    for number in [*range(1, len(exercise.hints) + 1), len(exercise.hints)]:
        exercise.hint()
        assert capsys.readouterr().out.startswith(f"Hint {number} of {len(exercise.hints)}")
    exercise.solution()
    assert ast.parse(capsys.readouterr().out)


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.key)
@pytest.mark.parametrize(
    "answer", [None, 7, "text", [], {}, lambda *a: None, lambda: 1, lambda *a: "x", lambda *a: object()]
)
def test_nothing_that_a_learner_may_hand_in_stops_the_notebook(exercise, answer):
    state, message = exercise.judge(answer)
    assert state == WRONG and message


def test_a_placeholder_deep_in_an_answer_or_in_a_computation_is_not_attempted():
    q = exercises("02")
    assert q.repairs.judge({"HTML around the text": "mend", "an empty message": ...})[0] == NOT_ATTEMPTED
    assert q.split.judge(lambda rows, groups, share: (rows, ...))[0] == NOT_ATTEMPTED
    assert q.mask.judge(lambda prompt, completion: [-100] + ...)[0] == NOT_ATTEMPTED
    assert q.room.judge(...)[0] == NOT_ATTEMPTED


def test_a_check_does_not_let_a_function_change_its_inputs():
    def greedy(prompt_ids, completion_ids):
        labels = [-100] * len(prompt_ids) + list(completion_ids)
        prompt_ids.clear()
        completion_ids.clear()
        return labels

    assert exercises("02").mask.judge(greedy)[0] == RIGHT


def test_a_call_instead_of_the_function_is_told():
    state, message = exercises("02").mask.judge([-100, 1])
    assert state == WRONG and "q.mask.check(mask)" in message


def test_an_unknown_exercise_names_the_known_ones():
    with pytest.raises(AttributeError, match="mask"):
        exercises("02").musk  # noqa: B018
    with pytest.raises(KitError, match="Lessons: 00"):
        exercises("99")


def test_once_solved_stays_solved_and_tries_and_hints_are_counted():
    q = exercises("00")
    q.road.check(["model"])
    q.road.hint()
    names = {}
    exec(q.road.solution_code, names)
    q.road.check(names["road"])
    first = read_progress()["exercises"]["00.road"]
    q.road.check([])
    after = read_progress()["exercises"]["00.road"]
    assert first["tries"] == 2 and after["tries"] == 3 and after["solved"] == first["solved"] and after["hints"] == 1
    row = progress_rows()[0]
    assert (row["lesson"], row["solved"], row["tried"]) == ("00", 1, 1)


def test_progress_from_many_threads_is_complete():
    def work(lesson):
        for exercise in exercises(lesson):
            exercise.check([])

    threads = [threading.Thread(target=work, args=(lesson,)) for lesson in PARTS for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = read_progress()["exercises"]
    assert {key: entry["tries"] for key, entry in kept.items()} == {exercise.key: 3 for exercise in ALL}


def test_a_broken_progress_file_is_told_and_does_not_stop_the_notebook(capsys):
    progress_file().parent.mkdir(parents=True)
    progress_file().write_text("{", encoding="utf-8")
    exercises("00").road.check(["model"])
    said = capsys.readouterr().out
    assert said.startswith("Not yet") and "not saved" in said
    assert progress_file().read_text(encoding="utf-8") == "{"
    assert refused(ftkit("progress"), "progress.json", "Delete it")


def test_the_command_line_shows_the_progress():
    names = {}
    exec(exercises("00").road.solution_code, names)
    exercises("00").road.check(names["road"])
    quiz("00").answer(1, "b")
    done = ftkit("progress")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if " 00 " in line)
    assert re.search(r"1 of 2.*1 of 4", line)
    assert all(f" {lesson} " in done.stdout for lesson in lessons())


GOOD_FILE = """
[[questions]]
asks = "Why?"
options = [{text = "So.", because = "it is so.", right = true}, {text = "No.", because = "it is not."}]
[[wrong_answers.name]]
code = "return 1"
message = "not 1"
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('asks = "Why?"', 'asks = "Why?', "is not valid TOML: .* line 3.* Correct that line"),
        ('asks = "Why?"', "", "questions, number 1, asks: Field required. Correct that entry"),
        (", right = true", "", "questions, number 1, options: .*exactly one of the options needs right = true"),
        ('because = "it is not."', 'becuase = "it is not."', "questions, number 1, options, number 2, because"),
        ("code =", "answer =", "wrong_answers, name, number 1, code: Field required"),
    ],
)
def test_a_broken_lesson_file_is_refused_with_the_place(tmp_path, old, new, words):
    path = tmp_path / "lesson42.toml"
    path.write_text(GOOD_FILE, encoding="utf-8")
    assert read_lesson_file(path).questions[0].letters()["a"].right
    assert GOOD_FILE.count(old) == 1
    path.write_text(GOOD_FILE.replace(old, new), encoding="utf-8")
    with pytest.raises(KitError, match=f"lesson42.toml.*{words}"):
        read_lesson_file(path)


@pytest.mark.parametrize("lesson", PARTS)
def test_a_notebook_hands_out_its_exercises_untouched_and_solved_fills_them_in(lesson):
    (path,) = (kit_root() / "notebooks").glob(f"labs/{lesson}.ipynb" if lesson in labs() else f"{lesson}_*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for exercise in exercises(lesson):
        assert exercise.cell() in sources, f"{exercise.key}: run notebooks/refresh.py"
    filled = solved(notebook)
    after = [cell.source for cell in filled.cells if cell.cell_type == "code"]
    for exercise in exercises(lesson):
        assert exercise.cell(solved=True) in after and exercise.cell() not in after
    assert notebook != filled and "exercises(" in "".join(sources)
    assert f'quiz("{lesson}")' in "".join(sources)


# --- the first cell, on Colab and elsewhere ---

FAKE_PIP = """
import importlib.metadata, os, pathlib, shutil, sys
with open(os.environ["PIP_CALLS"], "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "uninstall":
    for path in pathlib.Path(os.environ["FAKE_SITE"]).glob("torchao*"):
        shutil.rmtree(path)
"""


def first_cell_in(tmp_path, colab, torchao=None, before=""):
    """(standard output, calls of pip) of the notebooks' first cell, run as its own process; pip is a stand-in."""
    from ftkit.course.colab import first_cell

    site = tmp_path / "site"
    (site / "pip").mkdir(parents=True)
    (site / "pip" / "__init__.py").write_text("", encoding="utf-8")
    (site / "pip" / "__main__.py").write_text(FAKE_PIP, encoding="utf-8")
    if torchao:
        (site / "torchao").mkdir()
        (site / "torchao" / "__init__.py").write_text(f"__version__ = {torchao!r}", encoding="utf-8")
        (site / f"torchao-{torchao}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: torchao\nVersion: {torchao}\n"
        (site / f"torchao-{torchao}.dist-info" / "METADATA").write_text(text, encoding="utf-8")
    calls = tmp_path / "calls"
    calls.touch()

    environment = {key: value for key, value in os.environ.items() if key != "COLAB_RELEASE_TAG"}
    environment |= {"PYTHONPATH": f"{site}{os.pathsep}{kit_root()}", "PIP_CALLS": str(calls), "FAKE_SITE": str(site)}
    environment |= {"COLAB_RELEASE_TAG": "release-colab"} if colab else {}
    code = textwrap.dedent(before) + "\n" + first_cell()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout, calls.read_text().splitlines()


def test_on_a_machine_of_your_own_the_first_cell_does_nothing(tmp_path):
    assert first_cell_in(tmp_path, colab=False, torchao="0.1.0") == ("", [])


def test_on_colab_the_first_cell_installs_at_a_tag_and_holds_torch_where_it_is(tmp_path):
    said, calls = first_cell_in(tmp_path, colab=True)
    assert len(calls) == 2 and re.search(r"^install --quiet ftkit @ git\+https://\S+@v[\d.]+ torch==", calls[0])
    assert calls[1] == f"install --quiet --no-deps {PACKAGE}"  # the base that the kit's own run belongs to
    assert calls[0].endswith(f"torch=={torch.__version__}")
    assert "No restart" in said


def test_on_colab_a_torchao_that_peft_refuses_is_removed_and_a_good_one_stays(tmp_path):
    said, calls = first_cell_in(tmp_path / "old", colab=True, torchao="0.1.0")
    assert calls[2].startswith("uninstall") and "torchao" in calls[2] and "Removed torchao" in said
    said, calls = first_cell_in(tmp_path / "new", colab=True, torchao="99.0.0")
    assert len(calls) == 2 and "Removed" not in said


def test_on_colab_a_package_imported_before_its_upgrade_asks_for_a_restart(tmp_path):
    before = """
        import sys, types
        old = types.ModuleType("datasets")
        old.__version__ = "0.0.1"
        sys.modules["datasets"] = old
    """
    said, _ = first_cell_in(tmp_path, colab=True, before=before)
    assert "datasets had been imported" in said and "Restart session" in said


def test_every_notebook_is_as_refresh_would_leave_it():
    done = subprocess.run(
        [sys.executable, kit_root() / "notebooks" / "refresh.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
