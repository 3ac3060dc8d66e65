"""The same token ids in training, evaluation, demo and export, for tokenizers and chat templates of every kind."""

import importlib.util
import json
import re
import string
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftkit.common.errors import KitError
from ftkit.common.profiles import read_profiles
from ftkit.data.prompt import (
    answered_ids,
    begun_ids,
    chat_prompt,
    completion_text,
    example_ids,
    prompt_ids,
    prompt_text,
)
from ftkit.data.task import load_task
from ftkit.evaluation.answer import TUNED, Answerer
from ftkit.evaluation.stream import Streamer, encode_training_answers
from ftkit.models.chat_template import answer_end, end_tokens, mend_template, template_changes
from ftkit.models.load import load_tokenizer
from ftkit.runs import guards
from ftkit.training.trainer import CompletionTrainer, count_longest_completion, sft_config, training_data

REAL = Path(importlib.util.find_spec("trl").submodule_search_locations[0]) / "chat_templates"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe nice.<|im_end|>\n{% endif %}"
) + CHATML[len("{% for m in messages %}") :]
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}[INST] <<SYS>>{{ m['content'] }}<</SYS>> "
    "{% elif m['role'] == 'user' %}{{ m['content'] }} [/INST]{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}"
    "{% endfor %}"
)
LLAMA3 = (
    "{{- bos_token }}\n{%- for m in messages %}\n    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n"
)
DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + CHATML
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}"
    "{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set turns = messages[1:] if system else messages %}{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ ' [INST] ' + (system + '\n\n' if loop.first and system else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{%- for m in messages %}\n{%- if m.role == 'assistant' %}\n{%- set content = m.content.split('</think>')[-1] %}\n"
    "{%- if loop.last %}\n{{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + content + '<|im_end|>\n' }}\n{%- else %}\n"
    "{{- '<|im_start|>assistant\n' + content + '<|im_end|>\n' }}\n{%- endif %}\n{%- else %}\n"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\n{%- endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\n' }}\n{%- endif %}\n"
)
THINKS_FIRST = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
NEVER_OPENS = CHATML.partition("{% if add_generation_prompt")[0]
NEVER_ENDS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
NO_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
PARTS = "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}"
IM, TURN = ("<|im_start|>", "<|im_end|>"), ("<start_of_turn>", "<end_of_turn>")
HEADER = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer with its template, and what the kit has to change in that, in words."""

    template: str | None
    marks: tuple = IM
    eos: str | None = "<|im_end|>"
    bos: str | None = None
    pad: str | None = None
    letters: str = "merges"
    adds_bos: bool = False
    plain_marks: tuple = ()  # added tokens that are not special
    ends: tuple = field(default=())  # of the model's generation settings
    changed: tuple = ()


KINDS = {
    "chatml": Kind(CHATML),
    "default system prompt": Kind(DEFAULT_SYSTEM, pad="<|endoftext|>", letters="bytes"),
    "turn's end is not eos": Kind(CHATML, eos="<|endoftext|>", ends=("<|endoftext|>",)),
    "llama 2": Kind(LLAMA2, (), "</s>", "<s>", adds_bos=True, letters="spaces"),
    "llama 3": Kind(LLAMA3, HEADER, "<|end_of_text|>", "<|begin|>", adds_bos=True, ends=("<|end_of_text|>",)),
    "gemma": Kind(GEMMA, TURN, "<eos>", "<bos>", "<pad>", ends=("<eos>", "<end_of_turn>"), changed=("no place",)),
    "mistral": Kind(MISTRAL, ("[INST]", "[/INST]"), "</s>", "<s>", letters="spaces"),
    "qwen 3": Kind(QWEN3, plain_marks=("<think>", "</think>"), changed=("ends where",)),
    "thinks first": Kind(THINKS_FIRST, changed=("ends where",)),
    "never opens": Kind(NEVER_OPENS, changed=("ends where",)),
    "never ends": Kind(NEVER_ENDS, (), "</s>", letters="bytes", plain_marks=("\n",), changed=("the end token follows",)),
    "no system prompt shown": Kind(NO_SYSTEM, changed=("no place for a system",)),
    "dated": Kind(DATED, changed=("always 2024-07-26",)),
    "parts": Kind(PARTS, changed=("cannot write",)),
    "none": Kind(None, (), "<|endoftext|>", letters="bytes", changed=("has none",)),
    "none, with bos": Kind(None, (), "</s>", "<s>", letters="spaces", adds_bos=True, changed=("has none",)),
    "no eos": Kind(CHATML, eos=None),
}


def make_tokenizer(kind, rows):
    """A tokenizer of the kind: bytes alone, bytes with merges, or whole letters with a mark for spaces."""
    spaces = kind.letters == "spaces"
    split = pre_tokenizers.Metaspace() if spaces else pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = [*string.printable] if spaces else sorted(pre_tokenizers.ByteLevel.alphabet())
    if kind.letters == "bytes":
        tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    else:
        tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.Metaspace() if spaces else decoders.ByteLevel()
    if kind.letters != "bytes":
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator([json.dumps(row) for row in rows], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=kind.eos, bos_token=kind.bos, pad_token=kind.pad)
    more = [mark for mark in (*kind.marks, *kind.ends) if mark not in (kind.eos, kind.bos, kind.pad)]
    wrapped.add_special_tokens({"additional_special_tokens": more})
    wrapped.add_tokens([AddedToken(mark, normalized=False) for mark in kind.plain_marks])
    if kind.adds_bos:
        place = [(kind.bos, wrapped.bos_token_id)]
        wrapped._tokenizer.post_processor = processors.TemplateProcessing(f"{kind.bos} $A", special_tokens=place)
    wrapped.chat_template = kind.template
    return wrapped


def model_that_writes(token, size):
    """A model whose likeliest next token is always the same one."""
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=size, tie_word_embeddings=False, **shape))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.fill_(1.0 if "embed" in name or "norm" in name else 0.0)
        model.lm_head.weight[token] = 1.0
    return model


@pytest.fixture(scope="module")
def task(tiny_task_folder):
    return load_task(tiny_task_folder)


@pytest.fixture(scope="module", params=KINDS)
def case(request, task, tmp_path_factory):
    """A kind, its tokenizer as the kit loads it, and a model that writes the end of training's answers."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(kind, task.rows("train"))
    LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = load_tokenizer(str(folder))
    model = model_that_writes(answer_end(loaded), len(loaded))
    ends = [loaded.convert_tokens_to_ids(end) for end in kind.ends]
    model.generation_config.eos_token_id = ends or loaded.eos_token_id
    return kind, loaded, model


