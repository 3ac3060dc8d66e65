"""A sheet told in the prompt: how it is named, how it stands in a prompt, and what is cut of it."""

import shutil

import pytest

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.data.conversation.told import fit_sheet, has_sheet, read_sheet, told_prompt
from ftkit.data.prompt import prompt_ids
from ftkit.data.task import load_task
from ftkit.models.load import load_tokenizer
from tests.data.conversation.chats import SHEET, SYSTEM, write_chat_task


def test_a_run_does_not_depend_on_what_only_the_base_is_told(tmp_path):
    told, bare = (write_chat_task(tmp_path / name / "host", told=told) for name, told in (("a", "SHEET.md"), ("b", None)))
    assert load_task(told).fingerprint() == load_task(bare).fingerprint()
    text = (told / "task.toml").read_text(encoding="utf-8")
    (told / "task.toml").write_text("told   =  'OTHER.md'  # to compare\n" + text.replace('told = "SHEET.md"\n', ""))
    assert load_task(told).told == "OTHER.md" and load_task(told).fingerprint() == load_task(bare).fingerprint()
    assert load_task("host").told == "SHEET.md" and load_task("host").fingerprint() == "3c5ecb5398bd119c"


def test_the_sheet_stands_at_the_end_of_the_system_turn(tmp_path):
    task = load_task(write_chat_task(tmp_path / "host"))
    turns = [{"role": "user", "content": "Hello"}]
    assert told_prompt(task, turns, "S") == [{"role": "system", "content": f"{SYSTEM}\n\nS"}, *turns]
    own = [{"role": "system", "content": "Be brief."}, *turns]
    assert told_prompt(task, own, "S")[0]["content"] == "Be brief.\n\nS" and own[0]["content"] == "Be brief."
    bare = load_task(write_chat_task(tmp_path / "bare", system_prompt=""))
    assert told_prompt(bare, "Hello", "S") == [{"role": "system", "content": "S"}, *turns]


def test_a_sheet_is_cut_at_the_end_of_a_line_where_there_is_no_room(tmp_path, tiny_model):
    task, tokenizer = load_task(write_chat_task(tmp_path / "host")), load_tokenizer(str(tiny_model))
    asked = [task.asked(row) for row in task.rows("test")]
    whole = fit_sheet(tokenizer, task, asked, 6, None)
    assert whole.text == SHEET and whole.cut == 0 and whole.file == "SHEET.md"
    longest = max(len(prompt_ids(tokenizer, told_prompt(task, turns, SHEET))) for turns in asked)
    assert fit_sheet(tokenizer, task, asked, 6, longest + 6) == whole
    short = fit_sheet(tokenizer, task, asked, 6, longest + 5)
    assert short.text == SHEET.rpartition("\n")[0] and short.cut == whole.tokens - short.tokens > 0
    assert max(len(prompt_ids(tokenizer, told_prompt(task, turns, short.text))) for turns in asked) + 6 <= longest + 5
    with pytest.raises(KitError, match="nothing can be told"):
        fit_sheet(tokenizer, task, asked, 6, 40)


def test_a_sheet_that_is_missing_empty_or_out_of_place_is_named(tmp_path):
    folder, said = write_chat_task(tmp_path / "host"), []
    (folder / "SHEET.md").write_text(" \n", encoding="utf-8")
    with pytest.raises(KitError, match=r"SHEET\.md is empty"):
        read_sheet(load_task(folder))
    (folder / "SHEET.md").unlink()
    assert not has_sheet(load_task(folder), said.append) and "SHEET.md is missing" in said[0]
    none = load_task(write_chat_task(tmp_path / "none", told=None))
    assert not has_sheet(none, said.append) and len(said) == 1
    with pytest.raises(KitError, match=r'names no sheet to tell: write told = "SHEET\.md"'):
        read_sheet(none)
    with pytest.raises(KitError, match="should be the name of a file in the task's folder"):
        load_task(write_chat_task(tmp_path / "far", told="../SHEET.md"))
    desk = shutil.copytree(kit_root() / "data" / "desk", tmp_path / "desk")
    (desk / "task.toml").write_text('told = "GUIDE.md"\n' + (desk / "task.toml").read_text(encoding="utf-8"))
    with pytest.raises(KitError, match=r'told "GUIDE\.md" is for conversations, and this task is of kind json'):
        load_task(desk)
