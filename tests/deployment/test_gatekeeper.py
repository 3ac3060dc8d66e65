import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from ftkit.deployment.gatekeeper import OPEN, Doorkeeper, report_error


def asked(app, path="/config", pieces=(b"",), request_bytes=100):
    """Ask an application behind the doorkeeper: gives status and text of what it sends."""
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting[-1]["more_body"] = False
    sent = []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    request = Doorkeeper(app, request_bytes)({"type": "http", "path": path}, receive, send)
    with ThreadPoolExecutor(1) as pool:  # in a thread of its own: the browser tests leave an event loop running in this one
        pool.submit(asyncio.run, request).result()
    return sent[0]["status"] if sent else None, b"".join(message.get("body", b"") for message in sent).decode()


async def echo(scope, receive, send):
    first, then = await receive(), await receive()
    assert then["type"] == "http.disconnect"  # what comes after the request is seen too
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": first["body"]})


def test_a_request_is_passed_on_as_it_came():
    assert asked(echo, pieces=[b"four ", b"guests"]) == (200, "four guests")


def test_one_that_is_too_large_or_for_another_address_is_not():
    assert asked(echo, pieces=[b"x" * 100])[0] == 200
    assert asked(echo, pieces=[b"x" * 101])[0] == 413
    endless = [b"x" * 40] * 1000
    assert asked(echo, pieces=endless) == (413, "A request may hold at most 100 bytes.")
    for path in (
        "/gradio_api/file=/etc/hostname",
        "/gradio_api/upload",
        "/monitoring/summary",
        "/configs",
        "/gradio_api/call",
    ):
        assert asked(echo, path)[0] == 404, path


@pytest.mark.parametrize(
    "path", ["/", "/config", "/assets/index.js", "/gradio_api/info", "/gradio_api/call/answer/1", "/login"]
)
def test_what_the_page_needs_is_open(path):
    assert OPEN.fullmatch(path)


def test_of_an_error_only_kind_and_place_are_said(capsys):
    async def failing(scope, receive, send):
        raise ValueError("a message of a guest")

    assert asked(failing) == (500, "This request failed.")
    said = capsys.readouterr()
    assert said.err == f"A request failed: ValueError (failing, line {failing.__code__.co_firstlineno + 1})\n"
    report_error(KeyError("guest"))  # never raised: it has no place
    assert capsys.readouterr().err == "A request failed: KeyError\n"