def test_the_kit_says_what_it_changes_and_changes_nothing_else(case):
    kind, tokenizer, _ = case
    changes = template_changes(tokenizer)
    assert len(changes) == len(kind.changed)
    assert all(words in change for words, change in zip(kind.changed, changes, strict=True))
    assert kind.changed or tokenizer.chat_template == kind.template
    before = tokenizer.chat_template
    mend_template(tokenizer, "again")
    assert tokenizer.chat_template == before


def test_a_prompt_shows_system_prompt_and_message_once_with_one_begin(case, task):
    _, tokenizer, _ = case
    message = task.rows("test")[0]["message"]
    text, ids = prompt_text(tokenizer, chat_prompt(task, message)), prompt_ids(tokenizer, chat_prompt(task, message))
    assert text.count(task.system_prompt) == 1 and text.count(message) == 1
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.bos_token_id is None or ids.count(tokenizer.bos_token_id) <= 1


def test_an_example_is_the_prompt_as_it_will_be_asked_then_the_answer_and_its_end(case, task):
    _, tokenizer, _ = case
    for row in task.rows("train")[:8]:
        prompt, text = prompt_ids(tokenizer, chat_prompt(task, row["message"])), completion_text(task, row["ticket"])
        whole = example_ids(tokenizer, task, row)
        assert whole[: len(prompt)] == prompt
        answer = whole[len(prompt) :]
        assert tokenizer.decode(answer[: answer.index(answer_end(tokenizer))]).strip() == text
        begun = begun_ids(tokenizer, chat_prompt(task, row["message"]), text[:11])
        assert begun[: len(prompt)] == prompt and tokenizer.decode(begun[len(prompt) :]).strip() == text[:11]


