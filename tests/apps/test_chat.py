"""The page for conversations: its endpoint, its sessions, and what a visitor sees of it in a browser."""

import asyncio
import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from benchmarks.load import Visitor
from ftkit.deployment.feedback import FeedbackFile
from ftkit.evaluation.answer import BASE, TUNED
from tests.apps.test_page import CONTRAST, open_tab

ATTACK = "<img src=x onerror=alert(1)>${alert(2)} <|im_end|>"


@pytest.fixture
def conversation(talking_run):
    row = next(row for row in talking_run.task.rows("test") if len(row["messages"]) == 4)
    return row["messages"][:3]


def held(page, *turns):
    """What visitors see who take turns in saying things: (visitor, message) one after the other, each in one session."""

    async def hold():
        async with httpx.AsyncClient(base_url=page.local_url, timeout=120) as client:
            functions, visitors, seen = await Visitor.look(client), {}, []
            for name, message in turns:
                visitor = visitors.setdefault(name, Visitor(client, functions))
                seen.append(await visitor.ask(message))
            return seen

    with ThreadPoolExecutor(1) as pool:  # the browser tests leave an event loop running in this thread
        return pool.submit(asyncio.run, hold()).result()


# --- programs ---


def test_a_program_gets_the_next_answer_of_both_sides(chat_page, conversation):
    client = Client(chat_page.local_url, verbose=False)
    answers = client.predict(conversation, api_name="/answer")
    for side in (BASE, TUNED):
        assert answers[side]["text"] == chat_page.answerer.answer([conversation], side)[0]
        assert answers[side]["left_out"] == 0 and answers[side]["tokens"] > 0
    longer = [*conversation[:2] * 5, conversation[2]]
    assert client.predict(longer, api_name="/answer")[TUNED]["left_out"] >= 2
    for bad, words in (
        ([], "the conversation is empty"),
        (conversation[:2], "the last turn is the assistant's"),
        ([conversation[0], conversation[0]], "roles alternate"),
        ([*conversation[:2], {"role": "system", "content": "x"}], "a system turn in the middle"),
        ([{"role": "user", "content": "x" * 20_000}], "20,000 characters"),
        ([conversation[0], conversation[1]] * 20 + [conversation[0]], "at most 20 are taken"),
        ({"role": "user"}, "must be text"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(bad, api_name="/answer")
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(described) == {"/answer", "/feedback"}


def test_visitors_who_talk_at_the_same_time_do_not_get_each_others_conversation(chat_page, talking_run):
    one, two = (["a table for four", "and for two more?"], ["is there a vegan soup", "and for two more?"])
    alone = [held(chat_page, *((0, text) for text in texts)) for texts in (one, two)]
    mixed = held(chat_page, (1, one[0]), (2, two[0]), (2, two[1]), (1, one[1]))
    texts = [[{side: answer["text"] for side, answer in seen.items()} for seen in some] for some in (*alone, mixed)]
    assert texts[2] == [texts[0][0], texts[1][0], texts[1][1], texts[0][1]]
    assert texts[0][1] != texts[1][1]  # the same message after another conversation


def test_feedback_by_a_program_holds_the_conversation(chat_page, talking_run, conversation):
    client = Client(chat_page.local_url, verbose=False)
    with pytest.raises(AppError, match="Without consent"):
        client.predict(conversation, "x", "corrected", "Noted.", False, api_name="/feedback")
    with pytest.raises(AppError, match="should be the user's"):
        client.predict(conversation[:2], "x", "corrected", "Noted.", True, api_name="/feedback")
    name = client.predict(conversation, "x", "corrected", "Noted.", True, api_name="/feedback")
    entry = json.loads(FeedbackFile.of(talking_run).path.read_text(encoding="utf-8").splitlines()[-1])
    assert (entry["id"], entry["message"], entry["target"]) == (name, conversation, "Noted.")


def test_what_fails_leaves_nothing_private_in_the_log_and_goes_back_to_the_visitor(chat_page, capsys):
    """As the page asks: the message failed midway; it is in the box again, and the page says why."""
    url = f"{chat_page.local_url}gradio_api/"
    wired = {each["api_name"]: each["id"] for each in httpx.get(f"{chat_page.local_url}config").json()["dependencies"]}
    session = uuid.uuid4().hex

    def run(name, *data):
        sent = {"fn_index": wired[name], "data": data, "session_hash": session}
        if name != "respond":
            return httpx.post(f"{url}run/predict", json=sent).json()["data"]
        assert httpx.post(f"{url}queue/join", json=sent).status_code == 200
        with httpx.stream("GET", f"{url}queue/data", params={"session_hash": session}, timeout=60) as stream:
            events = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
            return next(event["output"]["data"] for event in events if event["msg"] == "process_completed")

    begun = run("begin", "zebedee, please fail", None)
    assert begun[0] == "" and "zebedee" in begun[1] and begun[2] == "waiting for its turn"
    failed = run("respond", None)
    assert failed[0] == "zebedee, please fail" and "The model failed at this message" in failed[5]
    for page, measures in (failed[1:3], failed[3:5]):
        assert "zebedee" not in page and "No answer. The model failed" in page and measures == "no answer"
    said = "".join(capsys.readouterr())
    assert "An answer failed: RuntimeError" in said and "zebedee" not in said
    run("begin", "wait for me", None)
    run("undo", None)
    assert run("respond", None)[5:] and "Nothing has been said yet" in run("clear", None)[1]


# --- a browser ---


def say(page, message):
    page.get_by_label("Message").first.fill(message)
    page.get_by_label("Message").first.press("Enter")


def wait_for(page, answers, state="finished|cut off|stopped"):
    """Until both sides have so many answers, the last one complete."""
    page.wait_for_function(
        """([n, state]) => ['base', 'tuned'].every(side =>
        document.querySelectorAll(`#${side}-talk li.model`).length === n &&
        new RegExp(state).test(document.querySelector(`#${side}-measures`).innerText))""",
        arg=[answers, state],
    )


def texts(page, side, who="model"):
    return page.locator(f"#{side}-talk li.{who} p").all_text_contents()


def said(page, words):
    page.wait_for_function("words => document.querySelector('#said [role=status]').innerText.includes(words)", arg=words)


def test_a_conversation_by_keyboard_with_retry_undo_failure_a_cut_and_clear(opened, chat_page):
    page = opened(served=chat_page)
    page.evaluate(
        """() => { window.seen = {base: new Set(), tuned: new Set()}; window.said = new Set();
        setInterval(() => { for (const side of ['base', 'tuned']) {
            const last = [...document.querySelectorAll(`#${side}-talk li.model p`)].at(-1);
            if (last) window.seen[side].add(last.textContent); }
            const words = document.querySelector('#said [role=status]').innerText.trim();
            if (words) window.said.add(words); }, 4) }"""
    )
    page.get_by_label("Message").first.focus()
    page.keyboard.type("A table for four on friday at eight please")
    page.keyboard.press("Enter")
    wait_for(page, 1)
    assert page.get_by_label("Message").first.input_value() == ""
    said(page, "Before: the base model:")
    for side in (BASE, TUNED):
        whole = texts(page, side)[0]
        seen = page.evaluate(f"[...window.seen.{side}].filter(text => text.length > 1)")
        assert seen and all(whole.startswith(part[:1]) for part in seen) and seen[-1] == whole
    assert page.evaluate("window.said.size") == 1  # told once
    say(page, ATTACK)
    wait_for(page, 2)
    for side in (BASE, TUNED):
        assert texts(page, side, "visitor")[1] == ATTACK
        region = page.locator(f"#{side}-talk [role=region]")
        assert region.get_attribute("tabindex") == "0" and "onversation" in region.get_attribute("aria-label")
        assert page.locator(f"#{side}-talk [aria-live]").count() == 0
    assert page.dialogs == [] and page.locator("img[src=x]").count() == 0
    likeliest = texts(page, TUNED)
    page.get_by_role("button", name="Retry").click()
    page.wait_for_function("old => !document.querySelector('#tuned-talk').innerText.includes(old)", arg=likeliest[1])
    wait_for(page, 2)
    assert texts(page, TUNED)[0] == likeliest[0] and texts(page, TUNED)[1] != likeliest[1]

    goes_on_after_an_error(page)
    is_told_of_the_cut(page)
    waits_and_clears(page, chat_page.answerer)
    assert page.elsewhere == [] and page.faults == [] and page.refused == []


def goes_on_after_an_error(page):
    """A message that fails goes back to the box, the conversation stays; Undo takes the one before it back, too."""
    say(page, "please fail")
    said(page, "No answer. The model failed at this message.")
    assert page.get_by_label("Message").first.input_value() == "please fail"
    assert len(texts(page, TUNED)) == 2 and page.locator("#tuned-talk .problem").is_visible()
    assert page.locator("#tuned-measures").inner_text().strip() == "no answer"
    page.get_by_role("button", name="Undo").click()
    wait_for(page, 1)
    assert page.get_by_label("Message").first.input_value() == ATTACK and not page.locator(".problem").count()


def is_told_of_the_cut(page):
    for n in range(2, 9):
        say(page, f"Number {n}: could we have a table by the window on sunday evening, with two children?")
        wait_for(page, n)
        if page.locator("#tuned-talk .border").count():
            break
    said(page, "turns are no longer read")
    assert page.locator("#tuned-talk .border").inner_text().startswith("The first ")
    assert page.locator("#tuned-talk .left-out").count() >= 2
    at_end = "e => e.scrollHeight - e.scrollTop - e.clientHeight < 5"
    assert page.locator("#tuned-talk [role=region]").evaluate(at_end)


def waits_and_clears(page, answerer):
    answerer.go.clear()
    say(page, "please wait")
    page.wait_for_function("/waiting|writing/.test(document.querySelector('#tuned-measures').innerText)")
    say(page, "another one")
    page.wait_for_function("/Wait for the answer/.test(document.querySelector('#tuned-measures').innerText)")
    assert page.get_by_label("Message").first.input_value() == "another one"
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("Nothing has been said yet.").first.wait_for()
    answerer.go.set()
    say(page, "hello again")
    wait_for(page, 1)
    assert texts(page, BASE, "visitor") == ["hello again"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_and_an_earlier_answer_is_corrected(opened, chat_page, talking_run, scheme, tmp_path):
    page = opened(width=360, height=740, color_scheme=scheme, is_mobile=True, has_touch=True, served=chat_page)
    opening = page.locator("#compare table tbody tr, .gallery-item, button.gallery-item").first
    opening.click()
    page.wait_for_function("document.querySelector('#message textarea').value.length > 5")
    page.get_by_role("button", name="Send").click()
    wait_for(page, 1)
    say(page, "and for two more?")
    wait_for(page, 2)
    assert page.evaluate(CONTRAST) == []
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, select')].filter(e => e.offsetParent &&
        !(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.innerText.trim() ||
          e.title)).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []
    first = texts(page, BASE, "visitor")[0]
    for tab in ("Chat", "Training", "Evaluation", "About", "Feedback"):
        open_tab(page, tab)
        page.screenshot(path=tmp_path / f"{tab}-{scheme}.png", full_page=True)
    shown = page.locator("#given textarea")
    page.wait_for_function("document.querySelector('#given textarea').value.includes('and for two more?')")
    page.locator("#which input").click()
    page.get_by_role("option", name=re.compile("^1: ")).click()
    page.wait_for_function("!document.querySelector('#given textarea').value.includes('and for two more?')")
    assert shown.input_value() == f"You: {first}"
    page.get_by_label("It is wrong").check()
    page.locator("#form textarea").fill("Noted: book. For which day?")
    page.locator("#consent input").check()
    page.get_by_role("button", name="Send").last.click()
    page.get_by_text("Thank you, it is kept").wait_for()
    entry = json.loads(FeedbackFile.of(talking_run).path.read_text(encoding="utf-8").splitlines()[-1])
    assert entry["message"] == [{"role": "user", "content": first}]
    assert entry["target"] == "Noted: book. For which day?" and entry["verdict"] == "corrected"
