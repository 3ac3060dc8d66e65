"""A small task of conversations, made of the desk's messages: every user's turn is one of them."""

import json
from pathlib import Path

from ftkit.common.paths import kit_root

SYSTEM = "You are the host."
SIZES = {"train": 36, "validation": 6, "test": 8}


def conversation(rows):
    """User and assistant in turns: a desk's message, and what its ticket says of it."""
    turns = []
    for row in rows:
        ticket = row["ticket"]
        turns.append({"role": "user", "content": row["message"]})
        turns.append({"role": "assistant", "content": f"Noted: {ticket['intent']}. For which day? The desk will confirm."})
    return turns


def expectations(turns):
    """What such answers have to meet."""
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    return [{"must": [[answer[7:].split(".")[0]]], "must_not": ["refund"], "asks": [["day"]]} for answer in answers]


SHEET = "# The house\n\n- It is open from Tuesday to Sunday.\n- The desk confirms a table.\n- Soup is 7.50 pounds."


def write_chat_task(folder, **keys):
    """Write the task: conversations of two, four and six turns; test rows say what is expected. It names a sheet."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    rows = map(json.loads, (kit_root() / "data" / "desk" / "train.jsonl").read_text(encoding="utf-8").splitlines())
    for split, n in SIZES.items():
        lines = []
        for number in range(n):
            turns = conversation([next(rows) for _ in range(1 + number % 3)])
            row = {"id": f"{split}-{number:02d}", "messages": turns, "topic": "booking", "trap": None}
            lines.append(row | ({"expect": expectations(turns)} if split == "test" else {}))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "SHEET.md").write_text(SHEET + "\n", encoding="utf-8")
    described = {"name": folder.name, "kind": "chat", "system_prompt": SYSTEM, "told": "SHEET.md", **keys}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in described.items() if value is not None)
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return folder