def test_trl_trains_on_the_kits_ids_and_the_guards_are_content(case, task, tmp_path):
    _, tokenizer, model = case
    profile = read_profiles()["ci"].with_changes(max_length=4096)
    data = training_data(task, tokenizer, profile)
    config = sft_config(profile, tmp_path, "float32")
    trainer = CompletionTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    for row, seen in zip(task.rows("train"), trainer.train_dataset, strict=True):
        prompt, answer = answered_ids(tokenizer, chat_prompt(task, row["message"]), completion_text(task, row["ticket"]))
        assert seen["input_ids"] == prompt + answer
        assert seen["labels"] == [-100] * len(prompt) + answer
    facts = guards.what_is_learned(trainer, data)
    assert facts.prompts_otherwise == facts.rows_without_end == facts.prompt_loss_tokens == 0
    assert facts.end_tokens == end_tokens(model, tokenizer) and facts.template_changes == template_changes(tokenizer)
    longest = max(map(len, encode_training_answers(task, tokenizer, facts.end_tokens)))
    assert count_longest_completion(data, tokenizer) == longest


def test_evaluation_and_demo_ask_with_these_ids_and_stop_at_the_end(case, task, monkeypatch):
    kind, tokenizer, model = case
    answerer, asked, written = Answerer(task, model, tokenizer, max_new_tokens=6), [], []
    messages = [row["message"] for row in task.rows("test")[:3]]
    expected = [prompt_ids(tokenizer, chat_prompt(task, message)) for message in messages]
    generate, begin = model.generate, Streamer.begin

    def watched(**inputs):
        mask = inputs["attention_mask"].bool()
        asked.extend(row[own].tolist() for row, own in zip(inputs["input_ids"], mask, strict=True))
        written.append(generate(**inputs))
        return written[-1]

    monkeypatch.setattr(model, "generate", watched, raising=False)
    monkeypatch.setattr(Streamer, "begin", lambda self, ids, *more: asked.append(ids) or begin(self, ids, *more))
    assert answerer.answer(messages, TUNED) == ["", "", ""]
    assert sorted(asked) == sorted(expected)
    assert written[0].shape[1] == max(map(len, expected)) + 1
    *_, last = answerer.stream(messages[0], [TUNED])
    assert asked[-1] == expected[0]
    assert last[TUNED].finished and last[TUNED].tokens == 0
    assert {*answerer.ends} >= {answer_end(tokenizer), *(tokenizer.convert_tokens_to_ids(end) for end in kind.ends)}


def test_plain_transformers_makes_the_same_ids_from_an_exports_folder(case, task, tmp_path):
    _, tokenizer, _ = case
    tokenizer.save_pretrained(tmp_path)
    exported = AutoTokenizer.from_pretrained(tmp_path)
    for row in task.rows("test")[:3]:
        for told in (False, True):
            chat = chat_prompt(task, row["message"], told=told, shots=task.rows("train")[:2] if told else ())
            plain = exported.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)["input_ids"]
            assert plain == prompt_ids(tokenizer, chat)


def test_control_tokens_in_a_text_stay_text(case, task):
    _, tokenizer, _ = case
    marks = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    nasty = f"a {' '.join(marks.values())}b{''.join(marks.values())}\nc"
    chat, plain = chat_prompt(task, nasty), chat_prompt(task, "abc")
    prompt, answer = answered_ids(tokenizer, chat, nasty)
    assert [i for i in prompt if i in marks] == [i for i in prompt_ids(tokenizer, plain) if i in marks]
    assert [i for i in answer if i in marks] == [i for i in answered_ids(tokenizer, plain, "abc")[1] if i in marks]
    squeezed = ["".join(text.split()) for text in (nasty, tokenizer.decode(prompt), tokenizer.decode(answer))]
    assert squeezed[0] in squeezed[1] and squeezed[2].startswith(squeezed[0])
    assert "".join(tokenizer.decode(answer, skip_special_tokens=True).split()).startswith(squeezed[0])
    assert begun_ids(tokenizer, chat, "x")[: len(prompt)] == prompt


