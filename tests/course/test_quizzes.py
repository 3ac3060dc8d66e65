"""Quizzes: what they say, how they look, and that a question is not solved without reading it."""

import re
import sys
from collections import Counter
from html import escape

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import BernoulliNB

from ftkit.common.errors import KitError
from ftkit.course.content import quiz
from ftkit.course.progress import progress_file, read_progress
from ftkit.course.quizzes import COLOURS
from tests.course.learner import PARTS

QUESTIONS = [(lesson, n, question) for lesson in PARTS for n, question in enumerate(quiz(lesson).questions, start=1)]
ASKED = [question for _, _, question in QUESTIONS]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))


def right_letter(question):
    return next(letter for letter, option in question.letters().items() if option.right)


@pytest.mark.parametrize(("lesson", "number", "question"), QUESTIONS, ids=lambda value: str(value)[:2])
def test_each_choice_of_a_question_has_an_explanation_of_its_own(lesson, number, question, capsys):
    assert question.asks.endswith("?") and 3 <= len(question.options) <= 4
    reasons = [option.reason() for option in question.options]
    assert len(set(reasons)) == len(reasons)
    for reason in [*reasons, *(option.text for option in question.options)]:
        assert len(reason) > 20 and reason[0].isupper() and reason.endswith(".") and "  " not in reason
    for letter, option in question.letters().items():
        quiz(lesson).answer(number, letter)
        said = capsys.readouterr().out
        assert said.startswith(f"{'✓ Right' if option.right else '✗ Not so'}, your choice: {letter}) ")
        assert all(reason in " ".join(said.split()) for reason in reasons)
        assert said.count("✓ Right") == 1 and max(map(len, said.splitlines())) <= 100


# --- the surface of a question tells nothing ---

WORDS = ["always", "never", "only", "all", "none", "every", "must", "may", "can", "will", "not", "no"]
WORDS += ["as", "because", "more", "most", "but", "so", "then"]


def surface(question):
    """What can be seen of each option without understanding it: [options, features]."""
    texts = [option.text for option in question.options]
    lengths = np.array([len(text) for text in texts])
    rows = []
    for place, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        rank = [(lengths > lengths[place]).sum(), (lengths < lengths[place]).sum()]
        marks = [text.count(mark) for mark in ",:;'"]
        digits = sum(letter.isdigit() for letter in text)
        counts = [words.count(word) for word in WORDS]
        rows.append([place == 0, place == 1, place == 2, *rank, lengths[place] / lengths.mean(), *marks, digits, *counts])
    return np.array(rows, dtype=float)


def words_of(questions):
    """For each question, which of the words of all options stand in each of its options: a list of [options, words]."""
    texts = [[set(re.findall(r"\w+", option.text.lower())) for option in question.options] for question in questions]
    known = sorted(set().union(*(words for options in texts for words in options)))
    return [np.array([[word in words for word in known] for words in options], dtype=float) for options in texts]


def guessed(questions, features, model):
    """How many questions a model gets right from features, each judged by a model that was fitted to all others."""
    answers = [np.array([option.right for option in question.options]) for question in questions]
    hits = 0
    for left_out in range(len(questions)):
        others = [n for n in range(len(questions)) if n != left_out]
        model.fit(np.vstack([features[n] for n in others]), np.concatenate([answers[n] for n in others]))
        hits += int(answers[left_out][model.predict_proba(features[left_out])[:, 1].argmax()])
    return hits


def better_than_chance(hits, questions):
    """The probability of that many hits or more by guessing (one-sided binomial test)."""
    chance = float(np.mean([1 / len(question.options) for question in questions]))
    return binomtest(hits, len(questions), chance, alternative="greater").pvalue


def by_surface(questions):
    return guessed(questions, [surface(question) for question in questions], LogisticRegression(C=0.3, max_iter=500))


def by_length(questions, best):
    """How many questions the longest (`best=max`) or shortest (`best=min`) option gets right; of equals, one is drawn."""
    hits = 0.0
    for question in questions:
        lengths = [len(option.text) for option in question.options]
        chosen = [option.right for option in question.options if len(option.text) == best(lengths)]
        hits += sum(chosen) / len(chosen)
    return round(hits)


def test_neither_length_nor_place_nor_signs_nor_words_tell_the_right_answer():
    assert better_than_chance(by_surface(ASKED), ASKED) > 0.05
    assert better_than_chance(guessed(ASKED, words_of(ASKED), BernoulliNB()), ASKED) > 0.05


@pytest.mark.parametrize("best", [max, min])
def test_the_longest_and_the_shortest_option_are_right_no_more_often_than_chance(best):
    assert better_than_chance(by_length(ASKED, best), ASKED) > 0.05
    lengths = [[len(option.text) for option in question.options] for question in ASKED]
    assert all(max(some) < 1.3 * min(some) for some in lengths), "options of a question should be of like length"


