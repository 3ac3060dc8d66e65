"""Small task folders for the tests of other people's data."""

import json

from ftkit.data.task import load_task


def make_task(folder, rows, kind="label", prompt="Label the text. Answer with one of: {labels}.", fields="", **others):
    """A task folder of (message, answer) rows; `others` are the rows of validation and test."""
    folder.mkdir()
    answers = {answer for _, answer in rows if isinstance(answer, str) and answer.strip()}
    labels = sorted(answers) if kind == "label" else []
    text = f'name = "{folder.name}"\nkind = "{kind}"\nmax_message_characters = 300  # a comment\n'
    text += f"system_prompt = {json.dumps(prompt.format(labels=', '.join(labels)), ensure_ascii=False)}\n"
    text += f"labels = {json.dumps(labels, ensure_ascii=False)}\n" if labels else ""
    (folder / "task.toml").write_text(text + fields, encoding="utf-8")
    default = {"validation": ("where is the lid", "who took it"), "test": ("a box came late", "my shoes are wet")}
    for split in ("train", "validation", "test"):
        some = rows if split == "train" else others.get(split) or [(text, rows[0][1]) for text in default[split]]
        given = [{"id": f"{split}-{n}", "message": m, "target": a} for n, (m, a) in enumerate(some)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return load_task(folder, to_clean=True)
