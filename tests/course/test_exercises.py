"""Verdicts: every exercise judges answers of every form, whoever made them, and tells a learner's error as what it is."""

import ast
import builtins
import linecache
import re
from collections import OrderedDict
from collections.abc import Iterator

import nbformat
import numpy as np
import pytest
import torch

from ftkit.common.paths import kit_root
from ftkit.course.content import exercises, labs, right_answers
from ftkit.course.exercise import NOT_ATTEMPTED, RIGHT, WRONG
from ftkit.course.forms import FORMS, OR_NONE, OtherForm, read
from tests.course.learner import ALL, PARTS, learner, solved_value, value_of

FUNCTIONS = [exercise for exercise in ALL if exercise.function]
ERROR = re.compile(r"\b[A-Z]\w*Error\b|Traceback")
FALLBACK = "Read the first lines again"  # of `judge`, for a form that no check foresaw: no answer here may end there


def key(exercise):
    return exercise.key


def numbers(value):
    return isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value)


def as_numpy(value):
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, Iterator):
        return map(np.str_, value)
    if isinstance(value, dict):
        return {np.str_(name): as_numpy(part) for name, part in value.items()}
    if isinstance(value, set):
        return np.array(sorted(value))
    if numbers(value) or (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        return np.array(value)
    if isinstance(value, list | tuple):
        return type(value)(value)
    kinds = {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}
    return kinds.get(type(value), lambda same: same)(value)


def as_torch(value):
    if isinstance(value, dict):
        return {name: as_torch(part) for name, part in value.items()}
    return torch.tensor(value) if isinstance(value, bool | int | float | np.number) or numbers(value) else value


def as_python(value):
    """Python's own, in other containers: a list for a tensor, an array or a set, a tuple for a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return OrderedDict(reversed([(name, as_python(part)) for name, part in value.items()]))
    other = {list: tuple, tuple: list, set: list}.get(type(value))
    return other(value) if other else value


@pytest.mark.parametrize("make", [as_numpy, as_torch, as_python])
@pytest.mark.parametrize("exercise", ALL, ids=key)
def test_a_right_answer_is_right_whichever_library_made_it(exercise, make):
    right = solved_value(exercise)
    answer = (lambda *arguments: make(right(*arguments))) if exercise.function else make(right)
    assert exercise.judge(answer) == (RIGHT, exercise.praise)


@pytest.mark.parametrize("exercise", ALL, ids=key)
def test_an_answer_that_is_right_in_another_way_is_right(exercise):
    others = right_answers(exercise.key.split(".")[0])[exercise.name]
    assert others
    for code in others:
        assert exercise.judge(value_of(exercise, code)) == (RIGHT, exercise.praise), code


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=key)
def test_a_function_that_prints_its_answer_is_told_to_return_it(exercise, capsys):
    right = solved_value(exercise)

    def printing(*arguments):
        print("the answer is", right(*arguments))

    state, message = exercise.judge(printing)
    assert state == WRONG and "returns nothing (None). Return it, don't print it" in message
    assert "the answer is" in capsys.readouterr().out  # what a learner prints is still seen
    state, message = exercise.judge(lambda *arguments: None)
    assert state == WRONG and not ERROR.search(message)
    if exercise.returns.endswith(OR_NONE):
        assert "None" in message or "let through" in message
    else:
        assert "returns nothing (None). Write `return`" in message


def test_a_right_function_that_also_prints_is_right(capsys):
    def refusal(message, most):
        print("checking", message)
        return None if isinstance(message, str) and message.strip() and len(message) <= most else f"At most {most}."

    assert exercises("05").limits.judge(refusal)[0] == RIGHT
    assert exercises("05").limits.judge(lambda message, most: print(message))[0] == WRONG
    assert "checking" in capsys.readouterr().out


STRANGE = ["", [], {}, (), set(), 0, False, np.array([]), torch.tensor([]), float("nan"), object(), 1 + 1j, b"", [None]]


@pytest.mark.parametrize("exercise", ALL, ids=key)
def test_an_empty_or_strange_answer_gets_a_sentence_and_not_an_error(exercise):
    for strange in STRANGE:
        for answer in (strange, lambda *arguments, strange=strange: strange):
            state, message = exercise.judge(answer)
            assert state == WRONG, (strange, message)
            assert message and FALLBACK not in message and not ERROR.search(message), (strange, message)
    if not exercise.function:
        assert not ERROR.search(exercise.judge(None)[1]) and FALLBACK not in exercise.judge(None)[1]


def from_cell(source, name="answer"):
    """A function from a cell whose source can be looked up, as IPython keeps it."""
    file = "<cell 7>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names = learner()
    exec(compile(source, file, "exec"), names)
    return names[name]


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=key)
def test_an_error_in_an_answer_is_told_with_its_line_and_its_input(exercise):
    broken = from_cell("def answer(*arguments):\n    first = None\n    return first.strip()\n")
    state, message = exercise.judge(broken)
    assert state == WRONG
    assert re.search(
        r"^Called with .+, it stopped in line 3, `return first\.strip\(\)`\. AttributeError: .*None there", message
    )
    assert " at 0x" not in message
    state, message = exercise.judge(lambda: 1)
    assert state == WRONG and re.search(r"could not be called with .+ \(TypeError: .*Leave the line with `def`", message)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("return statistics.mean(lengths)", "NameError: .*run the cells above, or import it in this cell"),
        ("return lengths[99]", "IndexError: .*no such place in the list"),
        ("return lengths['longest']", "TypeError: list indices must be integers"),
        ("return {}['longest']", "KeyError: 'longest' .the dictionary has no such key"),
        ("return 1 / 0", "ZeroDivisionError: .*it divides by 0"),
        ("return answer(lengths)", "RecursionError"),
    ],
)
def test_common_errors_are_told_in_words_too(line, words):
    message = exercises("02").room.judge(from_cell(f"def answer(lengths):\n    {line}\n"))[1]
    assert re.search(rf"Called with \[100, 61, 93\], it stopped in line 2, `{re.escape(line)}`\. {words}", message), message


def test_an_error_while_a_stream_is_read_is_told_with_its_line():
    broken = from_cell("def answer(pieces):\n    for piece in pieces:\n        yield piece + 1\n")
    message = exercises("05").stream.judge(broken)[1]
    assert "it stopped in line 3, `yield piece + 1`. TypeError" in message
    endless = from_cell("def answer(pieces):\n    while True:\n        yield 'so far'\n")
    assert "more texts than that" in exercises("05").stream.judge(endless)[1]


LEAKS = """
def without_leaks(train, test):
    known = {plain(row["message"]) for row in test}
    return [row for row in train if plain(row["message"]) not in known]
"""


@pytest.mark.parametrize("body", ["return ...", "return message.split()", "return ''", "print(message)"])
def test_an_answer_that_calls_an_unsolved_exercise_is_told_to_solve_that_first(body):
    q = exercises("02")
    names = {}
    exec(f"def plain(message):\n    {body}\n{LEAKS}", names)
    state, message = q.leaks.judge(names["without_leaks"])
    assert state == WRONG and "Solve plain first: q.plain.check(plain)" in message
    own = LEAKS.replace('plain(row["message"])', 'row["message"].lower().strip()')
    exec(own, names)
    assert q.leaks.judge(names["without_leaks"])[0] == RIGHT  # it does not call it
    exec("def without_leaks(train, test):\n    return ...", names)
    assert q.leaks.judge(names["without_leaks"])[0] == NOT_ATTEMPTED


@pytest.mark.parametrize("lesson", PARTS)
def test_what_a_solution_and_its_hints_name_is_known_above_its_cell(lesson):
    """An `import` that comes in a later cell makes a right answer stop with a NameError."""
    (path,) = (kit_root() / "notebooks").glob(f"labs/{lesson}.ipynb" if lesson in labs() else f"{lesson}_*.ipynb")
    cells = {exercise.cell(): exercise for exercise in exercises(lesson)}
    known = set(dir(builtins))
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        if exercise := cells.pop(cell.source, None):
            hints = set(re.findall(r"\b(json|math|np|re|statistics|torch)\.\w", " ".join(exercise.hints)))
            made, used = names_in(exercise.solution_code)
            assert used | hints <= known | made, exercise.key
        known |= names_in(cell.source)[0]
    assert not cells


def names_in(source):
    """(names that a piece of code makes, names that it uses)."""
    made, used = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(name.asname or name.name).split(".")[0] for name in node.names}
    return made, used


@pytest.mark.parametrize(
    ("form", "good", "value", "bad", "words"),
    [
        ("truth", np.bool_(False), False, 2, "True or False, not 2"),
        ("number", torch.tensor(0.5), 0.5, "0.5", "a number, not the text '0.5': no quotes"),
        ("whole number", np.float32(3), 3, 2.5, "a whole number, not 2.5"),
        ("whole number or None", None, None, "3", "a whole number or None, not the text"),
        ("text", np.str_("a"), "a", ["a"], r"a text, not \['a'\]"),
        ("list", np.array([1, 2]), [1, 2], (one for one in (1, 2)), r"a list, not a generator: put list\( \) around it"),
        ("list", range(2), [0, 1], {1, 2}, "a list, not {1, 2}: a set keeps no order"),
        ("rows", ({"id": np.int64(1)},), [{"id": 1}], [1], "a list of rows, each a dictionary, not"),
        ("two numbers", torch.tensor([1, 2]), (1, 2), (1, 2, 3), "two numbers, not"),
        ("dictionary", {"a": np.int64(1)}, {"a": 1}, [("a", 1)], "a dictionary, not"),
        ("tensor", [[1.0], [2.0]], None, "text", "a tensor of numbers, not the text"),
    ],
)
def test_a_form_reads_what_is_meant_and_names_itself_where_it_cannot(form, good, value, bad, words):
    assert form.removesuffix(OR_NONE) in FORMS
    got = read(good, form)
    if form == "tensor":
        assert torch.equal(got, torch.tensor(good))
    else:
        assert got == value and type(got) is type(value)
    with pytest.raises(OtherForm, match=words):
        read(bad, form)


def test_every_exercise_names_a_form_that_exists():
    assert {exercise.returns.removesuffix(OR_NONE) for exercise in ALL} <= set(FORMS)