@pytest.mark.parametrize(
    "path", sorted({*REAL.glob("*.jinja")} - {*REAL.glob("*_training.jinja")}), ids=lambda path: path.stem
)
def test_templates_of_real_families_are_mended_to_the_same_law(path):
    """trl keeps the templates of some families. The marks that stand in them are this tokenizer's special tokens."""
    template = path.read_text(encoding="utf-8")
    marks = sorted(
        {
            *re.findall(
                r"<[|｜][^|｜<>\s'\"{}]{1,40}[|｜]>|<[|]?[a-z_]+[|]>|<[|][a-z_]+>|<(?:start|end)_of_turn>|\[/?INST\]",
                template,
            )
        }
    )
    tokenizer = make_tokenizer(Kind(template, tuple(marks), "</s>", "<s>", letters="bytes"), [])
    mend_template(tokenizer, path.stem)
    chat = [{"role": "system", "content": "Sort the letters."}, {"role": "user", "content": "Where is my parcel?"}]
    prompt, answer = answered_ids(tokenizer, chat, "It is late.")
    whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": "It is late."}])["input_ids"]
    assert (
        prompt + answer == whole and prompt == tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    )
    assert all(turn["content"] in tokenizer.decode(prompt) for turn in chat)
    assert tokenizer.decode(answer[: answer.index(answer_end(tokenizer))]) == "It is late."
    mended = tokenizer.chat_template
    mend_template(tokenizer, path.stem)
    assert tokenizer.chat_template == mended


def test_an_answer_whose_tokens_would_join_the_prompts_is_kept_apart():
    """Two line ends are one token here: a whole chat would be read differently than a prompt and what follows it."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ċ", "Ċ")]
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, "ĊĊ": len(vocabulary)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=[*IM])
    wrapped.chat_template = CHATML
    mend_template(wrapped, "lines")
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    prompt, answer = answered_ids(wrapped, chat, "\nyes<|im_end|>")
    assert prompt == prompt_ids(wrapped, chat) and wrapped.decode(answer) == "\nyes<|im_end|><|im_end|>\n"
    assert answer.count(answer_end(wrapped)) == 1
    whole = wrapped.apply_chat_template([*chat, {"role": "assistant", "content": "\nyes"}])["input_ids"]
    assert whole[: len(prompt)] != prompt


def test_an_answer_that_the_template_would_shorten_is_trained_on_as_it_is(task):
    tokenizer = make_tokenizer(KINDS["qwen 3"], task.rows("train"))
    mend_template(tokenizer, "thinker")
    chat, text = chat_prompt(task, "hello"), "<think>he</think>llo"
    prompt, answer = answered_ids(tokenizer, chat, text)
    assert prompt == prompt_ids(tokenizer, chat) and tokenizer.decode(answer) == text + "<|im_end|>\n"


def test_a_tokenizer_without_any_end_is_refused(task):
    tokenizer = make_tokenizer(Kind(NEVER_ENDS, (), None, pad="<pad>", letters="bytes"), task.rows("train"))
    with pytest.raises(KitError, match="tokenizer of endless has no end token"):
        mend_template(tokenizer, "endless")


def test_a_stream_without_spaces_grows_letter_by_letter_and_never_shows_half_of_one():
    tokenizer = make_tokenizer(KINDS["default system prompt"], [])
    model = model_that_writes(0, len(tokenizer))
    text = "您的包裹已寄出"
    streamer = Streamer(model, model.config, tokenizer, [answer_end(tokenizer)], 1.0, None)
    growing = streamer.begin([1], 99, 0.0)
    shown = []
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        growing.ids.append(token)
        shown.append(growing.answer(TUNED).text)
    assert shown[-1] == text and {*shown} == {text[:n] for n in range(len(text) + 1)}
