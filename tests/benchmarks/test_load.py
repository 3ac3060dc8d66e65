import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.documents import FOLDER, LoadResults
from benchmarks.load import belongs, list_messages, load
from ftkit.common.errors import KitError


def finished(work):
    """The coroutine's result, from a thread of its own: the browser tests leave an event loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def test_a_small_load_is_answered_or_told_that_it_is_busy(ticket_page, ticket_run):
    messages = [row["message"] for row in ticket_run.task.rows("test")[:3]]
    figures = finished(load(ticket_page.local_url, os.getpid(), messages, users=4, seconds=2))
    assert figures["answered"] > 0
    assert figures["other_errors"] == {} and figures["crossed_answers"] == 0
    assert figures["memory_mb"]["first_quarter"] > 100


def test_conversations_of_many_visitors_do_not_cross(chat_page, talking_run):
    conversations = list_messages(talking_run, 3)
    assert len(conversations) == 3 and all(len(messages) > 1 for messages in conversations)
    figures = finished(load(chat_page.local_url, os.getpid(), conversations, users=3, seconds=3))
    assert figures["answered"] > 2 and figures["seconds_alone"] >= 0
    assert figures["other_errors"] == {} and figures["crossed_answers"] == 0


def test_only_this_machine_is_put_under_load():
    with pytest.raises(KitError, match="Only a demo on this machine"):
        finished(load("http://192.0.2.1:80/", os.getpid(), ["hello"], 1, 1))


def test_an_answer_to_another_message_is_noticed():
    def both(base, tuned, late=False):
        return {"base": {"text": base, "timed_out": late}, "tuned": {"text": tuned, "timed_out": False}}

    wanted = both("four guests", "4")
    assert belongs(both("four guests", "4"), wanted) and belongs(both("four", "4", late=True), wanted)
    assert not belongs(both("four guests", "5"), wanted)
    assert not belongs(both("four", "4"), wanted) and not belongs(both("five", "4", late=True), wanted)


def test_the_committed_figures_hold():
    result = LoadResults.load(FOLDER)
    assert result.users == 40 and result.seconds == 120
    assert result.other_errors == {} and result.crossed_answers == 0 and result.answered > 0
    assert result.unfinished_at_the_end == 0 and result.busy > 0
    assert abs(result.memory_mb.change) <= 0.1
    assert result.machine.date and result.machine.versions["gradio"]
