"""The demo in a browser; the tests here are skipped where there is none."""

import pytest


@pytest.fixture
def opened(browser, ticket_page):
    """Open the demo in a fresh context: gives the page.

    `page.elsewhere` is what it asked of other hosts, `page.refused` what was asked of the demo in vain.
    """
    contexts = []
    texts = ("#base-text textarea", "#tuned-text textarea")

    def open_page(width=1200, height=900, served=ticket_page, **more):
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.elsewhere, page.dialogs, page.faults, page.refused = [], [], [], []
        page.on(
            "request", lambda r: r.url.startswith(("http://127.0.0.1", "data:", "blob:")) or page.elsewhere.append(r.url)
        )
        page.on("response", lambda r: r.status < 400 or page.refused.append(f"{r.status} {r.url}"))
        page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(served.local_url)
        page.get_by_label("Message").first.wait_for()
        told = ("#base-talk [role=region]", "#tuned-talk [role=region]")
        for part in (*(told if page.locator("#base-talk").count() else texts), "#said [role=status]"):
            page.locator(part).wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
