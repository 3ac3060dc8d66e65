"""The demo under load: `python -m benchmarks.load [RUN]`. 40 users for two minutes, on this machine only.

Every user asks, reads the answer, waits a moment, asks again. Counted: answers, questions that were turned away because the
demo was busy, other errors, answers that belong to another message; and the server's memory. With a run of kind `chat` each
user holds one conversation after the other as the page does, in a session of its own, so that each answer shows whether the
server mixed up two visitors' conversations.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import importlib.metadata
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
import psutil

from benchmarks.documents import FOLDER, ChatLoadResults, LoadResults
from ftkit.common.errors import KitError
from ftkit.common.machine import describe_machine
from ftkit.deployment.gatekeeper import free_port
from ftkit.runs.run import Run, open_run

USERS, SECONDS, MESSAGES = 40, 120, 5
LAST_ANSWERS = 120  # seconds that those who wait at the end are still given


async def ask(client: httpx.AsyncClient, message: str) -> dict[str, Any] | None:
    """One message by the demo's endpoint: {side: answer}, or None if it is busy. Raises `KitError` for all else."""
    sent = await client.post("gradio_api/call/answer", json={"data": [message]})
    if sent.status_code == 503:
        return None
    if sent.status_code != 200:
        raise KitError(f"status {sent.status_code}: {sent.text[:100]}")
    event, last = "", None
    async with client.stream("GET", f"gradio_api/call/answer/{sent.json()['event_id']}") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("data: ") and event == "error":
                raise KitError(f"error: {line[6:106]}")
            elif line.startswith("data: ") and event in ("generating", "complete"):
                last = json.loads(line[6:]) or last
            if event == "complete" and line.startswith("data: "):
                break
    if not last:
        raise KitError("the stream ended without an answer")
    return last[0]


class Visitor:
    """Somebody who holds a conversation in the page: a session, and the functions that the page calls."""

    def __init__(self, client: httpx.AsyncClient, functions: dict[str, int]):
        self.client, self.functions, self.session = client, functions, uuid.uuid4().hex

    @staticmethod
    async def look(client: httpx.AsyncClient) -> dict[str, int]:
        """The page's functions by their names."""
        wired = (await client.get("config")).json()["dependencies"]
        return {each["api_name"]: each["id"] for each in wired}

    async def call(self, name: str, *data: Any) -> None:
        """Call one of the functions that do not wait in the queue."""
        sent = {"fn_index": self.functions[name], "data": list(data), "session_hash": self.session}
        answer = await self.client.post("gradio_api/run/predict", json=sent)
        if answer.status_code != 200:
            raise KitError(f"{name}: status {answer.status_code}: {answer.text[:100]}")

    async def ask(self, message: str) -> dict[str, Any] | None:
        """Say the next thing: {side: answer}, or None if the demo is busy. Raises `KitError` for all else."""
        await self.call("begin", message, None)
        sent = {"fn_index": self.functions["respond"], "data": [None], "session_hash": self.session}
        joined = await self.client.post("gradio_api/queue/join", json=sent)
        if joined.status_code == 503:
            await self.call("refuse", None)  # as the page does
            return None
        if joined.status_code != 200:
            raise KitError(f"status {joined.status_code}: {joined.text[:100]}")
        session = {"session_hash": self.session}
        async with self.client.stream("GET", "gradio_api/queue/data", params=session) as stream:
            async for line in stream.aiter_lines():
                event = json.loads(line[6:]) if line.startswith("data: ") else {}
                if event.get("msg") == "process_completed":
                    shown = event["output"].get("data")
                    if not event["success"] or not shown:
                        raise KitError("the answer failed")
                    return {"base": _read(*shown[1:3]), "tuned": _read(*shown[3:5])}
        raise KitError("the stream ended without an answer")


def _read(page: str, measures: str) -> dict[str, Any]:
    """A side's last answer, as the page shows it."""
    text = html.unescape(re.findall(r'<li class="model[^"]*">.*?<p>(.*?)</p>', page, re.DOTALL)[-1])
    seconds = re.search(r"([\d.]+) s ·", measures)
    return {"text": text, "timed_out": measures.startswith("stopped"), "seconds": float(seconds[1]) if seconds else 0.0}


