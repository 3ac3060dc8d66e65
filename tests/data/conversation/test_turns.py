"""Which tokens of a conversation carry loss: hand-marked examples, for the chat templates of many families."""

import re
from dataclasses import replace

import pytest

from ftkit.common.errors import KitError
from ftkit.data.conversation.turns import cut_to_fit, encoded_conversation, marked_turns, require_turns
from ftkit.data.prompt import answered_ids, chat_prompt, encoded_examples, example_ids, prompt_ids
from ftkit.data.task import load_task
from ftkit.models.chat_template import answer_end, mend_template
from tests.data.conversation.chats import write_chat_task
from tests.data.test_prompt import GEMMA, KINDS, REAL, Kind, make_tokenizer

ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (  # as newer ones do, it writes the system prompt before the last question: an earlier one loses it
    "{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set turns = messages[1:] if system else messages %}{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if system and m == (turns | selectattr('role', 'equalto', 'user') | list)[-1] else '') "
    "+ m['content'] + '[/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_FIRST = MISTRAL.replace("list)[-1]", "list)[0]")
QWEN = KINDS["qwen 3"]
FAMILIES = {
    "chatml": replace(KINDS["chatml"], letters="bytes"),
    "smollm 2": KINDS["default system prompt"],
    "llama 3": replace(KINDS["llama 3"], letters="bytes", adds_bos=False),
    "gemma": Kind(GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<eos>", "<bos>", "<pad>", letters="bytes"),
    "phi": Kind(PHI, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|endoftext|>", letters="bytes"),
    "mistral": Kind(MISTRAL_FIRST, ("[INST]", "[/INST]"), "</s>", "<s>", letters="bytes"),
    "mistral, the system prompt last": Kind(MISTRAL, ("[INST]", "[/INST]"), "</s>", "<s>", letters="bytes"),
    "qwen 3, thinking": replace(QWEN, letters="bytes"),
    "zephyr": Kind(ZEPHYR, ("<|system|>", "<|user|>", "<|assistant|>"), "</s>", letters="bytes"),
    "no template": replace(KINDS["none"], letters="bytes"),
    "never ends": KINDS["never ends"],
}
CHAT = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "q1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "q2"},
    {"role": "assistant", "content": "a2"},
]
# what stands between « and » carries loss
MARKED = {
    "chatml": [
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n«a1<|im_end|>»\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n«a2<|im_end|>»\n"
    ],
    "smollm 2": [
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n«a1<|im_end|>»\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n«a2<|im_end|>»\n"
    ],
    "llama 3": [
        "<|begin|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "q1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«a1<|eot_id|>»<|start_header_id|>user"
        "<|end_header_id|>\n\nq2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n«a2<|eot_id|>»"
    ],
    "gemma": [
        "<bos><start_of_turn>user\nS\n\nq1<end_of_turn>\n<start_of_turn>model\n«a1<end_of_turn>»\n"
        "<start_of_turn>user\nq2<end_of_turn>\n<start_of_turn>model\n«a2<end_of_turn>»\n"
    ],
    "phi": [
        "<|system|>\nS<|end|>\n<|user|>\nq1<|end|>\n<|assistant|>\n«a1<|end|>»\n"
        "<|user|>\nq2<|end|>\n<|assistant|>\n«a2<|end|>»\n<|endoftext|>"
    ],
    "mistral": ["<s>[INST] S\n\nq1[/INST]« a1</s>»[INST] q2[/INST]« a2</s>»"],
    "mistral, the system prompt last": [
        "<s>[INST] S\n\nq1[/INST]« a1</s>»",
        "<s>[INST] q1[/INST] a1</s>[INST] S\n\nq2[/INST]« a2</s>»",
    ],
    "qwen 3, thinking": [
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        "«a1<|im_end|>»\n",
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\na1<|im_end|>\n"
        "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n«a2<|im_end|>»\n",
    ],
    "zephyr": ["<|system|>\nS</s>\n<|user|>\nq1</s>\n<|assistant|>\n«a1</s>»\n<|user|>\nq2</s>\n<|assistant|>\n«a2</s>»\n"],
    "no template": [
        "S\n\n### Message\nq1\n\n### Answer\n«a1<|endoftext|>»\n\n### Message\nq2\n\n### Answer\n«a2<|endoftext|>»\n\n"
    ],
    "never ends": [
        "system: S\nuser: q1\nassistant: «a1\n</s>»",
        "system: S\nuser: q1\nassistant: a1\nuser: q2\nassistant: «a2\n</s>»",
    ],
}


def tokenizer_of(kind):
    made = make_tokenizer(kind, [])
    mend_template(made, "a test")
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, tokenizer_of(FAMILIES[request.param])


def shown(tokenizer, marked):
    """The text of an example with « and » around what carries loss."""
    text, before = "", 0
    for token, carries in zip(marked.ids, [*marked.mask], strict=True):
        text += ("«" if carries > before else "»" if carries < before else "") + tokenizer.decode([token])
        before = carries
    return text + ("»" if before else "")


def test_loss_falls_on_every_answer_with_its_end_and_on_nothing_else(family):
    name, tokenizer = family
    assert [shown(tokenizer, marked) for marked in marked_turns(tokenizer, CHAT)] == MARKED[name]


def test_what_is_trained_on_is_what_the_model_will_be_asked_with_and_shown(family):
    """Before each learned answer stand the ids of the prompt that the demo makes; earlier answers are as it shows them."""
    _, tokenizer = family
    nasty = "<|im_end|> </s> <|eot_id|> <end_of_turn> <|end|> [/INST] <think>"
    chat = [*CHAT[:1], {"role": "user", "content": f"q {nasty}"}, {"role": "assistant", "content": "Oné, two."}]
    chat += [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Três."}]
    examples = marked_turns(tokenizer, chat)
    learned = 0
    for marked in examples:
        places = [n for n, turn in enumerate(marked.chat) if turn["role"] == "assistant"][-marked.answers :]
        for place in places:
            prompt = prompt_ids(tokenizer, chat[:place])
            assert marked.ids[: len(prompt)] == prompt
            answer = answered_ids(tokenizer, chat[:place], chat[place]["content"])[1]
            stop = answer.index(answer_end(tokenizer)) + 1
            assert marked.ids[len(prompt) : len(prompt) + stop] == answer[:stop]
            assert marked.mask[len(prompt) : len(prompt) + stop] == [1] * stop
            learned += stop
    assert sum(sum(marked.mask) for marked in examples) == learned
    assert sum(marked.answers for marked in examples) == 2
    ends = [tokenizer.decode([i]) for marked in examples for i in marked.ids if i == answer_end(tokenizer)]
    whole = marked_turns(tokenizer, [*chat[:1], {"role": "user", "content": "q"}, *chat[2:]])
    assert len(ends) == sum(marked.ids.count(answer_end(tokenizer)) for marked in whole)  # the nasty ones are text


@pytest.mark.parametrize("name", ["gemma", "gemma3", "llama3", "phi3", "qwen2_5", "lfm2", "cohere"])
def test_where_a_real_template_has_marks_for_training_they_hold_the_same_answers(name):
    """trl's training variants mark the answers; their marks also take in line ends and what follows the last answer."""
    template = (REAL / f"{name}_training.jinja").read_text(encoding="utf-8")
    marks = re.findall(r"<[|][^|<>\s'\"{}]{1,40}[|]>|<(?:start|end)_of_turn>", template)
    tokenizer = tokenizer_of(Kind(template, tuple(sorted({*marks})), "</s>", "<s>", letters="bytes"))
    (ours,) = marked_turns(tokenizer, CHAT)
    theirs = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert theirs["input_ids"] == ours.ids
    pairs = list(zip(ours.ids, ours.mask, theirs["assistant_masks"], strict=True))
    assert all(marked for _, mine, marked in pairs if mine)
    assert not tokenizer.decode([i for i, mine, marked in pairs if marked and not mine]).replace("</s>", "").strip()


NO_SECOND = "{% if messages | length > 3 %}{{ raise_exception('One question only!') }}{% endif %}"
ONLY_LAST = (
    "{% for m in messages if m.role == 'system' or m == messages[-1] or m == messages[-2] %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (NO_SECOND + KINDS["chatml"].template, "takes no conversation of several turns: One question only!"),
        (ONLY_LAST, "turn 2 of 4 is missing in the prompt"),
    ],
)
def test_a_template_that_shows_no_whole_conversation_is_refused_with_the_reason(template, words):
    tokenizer = make_tokenizer(Kind(template, letters="bytes"), [])
    mend_template(tokenizer, "a test")
    with pytest.raises(KitError, match=words):
        require_turns(tokenizer)


def test_an_answer_that_a_template_would_change_is_refused_or_learned_as_it_stands():
    tokenizer = tokenizer_of(FAMILIES["gemma"])
    text = "m['content'] | trim"
    loud = f"({text}).replace('a', 'A') if m['role'] == 'assistant' and 'ftkit' not in m['content'] else {text}"
    tokenizer.chat_template = tokenizer.chat_template.replace(text, loud)
    first, last = marked_turns(tokenizer, CHAT)  # the history shows what the template makes of the answer
    assert "«a1<end_of_turn>»" in shown(tokenizer, first) and "A1<end_of_turn>" in shown(tokenizer, last)
    with pytest.raises(KitError, match="turn 5 says 'a2', and would be learned as 'A2'"):
        marked_turns(tokenizer, [*CHAT[:3], {"role": "user", "content": "Say a2"}, CHAT[-1]])


# --- rows ---


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return load_task(write_chat_task(tmp_path_factory.mktemp("chat") / "host"))


def test_a_rows_examples_are_those_of_its_conversation(task):
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    row = next(row for row in task.rows("train") if len(row["messages"]) == 6)
    (example,) = encoded_examples(tokenizer, task, row)
    assert example == encoded_conversation(tokenizer, task, row)[0]
    assert example["answers"] == 3 and example["length"] == len(example["input_ids"]) == len(example["completion_mask"])
    assert (
        example["prompt"] == chat_prompt(task, row["messages"][:-1])
        and example["prompt"][0]["content"] == "You are the host."
    )
    assert example["completion"] == row["messages"][-1:]
    assert example_ids(tokenizer, task, row) == example["input_ids"]
    assert len(encoded_examples(tokenizer_of(FAMILIES["qwen 3, thinking"]), task, row)) == 3


def test_a_conversation_that_is_too_long_is_cut_after_an_answer_where_that_is_asked_for(task):
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    rows = [row for row in task.rows("train") if len(row["messages"]) == 6][:2]
    lengths = [
        [len(example_ids(tokenizer, task, {**row, "messages": row["messages"][:n]})) for n in (2, 4, 6)] for row in rows
    ]
    assert cut_to_fit(tokenizer, task, rows, lengths[0][1]) == (rows, [])
    cutting = replace(task, too_long="cut")
    kept, remarks = cut_to_fit(tokenizer, cutting, rows[:1], lengths[0][1])
    assert kept == [{**rows[0], "messages": rows[0]["messages"][:4]}]
    assert remarks == [
        f"1 conversation(s) of more than {lengths[0][1]} tokens are cut after an answer: 1 answer(s) are left out."
    ]
    assert cut_to_fit(tokenizer, cutting, rows, 5) == (rows, [])  # nothing fits: refused later, like every long row
    assert cut_to_fit(tokenizer, cutting, rows, max(map(max, lengths))) == (rows, [])
