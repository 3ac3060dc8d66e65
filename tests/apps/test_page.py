import json
import re

import pytest

from ftkit.common.paths import kit_root
from ftkit.deployment.feedback import FeedbackFile
from tests.conftest import drain

MESSAGE = "A table for four on friday at eight please, one of us cannot eat nuts."


def ask(page, message):
    page.get_by_label("Message").first.fill(message)
    page.get_by_role("button", name="Answer", exact=True).click()


def wait_for_end(page):
    page.wait_for_function(
        "() => ['base', 'tuned'].every(side => /finished|cut off|stopped/.test("
        "document.querySelector(`#${side}-measures`).innerText))"
    )


def texts(page):
    """What stands in the page of both answers as they are written: {side: text}."""
    return {side: page.locator(f"#{side}-text textarea").input_value() for side in ("base", "tuned")}


def widths(page):
    return page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")


def open_tab(page, tab):
    """Open a tab, also one that found no room and stands in a menu; then nothing is wider than the screen."""
    entry = page.get_by_role("tab", name=tab)
    if entry.is_visible():
        entry.click()
    else:
        page.locator(".overflow-menu button").first.click()
        page.locator(".overflow-dropdown button", has_text=tab).click()
    page.wait_for_timeout(300)
    scroll, client = widths(page)
    assert scroll <= client, tab


def test_both_sides_stream_and_the_card_shows_the_fields(opened, moody_page):
    moody_page.answerer.go.clear()
    page = opened(served=moody_page)
    try:
        ask(page, f"{MESSAGE} Please pause.")
        page.wait_for_function("['base', 'tuned'].every(side => document.querySelector(`#${side}-text textarea`).value)")
        parts = texts(page)
        for side in parts:
            assert page.locator(f"#{side}-measures").inner_text().startswith("writing")
    finally:
        moody_page.answerer.go.set()
    wait_for_end(page)
    for side, whole in texts(page).items():
        assert whole.startswith(parts[side].rstrip("\ufffd")) and len(whole) > len(parts[side])
    card = page.locator("#tuned-card").inner_text()
    for part in ("intent", "book", "guests", "4", "day", "friday", "time", "20:00", "allergens", "nuts"):
        assert part in card
    assert "tokens/s" in page.locator("#tuned-measures").inner_text()
    assert page.elsewhere == [] and page.faults == [] and page.refused == []
    kept = page.evaluate("async () => [JSON.stringify(localStorage), (await indexedDB.databases()).map(d => d.name)]")
    assert "friday" not in kept[0] and kept[1] == []  # the next person at this browser reads no messages


def no_answer(page, why):
    """Whether the page says that there is no answer, to the eye and to a screen reader, and holds none of an earlier one."""
    said = "#said [role=status]"
    page.wait_for_function("([said, why]) => document.querySelector(said).textContent.includes(why)", arg=[said, why])
    assert page.locator(said).text_content().startswith("No answer.")
    for side in ("base", "tuned"):
        assert why in page.locator(f"#{side}-card").inner_text()
        assert page.locator(f"#{side}-text textarea").input_value() == ""
        assert page.locator(f"#{side}-measures").inner_text().split("\n")[0] == "no answer"
    page.get_by_role("tab", name="Feedback").click()
    assert page.locator("#given textarea").input_value() == ""
    page.get_by_label("It is right").check()
    page.locator("#consent input").check()
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Let a message be answered under Compare first.").wait_for()
    page.get_by_role("tab", name="Compare").click()


def test_after_an_error_nothing_of_the_earlier_answer_is_left(opened, moody_page):
    moody_page.answerer.go.set()
    page = opened(served=moody_page)
    for _ in range(2):
        ask(page, MESSAGE)
        wait_for_end(page)
        page.get_by_role("tab", name="Feedback").click()
        page.wait_for_function("text => document.querySelector('#given textarea')?.value === text", arg=MESSAGE)
        page.get_by_role("tab", name="Compare").click()
        ask(page, "please fail")
        no_answer(page, "The model failed at this message.")
    ask(page, "   ")
    no_answer(page, "must be text and not empty")


