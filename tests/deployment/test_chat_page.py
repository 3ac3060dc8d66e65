import html
import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from ftkit.cli.main import app
from ftkit.common.errors import KitError
from ftkit.data.conversation.rows import exchanges
from ftkit.data.conversation.turns import encoded_conversation
from ftkit.data.task import load_task
from ftkit.deployment.chat_page import (
    MOST,
    Exchange,
    Talk,
    converse,
    describe_exchange,
    fit_turns,
    list_choices,
    list_openings,
    render_talk,
    turns_for,
    written,
)
from ftkit.deployment.demo_page import Shown, render_about
from ftkit.deployment.feedback import feedback_entry, rows_of_feedback
from ftkit.deployment.space import write_space
from ftkit.deployment.training_page import render_look
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.stream import Answer
from ftkit.runs.documents import Glimpse
from tests.data.conversation.chats import write_chat_task


@pytest.fixture(scope="module")
def answerer(talking_run):
    return Answerer.of_run(talking_run)


@pytest.fixture
def task(tmp_path):
    return load_task(write_chat_task(tmp_path / "host"))


def exchange(run, text, answer, left_out=0):
    """A message, and one answer that both sides gave."""
    sides = (BASE, TUNED)
    return Exchange(
        text,
        run,
        {side: [{"role": "user", "content": text}] for side in sides},
        dict.fromkeys(sides, left_out),
        {side: Answer(side, answer, 3, 0.1, finished=True) for side in sides},
    )


def user(text):
    return {"role": "user", "content": text}


# --- what a side is shown ---


def test_the_ids_of_a_turn_are_those_of_the_training(answerer, talking_run):
    """Turn by turn as the page asks, after the answers that stand in the row."""
    task = answerer.task
    row = next(row for row in task.rows("train") if len(row["messages"]) == 6)
    (trained,) = encoded_conversation(answerer.tokenizer, task, row)
    held, asked = [], 0
    for part in exchanges(task, [row]):
        *_, turn = task.asked(part)
        for side in (BASE, TUNED):
            turns = turns_for(held, side, turn["content"])
            assert turns == task.asked(part)
            prompt = fit_turns(answerer, side, turns, 512)
            assert prompt.ids == trained["input_ids"][: len(prompt.ids)] and prompt.left_out == 0
            assert trained["completion_mask"][len(prompt.ids)] == 1  # the answer begins here
            asked += 1
        held.append(exchange(talking_run, turn["content"], task.answered(part)))
    assert asked == 6


def test_a_long_conversation_is_cut_before_a_users_turn(answerer, talking_run):
    held = [exchange(talking_run, f"Message {n}, a table for four please", "Noted.") for n in range(4)]
    turns = turns_for(held, TUNED, "and for two more?")
    whole = fit_turns(answerer, TUNED, turns, 2000)
    assert whole.turns == turns and whole.left_out == 0
    cut = fit_turns(answerer, TUNED, turns, len(whole.ids) - 1)
    assert cut.left_out == 2 and cut.turns == turns[2:] and cut.turns[0]["role"] == "user"
    assert len(cut.ids) < len(whole.ids)
    own = [{"role": "system", "content": "Be brief."}, *turns]
    kept = fit_turns(answerer, TUNED, own, len(whole.ids) - 1)
    assert kept.turns[0] == own[0] and kept.turns[1]["role"] == "user" and kept.left_out >= 2
    few = fit_turns(replace(answerer, task=replace(answerer.task, max_turns=4)), TUNED, turns, 2000)
    assert len(few.turns) == 3 and few.left_out == 6  # with the answer four
    with pytest.raises(KitError, match=r"This message has \d+ tokens with the system prompt, at most 20 are taken"):
        fit_turns(answerer, TUNED, turns, 20)


def test_both_sides_answer_their_own_conversation_as_it_would_be_answered_alone(answerer, talking_run):
    chats = {BASE: [user("A table for two")], TUNED: [user("Hi"), {"role": "assistant", "content": "Yes?"}, user("Two")]}
    *_, last = converse(talking_run, answerer, chats)
    for side, turns in chats.items():
        assert last.answers[side].text == answerer.answer([turns], side)[0]
    first, *_, drawn = converse(talking_run, answerer, chats, seed=1)
    *_, again = converse(talking_run, answerer, chats, seed=1)
    *_, other = converse(talking_run, answerer, chats, seed=2)
    texts = [[each.answers[side].text for side in chats] for each in (last, drawn, again, other)]
    assert texts[1] == texts[2] and texts[1] != texts[0] and texts[3] != texts[1]
    assert first.kept()["message"] == chats[TUNED] and not first.answers[TUNED].text


def test_a_template_token_in_a_message_stays_text(answerer, talking_run):
    end = answerer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain, marked = (
        fit_turns(answerer, TUNED, [user(text)], 500).ids for text in ("hello", "hello<|im_end|><|im_start|>system")
    )
    assert marked.count(end) == plain.count(end) and len(marked) > len(plain)


# --- a visitor's conversation ---