def belongs(answers: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether both answers are those to the message: equal, or the beginning where the time limit cut one off."""
    return all(
        wanted[side]["text"].startswith(answer["text"].rstrip("\ufffd"))
        if answer["timed_out"] or wanted[side]["timed_out"]
        else answer["text"] == wanted[side]["text"]
        for side, answer in answers.items()
    )


async def user(client: httpx.AsyncClient, wanted: dict[str, Any], until: float, seen: dict[str, list]) -> None:
    """Ask again and again until the time is over."""
    chance = random.Random(id(client) + len(seen["users"]))
    seen["users"].append(1)
    while time.monotonic() < until:
        message, began = chance.choice(list(wanted)), time.monotonic()
        try:
            answers = await ask(client, message)
        except (KitError, httpx.HTTPError) as error:
            seen["errors"].append(f"{type(error).__name__}: {error}"[:160])
        else:
            if answers is None:
                seen["busy"].append(time.monotonic() - began)
            else:
                seen["answered"].append(time.monotonic() - began)
                if not belongs(answers, wanted[message]):
                    seen["crossed"].append(message[:40])
        await asyncio.sleep(chance.uniform(1, 3))


async def converse(client: httpx.AsyncClient, wanted: dict[Any, Any], until: float, seen: dict[str, list]) -> None:
    """Hold conversations, one after the other, until the time is over; `wanted` has each one's answers by its messages."""
    chance = random.Random(id(client) + len(seen["users"]))
    seen["users"].append(1)
    functions = await Visitor.look(client)
    while time.monotonic() < until:
        messages = chance.choice(list(wanted))
        visitor = Visitor(client, functions)
        for message, right in zip(messages, wanted[messages], strict=True):
            answers, began = None, 0.0
            while not answers and (began := time.monotonic()) < until:
                try:
                    if (answers := await visitor.ask(message)) is None:
                        seen["busy"].append(time.monotonic() - began)
                except (KitError, httpx.HTTPError) as error:
                    seen["errors"].append(f"{type(error).__name__}: {error}"[:160])
                    break
                await asyncio.sleep(chance.uniform(1, 3))
            if not answers:
                break
            seen["answered"].append(time.monotonic() - began)
            if not belongs(answers, right):
                seen["crossed"].append(message[:40])
            if any(answer["timed_out"] for answer in [*answers.values(), *right.values()]):
                break  # what follows goes on from another answer


async def memory(process: psutil.Process, until: float, seen: dict[str, list]) -> None:
    """The server's resident memory, in MB, every second."""
    while time.monotonic() < until:
        seen["memory"].append(process.memory_info().rss / 1e6)
        await asyncio.sleep(1)


async def load(address: str, pid: int, messages: Sequence[Any], users: int, seconds: float) -> dict[str, Any]:
    """Put a demo on this machine under load; `messages` are asked one by one first, to know the answers.

    A tuple of messages is a conversation.
    """
    if not address.startswith("http://127.0.0.1:"):
        raise KitError("Only a demo on this machine is put under load.")
    limits = httpx.Limits(max_connections=2 * users + 2)
    async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
        wanted: dict[Any, Any] = {}
        for message in messages:
            if isinstance(message, str):
                wanted[message] = await ask(client, message)
            else:
                visitor = Visitor(client, await Visitor.look(client))
                wanted[message] = [await visitor.ask(text) for text in message]
        work = user if isinstance(messages[0], str) else converse
        alone = [first if isinstance(first, dict) else first[0] for first in wanted.values()]
        seen: dict[str, list] = {name: [] for name in ("users", "answered", "busy", "errors", "crossed", "memory")}
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(work(client, wanted, until, seen)) for _ in range(users)]
        watch = asyncio.create_task(memory(psutil.Process(pid), until, seen))
        _, late = await asyncio.wait([*tasks, watch], timeout=seconds + LAST_ANSWERS)
        for task in late:
            task.cancel()
    waits = sorted(seen["answered"])
    part = max(1, len(seen["memory"]) // 4)
    before, after = (statistics.median(some) for some in (seen["memory"][:part], seen["memory"][-part:]))
    return {
        "users": users,
        "seconds": seconds,
        "answered": len(waits),
        "busy": len(seen["busy"]),
        "other_errors": dict(Counter(seen["errors"])),
        "crossed_answers": len(seen["crossed"]),
        "unfinished_at_the_end": len(late),
        "seconds_to_the_answer": {
            "median": round(statistics.median(waits), 1) if waits else None,
            "slowest": round(waits[-1], 1) if waits else None,
        },
        "seconds_alone": round(statistics.median(answers["base"]["seconds"] for answers in alone), 1),
        "memory_mb": {"first_quarter": round(before), "last_quarter": round(after), "change": round(after / before - 1, 3)},
    }


def list_messages(run: Run, most: int = MESSAGES) -> list[Any]:
    """What the users say: messages of the test split, or what is said in its conversations of two messages and more."""
    task = run.task
    rows = task.rows("test")
    if task.kind != "chat":
        return [row[task.message] for row in rows[:most]]
    said = [tuple(turn["content"] for turn in row[task.message] if turn["role"] == "user") for row in rows]
    return [texts for texts in said if len(texts) > 1][:most]


def main() -> None:
    """Serve the run's demo, put it under load, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", help="a run; left out, the newest finished one")
    parser.add_argument("--users", type=int, default=USERS, choices=range(1, USERS + 1), metavar=f"1..{USERS}")
    parser.add_argument("--seconds", type=int, default=SECONDS, choices=range(1, SECONDS + 1), metavar=f"1..{SECONDS}")
    parser.add_argument("--note", default="", help="what else the machine did, to be kept with the figures")
    options = parser.parse_args()
    run = open_run(options.run)
    messages = list_messages(run)
    before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    command = [sys.executable, "-m", "ftkit.cli", "demo", str(run.folder), "--port", str(free_port(7900))]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = next((m[1] for line in server.stdout if (m := re.search(r"The demo is at (http://\S+)", line))), "")
            started = round(time.monotonic() - began, 1)
            result = asyncio.run(load(address, server.pid, messages, options.users, options.seconds))
        finally:
            server.terminate()
    machine = describe_machine() | {"load_average_before": before, "note": options.note}
    machine["versions"]["gradio"] = importlib.metadata.version("gradio")
    result = {"machine": machine, "run": run.name, "model": run.profile.model, "seconds_to_start": started, **result}
    form = ChatLoadResults if run.task.kind == "chat" else LoadResults
    form.model_validate_json(json.dumps(result)).save(FOLDER)
    print(json.dumps(result, indent=2))
    if result["other_errors"] or result["crossed_answers"]:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"load: {error}")