def test_when_it_is_busy_the_page_says_so_and_the_next_message_is_answered(opened, moody_page, request, tmp_path):
    moody_page.answerer.go.set()
    page = opened(served=moody_page)
    ask(page, MESSAGE)
    wait_for_end(page)
    full = request.getfixturevalue("full")
    ask(page, "any table today?")
    no_answer(page, "Too many people ask at once. Please try again in a minute.")
    assert page.get_by_text("currently busy").first.is_visible()
    page.screenshot(path=tmp_path / "busy.png", full_page=True)
    drain(full)
    ask(page, MESSAGE)
    wait_for_end(page)
    assert "intent" in page.locator("#tuned-card").inner_text()
    page.wait_for_function("document.querySelector('#said').textContent.includes('intent book')")


def test_while_a_message_waits_the_earlier_answer_is_gone(opened, moody_page):
    moody_page.answerer.go.set()
    page = opened(served=moody_page)
    ask(page, MESSAGE)
    wait_for_end(page)
    moody_page.answerer.go.clear()
    try:
        ask(page, "please wait")
        page.wait_for_function("!/finished/.test(document.querySelector('#tuned-measures').innerText)")
        assert "book" not in page.locator("#tuned-card").inner_text()
        assert "intent" not in page.locator("#said").text_content()
        page.get_by_role("tab", name="Feedback").click()
        page.wait_for_function("document.querySelector('#given textarea')?.value === ''")
        page.get_by_role("tab", name="Compare").click()
    finally:
        moody_page.answerer.go.set()
    wait_for_end(page)


def test_it_works_by_keyboard_and_tells_a_screen_reader_once(opened):
    page = opened()
    box = page.get_by_label("Message").first
    box.focus()
    page.evaluate(
        """() => { window.said = []; const node = document.querySelector('#said');
        new MutationObserver(() => window.said.push(node.querySelector('[role=status]').innerText.trim()))
            .observe(node, {childList: true, characterData: true, subtree: true}) }"""
    )
    page.keyboard.type(MESSAGE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Answer"
    page.keyboard.press("Enter")
    wait_for_end(page)
    page.wait_for_function("document.querySelector('#said').innerText.includes('Before')")
    live = page.locator("#said [aria-live=polite], #said[aria-live=polite]")
    assert live.count() == 1
    said = {text for text in page.evaluate("window.said") if text}
    assert len(said) == 1 and "intent book" in said.pop()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, select')].filter(e => e.offsetParent &&
        !(e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.innerText.trim() ||
          e.title)).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []


@pytest.mark.parametrize(
    "attack",
    [
        "<img src=x onerror=alert(1)><script>alert(2)</script>",
        "${alert(3)} {{value}} {{#each value}}x{{/each}} `",
        "</textarea><svg onload=alert(4)>",
    ],
)
def test_html_and_script_in_a_message_are_text(opened, attack):
    page = opened()
    ask(page, attack)
    wait_for_end(page)
    page.get_by_role("tab", name="Feedback").click()
    shown = page.get_by_label("The message").first
    page.wait_for_function("text => [...document.querySelectorAll('textarea')].some(t => t.value === text)", arg=attack)
    assert shown.input_value() == attack
    assert page.dialogs == [] and page.faults == []
    assert page.locator("img[src=x], svg[onload]").count() == 0


def test_what_the_model_writes_is_inert_in_the_page(opened, ticket_run, demo):
    from ftkit.deployment.demo_page import answer_card
    from ftkit.evaluation.stream import Answer

    attack = "<img src=x onerror=alert(1)>${alert(2)}{{value}}"
    card = answer_card(ticket_run.task, Answer("tuned", json.dumps({"intent": attack, attack: 1}), finished=True))
    page = opened()
    page.evaluate("card => { document.querySelector('#tuned-card').innerHTML = card }", card)
    assert attack in page.locator("#tuned-card").inner_text()
    assert page.dialogs == [] and page.locator("img[src=x]").count() == 0


