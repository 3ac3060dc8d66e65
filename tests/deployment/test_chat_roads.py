"""The roads out of a run of conversations: over three turns they read, answer and end as the kit does."""

import json

import pytest

from ftkit.common.errors import KitError
from ftkit.data.conversation.rows import exchanges
from ftkit.data.task import load_task
from ftkit.deployment import fidelity as merging
from ftkit.deployment.proof import Talk, answering, longest_talks, talk_on, turns_agree
from ftkit.deployment.roads import export as exporting
from ftkit.deployment.roads.export import export
from ftkit.deployment.roads.go_template import conversation_template, fill_template
from ftkit.deployment.roads.ollama import modelfile
from ftkit.evaluation.answer import load_tuned
from ftkit.evaluation.conversations.scores import TURNS
from ftkit.models.chat_template import adds_begin, mend_template
from ftkit.models.load import load_tokenizer
from ftkit.runs.card import make_card
from ftkit.runs.documents import Agreement, ExportRecord
from tests.data.conversation.chats import SYSTEM
from tests.data.conversation.test_turns import FAMILIES
from tests.data.test_prompt import make_tokenizer
from tests.deployment.test_roads import code, parts, quiet, run_code

BY_PLACE = "mistral, the system prompt last"


def chats(system, task):
    """Whole conversations up to each of the user's turns, the system turn first where there is one."""
    told = [{"role": "system", "content": system}] if system else []
    return [[*told, *task.asked(part)] for part in exchanges(task, task.rows("test"))]


def own_text(tokenizer, chat):
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return text.removeprefix(tokenizer.bos_token) if adds_begin(tokenizer) else text


# --- Ollama ---


@pytest.mark.parametrize("system", [SYSTEM, ""])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != BY_PLACE])
def test_ollamas_template_gives_the_tokenizers_bytes_over_several_turns(family, system, chat_task):
    tokenizer = make_tokenizer(FAMILIES[family], load_task("desk").rows("train")[:50])
    mend_template(tokenizer, family)
    template = conversation_template(tokenizer, system)
    asked = chats(system, chat_task)
    assert max(map(len, asked)) >= 5
    for chat in asked:
        assert fill_template(template, chat) == own_text(tokenizer, chat)


