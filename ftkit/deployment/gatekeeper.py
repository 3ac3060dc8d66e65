"""What stands between the demo and strangers: which addresses, how large a request, what is logged (lesson 05)."""

from __future__ import annotations

import re
import socket
import sys
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ftkit.common.errors import KitError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


REQUEST_BYTES = 1_000_000  # of one request; the longest message and a whole form take a small part of it
# what the page, gradio_client and a login need. Gradio has more: files, uploads, recordings, other servers' pages
OPEN = re.compile(
    r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|pwa_icon(/\d+)?|login|logout)?/?"
    r"|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info|openapi\.json|app_id|user|login_check|theme\.css|startup-events|cancel|reset)/?"
    r"|/gradio_api/(call|run|api|queue|heartbeat)/.+"
)


class Doorkeeper:
    """ASGI middleware around gradio's application: a request to another address, or too large a one, goes no further.

    An error that nobody handled is answered with status 500; `report_error` says of it what may be said.
    """

    def __init__(self, app: ASGIApp, request_bytes: int = REQUEST_BYTES):
        self.app, self.request_bytes = app, request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if not OPEN.fullmatch(scope["path"]):
            return await _refuse(send, 404, "There is nothing here.")
        body = await self._read_body(receive)
        if body is None:
            return None
        if len(body) > self.request_bytes:
            return await _refuse(send, 413, f"A request may hold at most {self.request_bytes:,} bytes.")
        waiting = [body]

        async def again() -> Message:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            return await receive()

        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, again, noted)
        except Exception as error:
            report_error(error)
            if not begun:
                await _refuse(send, 500, "This request failed.")
        return None

    async def _read_body(self, receive: Receive) -> bytes | None:
        """A request's whole body, or the beginning of one that is too large; None if the visitor left."""
        body, more = b"", True
        while more and len(body) <= self.request_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return body


async def _refuse(send: Send, status: int, why: str) -> None:
    kind = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": kind})
    await send({"type": "http.response.body", "body": why.encode()})


def report_error(error: BaseException) -> None:
    """Kind and place of an error, on stderr, without its text: what a visitor wrote may stand in it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    print(f"A request failed: {type(error).__name__}{place}", file=sys.stderr, flush=True)


def guard_application() -> dict[str, Any]:
    """What `launch` gives to gradio's application as `app_kwargs`; errors that Gradio would print are told briefly."""
    import gradio.queueing
    import gradio.routes
    from starlette.middleware import Middleware

    quiet = SimpleNamespace(print_exc=lambda: report_error(sys.exception() or RuntimeError()))
    gradio.queueing.traceback = gradio.routes.traceback = quiet
    return {"middleware": [Middleware(Doorkeeper)]}


DEFAULT_PORT = 7860


def free_port(wanted: int = DEFAULT_PORT, tries: int = 50) -> int:
    """The wanted port if nobody listens there, else the next free one. Raises `KitError` if none of `tries` is free."""
    for port in range(wanted, min(wanted + tries, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise KitError(f"No free port from {wanted} to {wanted + tries - 1}. Name another: --port 8800")