def test_the_right_answers_stand_at_all_places_and_differ_from_question_to_question():
    places = Counter(right_letter(question) for question in ASKED if len(question.options) == 3)
    assert chisquare(list(places.values())).pvalue > 0.3 and len(places) == 3
    for lesson in PARTS:
        assert len({right_letter(question) for question in quiz(lesson).questions}) == 3, lesson


def test_a_quiz_that_gives_itself_away_is_found():
    """The tests above see what they are for: a longer right option, a place, a word."""

    def changed(question, change):
        options = [option.model_copy(update={"text": change(option)}) for option in question.options]
        return question.model_copy(update={"options": tuple(options)})

    some = ASKED[::2]
    longer = [changed(q, lambda option: option.text + " That is so." * option.right) for q in some]
    assert by_length(longer, max) == len(longer) and better_than_chance(by_surface(longer), longer) < 0.001
    worded = [
        changed(q, lambda option: option.text + (" So it is always." if not option.right else " So it is.")) for q in ASKED
    ]
    assert better_than_chance(by_surface(worded), worded) < 0.001
    first = [q.model_copy(update={"options": tuple(sorted(q.options, key=lambda o: not o.right))}) for q in some]
    assert better_than_chance(by_surface(first), first) < 0.001


# --- as text, and as buttons ---


def test_the_quiz_reads_as_text_without_its_answers():
    shown = quiz("01")
    bundle = shown._repr_mimebundle_()
    text = bundle["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert max(map(len, text.splitlines())) <= 100
    for question in shown.questions:
        for option in question.options:
            assert option.text in " ".join(text.split())
            assert option.reason()[:40] not in text
    with pytest.raises(KitError, match="questions 1 to"):
        shown.answer(99, "a")
    with pytest.raises(KitError, match="choices a, b"):
        shown.answer(1, "z")


def test_a_quiz_in_text_counts_what_was_answered_so_far(capsys):
    questions = quiz("03").questions
    for number, question in enumerate(questions, start=1):
        right = right_letter(question)
        quiz("03").answer(number, right if number < 5 else "abc".replace(right, "")[0])
        left = len(questions) - number
        score = f"Score: {min(number, 4)} of 5 right." + (f" Still open: {left}." if left else "")
        assert capsys.readouterr().out.splitlines()[-1] == score
    progress_file().write_text("{", encoding="utf-8")
    quiz("03").answer(1, right_letter(questions[0]))
    assert "Score: 1 of 5 right. Still open: 4." in capsys.readouterr().out  # what cannot be read is not counted


def test_buttons_carry_the_answers_and_say_what_is_right_in_colour_sign_and_word():
    questions = quiz("02").questions
    _, *cards, score, again = quiz("02").widget().children
    assert len(cards) == len(questions)
    for number, (card, question) in enumerate(zip(cards, questions, strict=True), start=1):
        asked, *buttons, said = card.children
        assert escape(question.asks) in asked.value and not said.value
        assert [button.description for button in buttons] == [option.text for option in question.options]
        pressed = number % len(buttons)
        buttons[pressed].click()
        chosen = question.options[pressed]
        assert f"{'✓ Right' if chosen.right else '✗ Not so'}, your choice:" in said.value and 'role="status"' in said.value
        for button, option in zip(buttons, question.options, strict=True):
            assert button.disabled and button.description == f"{'✓' if option.right else '✗'} {option.text}"
            assert escape(option.reason()) in said.value
            assert COLOURS[option.right][0] in said.value
            coloured = option.right or option is chosen
            assert (button.style.button_color == COLOURS[option.right][0]) == coloured
        left = len(questions) - number
        assert (f"Still open: {left}." in score.value) == bool(left)
    right = sum(question.options[n % 3].right for n, question in enumerate(questions, start=1))
    assert f"Score: {right} of {len(questions)} right." in score.value
    again.click()
    assert not score.value and not cards[0].children[-1].value
    assert [button.description for button in cards[0].children[1:-1]] == [option.text for option in questions[0].options]


def test_the_first_and_the_last_choice_are_noted_and_a_solved_question_stays_solved():
    right = right_letter(quiz("02").questions[0])
    wrong = "abc".replace(right, "")
    for letter in (wrong[0], right, wrong[1]):
        quiz("02").answer(1, letter)
    kept = read_progress()["quiz"]["02.1"]
    assert (kept["first"], kept["last"]) == (wrong[0], wrong[1]) and kept["solved"]


def test_a_choice_counts_once_until_the_quiz_is_started_again():
    _, card, *_, score, again = quiz("00").widget().children
    for button in card.children[1:-1]:
        button.click()
    assert "Score: 0 of 4 right." in score.value and read_progress()["quiz"]["00.1"]["last"] == "a"
    again.click()
    card.children[2].click()
    assert "Score: 1 of 4 right." in score.value


def test_where_widgets_are_not_installed_the_quiz_is_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert list(quiz("00")._repr_mimebundle_()) == ["text/plain"]