def test_ollamas_template_of_the_packaged_model_is_a_loop_that_people_can_read():
    template = conversation_template(load_tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct"), SYSTEM)
    turn = '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ else if'
    assert turn in template and template.endswith("{{ end }}{{ end }}<|im_start|>assistant\n")
    # without a system turn it writes its own, as the tokenizer does
    assert template.startswith("{{ if not .System }}<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


def test_a_template_that_goes_by_the_place_of_a_turn_is_refused_with_the_reason():
    tokenizer = make_tokenizer(FAMILIES[BY_PLACE], load_task("desk").rows("train")[:50])
    with pytest.raises(KitError, match=r"cannot be written as Ollama's for several turns: .* Export merged or gguf instead"):
        conversation_template(tokenizer, SYSTEM)
    tokenizer.chat_template = FAMILIES["chatml"].template.replace("<|im_end|>", "{{ '{{' }}<|im_end|>")
    with pytest.raises(KitError, match=r"it holds \{\{ or \}\}"):
        conversation_template(tokenizer, SYSTEM)


def test_the_filling_knows_the_actions_of_the_kit_and_no_others():
    turns = [{"role": "user", "content": "{{ .System }}"}]  # what stands in a message stays text
    assert fill_template("a{{ range .Messages }}<{{ .Content }}>{{ end }}b", turns) == "a<{{ .System }}>b"
    for strange in ("{{ .Prompt }}", "{{ if gt 1 2 }}a{{ end }}"):
        with pytest.raises(ValueError, match="no such"):
            fill_template("{{ range .Messages }}" + strange + "{{ end }}", turns)


# --- the exports ---


@pytest.fixture(scope="module")
def exports(chat_run, tmp_path_factory):
    place = tmp_path_factory.mktemp("chat-exports")
    return {to: (place / to, export(chat_run, to, place / to, say=quiet)) for to in ("merged", "ollama", "server")}


@pytest.mark.parametrize("to", ["merged", "ollama", "server"])
def test_an_export_goes_on_with_conversations_as_the_run_does(exports, to):
    folder, record = exports[to]
    turns = record.verification.turns
    assert ExportRecord.load(folder) == record and turns.conversations == 6
    assert turns.same_prompts == turns.prompts == 13 and turns.same_ends  # two of three turns, three of two, one of one
    assert len(turns.identical) == 3 and turns.identical[0] > 0.2  # of a random model some ties fall otherwise
    assert "6 conversations gone on with after its own answers" in exporting.describe_turns(turns)


def test_an_export_that_reads_or_ends_a_conversation_differently_is_doubted(exports):
    record = exports["merged"][1]
    assert "reads or ends" not in exporting.doubt(record)
    for changes in ({"same_prompts": 3}, {"same_ends": False}):
        turns = record.verification.turns.model_copy(update=changes)
        proof = Agreement(n=8, identical=1, same_answer=1, turns=turns)
        assert "it reads or ends a conversation differently" in exporting.doubt(
            record.model_copy(update={"verification": proof})
        )


def test_other_prompts_ends_and_answers_are_seen(chat_run, chat_task):
    some = longest_talks(chat_task, chat_task.rows("test"), 2)
    assert [part["answer"] for part in some] == [1, 2, 3, 1, 2, 3]
    with answering(chat_run, lambda: load_tuned(chat_run)) as answerer:
        talk = talk_on(answerer, some)
        again = talk.with_prompts_of(talk.chats, answerer)
        answerer.tokenizer.chat_template = "x" + answerer.tokenizer.chat_template
        other = talk.with_prompts_of(talk.chats, answerer)
    assert turns_agree(talk, again).same_prompts == 6 and turns_agree(talk, other).same_prompts == 0
    later = {place: text + "!" if place[1] == 2 else text for place, text in talk.answers.items()}
    agree = turns_agree(talk, Talk(later, again.chats, again.prompts, [*again.ends, 5]))
    assert agree.identical == [1, 0, 1] and not agree.same_ends


def test_the_modelfile_holds_a_loop_over_the_turns_and_room_for_them(exports, chat_run, chat_task):
    folder, _ = exports["ollama"]
    texts, parameters = parts((folder / "Modelfile").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(chat_run.profile.model, chat_run.adapter)
    for chat in chats(SYSTEM, chat_task):
        assert fill_template(texts["TEMPLATE"], chat) == own_text(tokenizer, chat)
    assert texts["SYSTEM"] == SYSTEM and ["num_ctx", "2048"] in parameters and ["stop", '"<|im_end|>"'] in parameters
    ends = {tokenizer.convert_ids_to_tokens(i) for i in chat_run.record.guards.end_tokens}
    assert ends <= {json.loads(value) for name, value in parameters if name == "stop"}
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "ollama run host\n" in readme and "may have 2,048 tokens" in readme and 'a message"' not in readme
    assert "num_ctx" not in modelfile(chat_run, tokenizer, [2])


def test_the_cards_code_goes_on_with_the_conversation(exports, chat_run):
    folder, _ = exports["merged"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "trained on every answer of a conversation" in text and "reads its own earlier answers" in text
    lines = code(text)
    assert 8 <= len(lines.strip().splitlines()) <= 16 and json.dumps(SYSTEM) in lines
    done = run_code(lines + "print([turn['role'] for turn in chat])\n", folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("['system', 'user', 'assistant', 'user']")
    assert "every answer of a conversation" in str(make_card(chat_run))


def test_the_servers_script_begins_with_the_system_turn_of_the_training(exports):
    """That it works, against the real server, is held by `test_the_server_gives_the_tuned_answer_to_an_openai_client`."""
    folder, _ = exports["server"]
    script, readme = ((folder / name).read_text(encoding="utf-8") for name in ("ask.py", "README.md"))
    system = [{"role": "system", "content": SYSTEM}]
    assert f"chat = {json.dumps(system)}\n" in script and "max_tokens=10)" in script
    compile(script, "ask.py", "exec")
    assert (
        "python ask.py    # in a second terminal: a conversation" in readme and "send all turns so far each time" in readme
    )


# --- fidelity ---


def test_the_ways_of_merging_are_compared_over_three_turns(chat_run):
    from rich.console import Console

    said = []
    result = merging.compare_merges(chat_run, limit=3, say=said.append)
    assert list(result.variants) == list(merging.VARIANTS) and (result.n, result.of) == (3, 8)
    for key, variant in result.variants.items():
        assert TURNS in variant.scores
        if key != "adapter":
            assert variant.turns.conversations == 3 and variant.turns.same_prompts == variant.turns.prompts == 6
            assert len(variant.turns.identical) == 3 and variant.against_adapter[TURNS].n == 3
    assert merging.load_fidelity(chat_run) == result and any("6 answers in" in line for line in said)
    console = Console(width=120, record=True)
    console.print(merging.fidelity_table(result))
    text = console.export_text()
    assert "answer 3" in text and "same prompts" in text and "6 of 6" in text and "turns met, difference" in text
    assert len(merging.describe_fidelity(result)) == 4


def test_conversations_of_more_than_three_turns_are_cut_to_three(chat_task):
    row = chat_task.rows("test")[2]
    longer = {**row, "messages": row["messages"] + row["messages"][:4], "expect": [*row["expect"], *row["expect"][:2]]}
    rows = [longer, *chat_task.rows("test")[:1]]
    assert [part["answer"] for part in longest_talks(chat_task, rows)] == [1, 2, 3, 1]
