"""The lessons as JupyterLab shows them on first opening, in a browser: pictures without trust, and the quiz's buttons."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from ftkit.common.paths import kit_root
from ftkit.course import quiz
from ftkit.course.quizzes import Quiz
from tests.browser import CHROMIUM

NOTEBOOKS = kit_root() / "notebooks"
SETTINGS = {  # all cells drawn at once, so that one look sees them; nothing asked of other hosts
    "@jupyterlab/notebook-extension:tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification.jupyterlab-settings": {
        "checkForUpdates": False,
        "fetchNews": "false",
        "doNotDisturbMode": True,
    },
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab serving copies of two lessons that nobody has trusted: its address."""
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    for name in ("00_start_here", "01_pretrained_model"):
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", home / "notebooks")
    for name, values in SETTINGS.items():
        plugin, _, file = name.partition(":")
        (home / "settings" / plugin).mkdir(parents=True, exist_ok=True)
        (home / "settings" / plugin / file).write_text(json.dumps(values), encoding="utf-8")
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_DATA_DIR": str(home / "data"),  # where trust is kept
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "PYTHONPATH": str(kit_root()),
        "FTKIT_RUNS": str(home / "runs"),
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--IdentityProvider.token=open"]
    command += ["--ServerApp.port=0", f"--ServerApp.root_dir={home / 'notebooks'}", "--ServerApp.log_level=WARN"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _address(home / "data" / "runtime", server)
    finally:
        server.terminate()
        server.wait(20)


def _address(runtime, server):
    """The server's address, once it answers; it writes its port into a file."""
    for _ in range(240):
        assert server.poll() is None, "JupyterLab has ended"
        for file in runtime.glob("jpserver-*.json"):
            found = json.loads(file.read_text(encoding="utf-8") or "{}").get("url")
            if found:
                urllib.request.urlopen(f"{found}api?token=open", timeout=20).close()
                return found
        time.sleep(0.25)
    raise AssertionError("JupyterLab does not answer")


@pytest.fixture
def opened(lab, browser):
    """Open a lesson in a tab of its own."""
    contexts = []

    def open_lesson(name):
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        contexts.append(context)
        context.set_default_timeout(90_000)
        page = context.new_page()
        page.goto(f"{lab}lab/tree/{name}.ipynb?reset&token=open")
        page.locator(".jp-Notebook .jp-Cell").nth(20).wait_for(state="attached")
        return page

    yield open_lesson
    for context in contexts:
        context.close()


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
@pytest.mark.parametrize("name", ["00_start_here", "01_pretrained_model"])
def test_every_picture_shows_on_first_opening_though_nobody_trusts_the_notebook(opened, name):
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    pictures = sum("image/svg+xml" in data for data in outputs)
    page = opened(name)
    images = page.locator(".jp-OutputArea-output img")
    page.wait_for_function(f"document.querySelectorAll('.jp-OutputArea-output img').length === {pictures}")
    sizes = images.evaluate_all("all => all.map(one => [one.naturalWidth, one.clientWidth])")
    assert pictures and all(natural > 300 and shown > 300 for natural, shown in sizes)
    assert page.locator(".jp-RenderedSVG").count() == 0  # nobody trusts it: these are the PNGs
    for frame in page.locator("figure[aria-label*='is a space'] span").all()[:3]:  # the tokens can be told apart
        assert frame.evaluate("one => getComputedStyle(one).borderTopStyle") == "solid"
    texts = page.locator(".jp-OutputArea-output").all_inner_texts()
    assert not [text for text in texts if "<svg" in text or re.search(r"</(div|span|figure|table)>", text)]


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_the_buttons_of_a_quiz_judge_explain_and_count(opened):
    page = opened("00_start_here")
    asked: Quiz = quiz("00")
    cell = page.locator(".jp-CodeCell").filter(has_text='quiz("00")').last
    first = page.locator(".jp-CodeCell").filter(has_text="from ftkit.course import exercises, quiz").first
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    for one in (first, cell):
        idle.first.wait_for()  # the kernel has started, and has done what it was asked
        one.scroll_into_view_if_needed()
        one.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
    question = asked.questions[0]
    wrong = next(option for option in question.options if not option.right)
    button = cell.get_by_role("button", name=wrong.text[:40])
    button.click()
    cell.get_by_text("Not so, your choice").wait_for()
    said = cell.inner_text()
    assert "✗ Not so, your choice" in said and "✓ Right" in said
    assert all(option.reason()[:60] in said for option in question.options)
    assert f"Score: 0 of {len(asked.questions)} right. Still open: {len(asked.questions) - 1}." in said
    assert button.evaluate("one => getComputedStyle(one).backgroundColor") == "rgb(255, 235, 233)"
    cell.get_by_role("button", name="Start again").click()
    for number, question in enumerate(asked.questions):
        right = next(option for option in question.options if option.right)
        cell.get_by_role("button", name=right.text[:40]).click()
        cell.get_by_text(f"Score: {number + 1} of").wait_for()
    assert f"Score: {len(asked.questions)} of {len(asked.questions)} right." in cell.inner_text()