def test_a_correction_lands_in_the_file_and_nothing_without_consent(opened, ticket_run):
    file = FeedbackFile.of(ticket_run)
    before = file.path.read_text(encoding="utf-8") if file.path.exists() else ""
    page = opened()
    ask(page, MESSAGE)
    wait_for_end(page)
    page.get_by_role("tab", name="Feedback").click()
    page.wait_for_function("document.querySelector('#given-card')?.innerText.includes('20:00')")
    page.get_by_label("It is wrong").check()
    guests = page.locator("#field-guests input").first
    guests.wait_for()
    assert guests.input_value() == "4"  # the form begins with the answer
    guests.fill("6")
    guests.blur()
    page.locator("#field-allergens").get_by_label("eggs").check()
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Without your consent nothing is kept").wait_for()
    assert (file.path.read_text(encoding="utf-8") if file.path.exists() else "") == before
    page.locator("#consent input").check()
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Thank you, it is kept").wait_for()
    entry = json.loads(file.path.read_text(encoding="utf-8").splitlines()[-1])
    assert entry["message"] == MESSAGE and entry["verdict"] == "corrected"
    assert entry["target"] == {
        "intent": "book",
        "urgency": "normal",
        "guests": 6,
        "day": "friday",
        "time": "20:00",
        "allergens": ["eggs", "nuts"],
    }
    assert not re.search(r"\d+\.\d+\.\d+\.\d+", json.dumps(entry))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(opened, scheme, tmp_path):
    page = opened(width=360, height=740, color_scheme=scheme, is_mobile=True, has_touch=True)
    ask(page, MESSAGE)
    wait_for_end(page)
    for tab in ("Compare", "Training", "Evaluation", "Feedback", "About"):
        open_tab(page, tab)
        page.screenshot(path=tmp_path / f"{tab}-{scheme}.png", full_page=True)
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        ".map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0))"
    )
    assert (ink < paper) == (scheme == "light")


CONTRAST = """() => {
const linear = v => v / 255 <= .04045 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const light = rgb => { const [r, g, b] = rgb.map(linear);
    return .2126 * r + .7152 * g + .0722 * b; };
const behind = e => { for (; e; e = e.parentElement) {
    const [r, g, b, a = 1] = getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number);
    if (a > .9) return [r, g, b]; } return [255, 255, 255]; };
const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    const seen = e.checkVisibility({opacityProperty: true, visibilityProperty: true});
    if (!text || !seen || /SCRIPT|STYLE/.test(e.tagName)) continue;
    const ink = light(getComputedStyle(e).color.match(/[\\d.]+/g).slice(0, 3).map(Number)), paper = light(behind(e));
    const contrast = (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
    if (contrast < 4.5) found.push(`${contrast.toFixed(1)}: ${text.slice(0, 40)}`); }
return found; }"""  # WCAG 2.2, 1.4.3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_what_lies_behind_it(opened, scheme):
    page = opened(color_scheme=scheme)
    ask(page, MESSAGE)
    wait_for_end(page)
    page.get_by_role("button", name="Where it is wrong").click()
    page.locator("#wrong summary").first.click()
    assert page.evaluate(CONTRAST) == []
    for tab in ("Training", "Evaluation", "Feedback", "About"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Feedback":
            page.get_by_label("It is wrong").check()
            page.locator("#field-guests input").first.wait_for()
        page.wait_for_timeout(500)  # colours change slowly
        assert page.evaluate(CONTRAST) == [], tab


def test_the_gallery_shows_where_it_is_wrong(opened):
    page = opened()
    page.get_by_role("button", name="Where it is wrong: 1 of 1").click()
    page.locator("#wrong summary").first.click()
    assert "should be 2" in page.locator("#wrong").inner_text()
    page.get_by_role("tab", name="Evaluation").click()
    page.get_by_text("has not been evaluated yet").wait_for()
    page.get_by_role("tab", name="About").click()
    page.get_by_text("Do not use it").wait_for()


def test_a_report_is_shown_in_a_frame_that_runs_nothing(opened, ticket_run):
    path, attack = ticket_run.folder / "evaluation.json", "${1+1} {{value}}<script>parent.document.title='taken'</script>"
    result = json.loads((kit_root() / "data" / "reference_run" / "evaluation.json").read_text(encoding="utf-8"))
    path.write_text(json.dumps({**result, "run": attack}), encoding="utf-8")
    try:
        page = opened()
        page.get_by_role("tab", name="Evaluation").click()
        frame = page.frame_locator("iframe.report")
        assert frame.locator("h1").inner_text() == f"Evaluation: {attack}"
        assert frame.locator("section figure svg").count() == 5  # of the evaluation, and the loss of the training
        assert page.title() != "taken" and page.locator("iframe.report").get_attribute("sandbox") == ""
    finally:
        path.unlink()