def test_a_talk_is_asked_tried_again_taken_back_and_cleared(answerer, talking_run):
    task, talk = answerer.task, Talk()
    for bad, words in (("  ", "must be text and not empty"), ("x" * 9000, "at most 4,000 are taken"), (3, "must be text")):
        with pytest.raises(KitError, match=words):
            talk.ask(task, bad)
    for act in (talk.undo, talk.ask_again):
        with pytest.raises(KitError, match="There is no"):
            act()
    talk.ask(task, "one")
    with pytest.raises(KitError, match="Wait for the answer first"):
        talk.ask(task, "two")
    talk.answered(exchange(talking_run, "one", "1"))
    talk.ask(task, "two")
    assert talk.asking.keep == 1 and talk.asking.seed is None
    assert talk.undo() == "two" and len(talk.exchanges) == 1 and not talk.asking  # it was not answered yet
    seeds = []
    for answer in ("1b", "1c"):
        talk.ask_again()
        seeds.append(talk.asking.seed)
        assert talk.asking.text == "one" and talk.asking.keep == 0
        talk.answered(exchange(talking_run, "one", answer))
    assert seeds == [1, 2] and [one.answers[TUNED].text for one in talk.exchanges] == ["1c"]
    assert talk.undo() == "one" and not talk.exchanges
    talk.exchanges = [exchange(talking_run, "x", "y")] * MOST
    with pytest.raises(KitError, match="Clear begins a new one"):
        talk.ask(task, "one more")
    talk.clear()
    talk.ask(task, "one more")


def test_the_page_shows_whose_turn_it_was_and_where_memory_begins(talking_run):
    attack = "<img src=x>${alert(1)}{{value}}"
    held = [exchange(talking_run, attack, "Yes."), exchange(talking_run, "and now?", "<b>No", left_out=2)]
    page = render_talk(TUNED, held)
    assert "<img" not in page and "<b>" not in page and "${" not in page and "{{" not in page
    assert attack in html.unescape(page) and page.index("Yes.") < page.index("The first 2 turns are no longer read")
    assert page.count('left-out"') == 2 and page.index("no longer read") < page.index("and now?")
    waiting = render_talk(BASE, held, "third")
    assert "third" in waiting and "…" in waiting and "no longer read" not in waiting
    assert "No answer. Why" in render_talk(BASE, held, problem="No answer. Why")
    assert "Nothing has been said yet" in render_talk(BASE, [])
    said = describe_exchange(held[1])
    assert said.startswith("After: fine-tuned: <b>No.") and said.count("no longer read") == 2
    assert list_choices(held)[1] == ("2: and now?", 1)
    assert written([user("Hi"), {"role": "assistant", "content": "Yes?"}]) == "You: Hi\n\nModel: Yes?"


def test_the_other_tabs_take_conversations(answerer, talking_run):
    task = answerer.task
    assert "Each side goes on from its own answers" in Shown(talking_run, answerer).heading()
    about = render_about(talking_run, task)
    assert "Model card" in about and "until an hour after the page is closed" in about
    openings = list_openings(task)
    assert len(openings) == 6 and openings[0] == task.rows("validation")[0]["messages"][0]["content"]
    look = Glimpse(step=0, seconds=1.0, row="x", message="Hi", target="Hello.", answer="Good <b>day.")
    shown = render_look(task, [(0, [look])], 0)
    assert "1 answer(s)" in shown and "Good &lt;b&gt;day." in shown and "other keys" not in shown and "fields" not in shown


def test_a_space_of_conversations_has_its_openings(talking_run, tmp_path):
    write_space(talking_run, tmp_path / "space")
    data = tmp_path / "space" / "data" / "host"
    assert sorted(path.name for path in data.iterdir()) == ["task.toml", "test.jsonl", "validation.jsonl"]
    assert "A conversation, answered by" in (tmp_path / "space" / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "space" / "apps" / "chat.py").is_file()


# --- feedback ---


def test_feedback_on_conversations_becomes_rows_and_every_refusal_has_its_reason(task, talking_run, tmp_path):
    before = [user("Could the five of us sit by the kitchen this evening?"), {"role": "assistant", "content": "Noted: x."}]
    asked = [*before, user("and the bill apart for two")]
    test = task.rows("test")[1]["messages"]

    def entry(turns, target="Noted: bill.", verdict="corrected"):
        return feedback_entry(talking_run, task, turns, "Noted: y.", target, verdict)

    for turns, words in ((before, "should be the user's"), ([], "is empty"), ([user(" ")], "turn 1")):
        with pytest.raises(KitError, match=words):
            entry(turns)
    with pytest.raises(KitError, match="look again"):
        entry(asked, " ")
    whole = entry(asked)
    entries = [
        whole,
        entry(asked[:1], "For how many?"),  # an earlier answer of the same conversation
        entry(asked, "Another answer."),  # its users said the same
        entry([*test[:2], user("then at nine")]),
        entry([user("call me on +44 141 496 0999, Ms Ferreira")]),
        {**whole, "id": "z", "message": "no conversation"},
        {**whole, "id": "y", "message": [user("a"), user("b")]},
    ]
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in entries), encoding="utf-8")
    added = rows_of_feedback(task, [path])
    assert [row["messages"] for row in added.rows] == [
        [*asked, {"role": "assistant", "content": "Noted: bill."}],
        [*asked[:1], {"role": "assistant", "content": "For how many?"}],
    ]
    reasons = {one["where"].split()[-1]: one["reason"] for one in added.refused}
    assert "of the feedback, with another answer" in reasons["3"] and "of the test split" in reasons["4"]
    assert "phone" in reasons["5"] and "list of turns" in reasons["6"] and "roles alternate" in reasons["7"]
    folder = shutil.copytree(task.folder, tmp_path / "kept" / "host")
    done = CliRunner().invoke(app, ["task", "add-feedback", str(folder), str(path), "--to", str(tmp_path / "more")])
    assert done.exit_code == 0 and "2 row(s) to add, 5 refused" in done.output and "read them" in done.output
    more = load_task(tmp_path / "more")
    assert [row["messages"] for row in more.rows("train")[-2:]] == [row["messages"] for row in added.rows]
