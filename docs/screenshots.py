"""Pictures of the demo's pages, taken from the pages themselves: `python docs/screenshots.py` (about two minutes).

Each of the kit's own runs is served, asked in Chromium, and photographed when both answers have ended: into
`notebooks/images/`, for the lessons and the README. It needs Debian's Chromium (or one named in FTKIT_CHROMIUM) and playwright.
"""

import io
import os
import re
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ftkit.common.paths import kit_root
from ftkit.runs.run import open_run

sys.path.insert(0, str(kit_root() / "apps"))
import demo

IMAGES = kit_root() / "notebooks" / "images"
TICKET = ("so sorry, we booked 6 for tonight at half seven, can we make it 8 people? one of us is coeliac. thx Priya",)
TALK = ("Do you have anything vegan?", "Lovely. And is there wine with that?")
ORDER = ("Table four: two mussels without butter, she is allergic to milk.",)
PAGES = {"ticket": ("reference", TICKET), "chat": ("reference-host", TALK), "translator": ("reference-kitchen", ORDER)}
ENDED = """answers => ['base', 'tuned'].every(side =>
    /finished|cut off|stopped/.test(document.querySelector(`#${side}-measures`).innerText) &&
    (!document.querySelector(`#${side}-talk`) || document.querySelectorAll(`#${side}-talk li.model`).length === answers))"""
SIZE, DENSE, COLOURS = {"width": 1100, "height": 760}, 1.5, 96


def take(name: str, page: Page, messages: tuple[str, ...]) -> Path:
    """Say the messages one after the other, and save the page as it looks after the last answer."""
    for number, message in enumerate(messages, start=1):
        page.get_by_label("Message").first.fill(message)
        page.get_by_role("button", name=re.compile("^(Answer|Send|Translate)$")).first.click()
        page.wait_for_timeout(1000)  # what was said before has left the page's measures
        page.wait_for_function(ENDED, arg=number)
    page.wait_for_timeout(500)
    image = Image.open(io.BytesIO(page.screenshot()))
    path = IMAGES / f"{name}.png"
    image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def main() -> None:
    """Take the pictures that are named, or all."""
    IMAGES.mkdir(exist_ok=True)
    chromium = os.environ.get("FTKIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in sys.argv[1:] or PAGES:
            run, messages = PAGES[name]
            served = demo.launch(open_run(run), block=False)
            page = browser.new_page(viewport=SIZE, device_scale_factor=DENSE, color_scheme="light", locale="en-GB")
            page.set_default_timeout(120_000)
            page.goto(served.local_url)
            path = take(name, page, messages)
            page.close()
            served.close(verbose=False)
            print(f"{path.relative_to(kit_root())}: {path.stat().st_size / 1000:,.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
