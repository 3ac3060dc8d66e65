"""A tiny model and a tiny task, made in memory: the tests need seconds, not a trained model."""

import json
import os
import shutil
import threading
import time
from collections import Counter

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # processes that share the cores stop each other, unless told
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

import pytest

from ftkit.common.paths import kit_root, load_app
from ftkit.common.profiles import Choice, read_profiles
from ftkit.data.task import load_task
from ftkit.models.load import quiet_libraries
from tests.browser import CHROMIUM, NONE, open_browser

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def desk_tokenizer():
    """A tokenizer trained on the desk's messages, with ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rows = load_task("desk").rows("train")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([json.dumps(row, ensure_ascii=False) for row in rows], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    wrapped.chat_template = CHATML
    return wrapped


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        pytest.skip(NONE)
    pytest.importorskip("playwright.sync_api")
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a two-layer Llama with random weights and a tokenizer trained on the desk's messages."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    quiet_libraries()
    wrapped = desk_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.2,  # answers that differ from message to message
    )
    folder = tmp_path_factory.mktemp("tiny-model")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """Folder of a two-layer BERT with random weights that knows the desk's words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word for row in load_task("desk").rows("train") for word in row["message"].lower().split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep")}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-encoder")
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, initializer_range=0.2, **shape)
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_task_folder(tmp_path_factory):
    """A copy of the desk task with 48 training, 8 validation and 12 test messages."""
    folder = tmp_path_factory.mktemp("tasks") / "small"
    folder.mkdir()
    shutil.copy(kit_root() / "data" / "desk" / "task.toml", folder)
    desk = load_task("desk")
    for split, n in {"train": 48, "validation": 8, "test": 12}.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in desk.rows(split)[:n]]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_task(tiny_task_folder):
    return load_task(tiny_task_folder)


@pytest.fixture(scope="session")
def tiny_choice(tiny_model):
    profile = read_profiles()["ci"].with_changes(
        model=str(tiny_model),
        rank=8,
        alpha=8,
        learning_rate=2e-3,
        max_steps=12,
        checkpoint_steps=4,
        batch_size=4,
        gradient_accumulation=1,
        max_new_tokens=24,
    )
    return Choice(profile, "a test")


def trained_apart(task, choice, folder):
    """A new run, in a folder of runs of its own: no test finds another test's run."""
    from ftkit.training.finetune import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTKIT_RUNS", str(folder))
        return train(task, choice, fresh=True, say=lambda line: None)


@pytest.fixture(scope="session")
def tiny_run(tiny_task, tiny_choice, tmp_path_factory):
    run = trained_apart(tiny_task, tiny_choice, tmp_path_factory.mktemp("tiny-runs"))
    run.update(training=run.training.model_copy(update={"longest_completion": 12}))  # short answers: quick tests
    return run


@pytest.fixture(scope="session")
def answerer(tiny_run):
    from ftkit.evaluation.answer import Answerer

    return Answerer.of_run(tiny_run)


@pytest.fixture(scope="session")
def chat_task(tmp_path_factory):
    """A small task of conversations, with a sheet."""
    from tests.data.conversation.chats import write_chat_task

    return load_task(write_chat_task(tmp_path_factory.mktemp("chat") / "host"))


@pytest.fixture(scope="session")
def chat_choice(tiny_choice):
    from dataclasses import replace

    changes = {"max_steps": 8, "checkpoint_steps": 4, "max_new_tokens": 6, "max_length": 512}
    return replace(tiny_choice, profile=tiny_choice.profile.with_changes(**changes))


@pytest.fixture(scope="session")
def chat_run(chat_task, chat_choice, tmp_path_factory):
    run = trained_apart(chat_task, chat_choice, tmp_path_factory.mktemp("chat-runs"))
    run.update(training=run.training.model_copy(update={"longest_completion": 6}))  # short answers: quick tests
    return run


@pytest.fixture
def broken_task(tiny_task_folder, tmp_path):
    """A copy of the small task, to be broken."""
    return shutil.copytree(tiny_task_folder, tmp_path / "small")


TICKET = {"intent": "book", "urgency": "normal", "guests": 4, "day": "friday", "time": "20:00", "allergens": ["nuts"]}


@pytest.fixture(scope="session")
def ending_model(tiny_model, tmp_path_factory):
    """The tiny model, able to learn to end: its end token, also used for padding, was made with an embedding of zeros."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, folder = AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path_factory.mktemp("ending-model")
    rows = model.get_input_embeddings().weight
    with torch.no_grad():
        rows[model.config.pad_token_id] = rows[3:].mean(dim=0) + rows[3:].std() * torch.ones_like(rows[0])
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def talking_model(tiny_model, tmp_path_factory):
    """The tiny model, but that it ends an answer where it would have written a token that it likes: most answers end."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    chats = [[{"role": "user", "content": row["message"]}] for row in load_task("desk").rows("train")[:32]]
    tokenizer.padding_side = "left"
    ids = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**ids, max_new_tokens=24, do_sample=False)[:, ids["input_ids"].shape[1] :].tolist()
    first, later = {row[0] for row in written}, Counter(token for row in written for token in {*row[1:]})
    liked = next(token for token, _ in later.most_common() if token not in first)
    head = model.lm_head.weight.detach().clone()
    head[model.config.eos_token_id] = 1.1 * head[liked]
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    folder = tmp_path_factory.mktemp("talking-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ticket_run(tiny_task_folder, tiny_choice, ending_model, tmp_path_factory):
    """A run of the tiny model that has learned to answer everything with `TICKET`, and to end there."""
    from dataclasses import replace

    folder = shutil.copytree(tiny_task_folder, tmp_path_factory.mktemp("tickets") / "small")
    rows = [{**row, "ticket": TICKET} for row in load_task("desk").rows("train")[:640]]  # many: the message decides nothing
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = {"max_steps": 160, "checkpoint_steps": 160, "learning_rate": 5e-3, "rank": 32, "alpha": 32, "max_new_tokens": 60}
    more["model"] = str(ending_model)
    choice = replace(tiny_choice, profile=tiny_choice.profile.with_changes(**more))
    run = trained_apart(load_task(folder), choice, tmp_path_factory.mktemp("ticket-runs"))
    row = run.task.rows("test")[1]
    assert row["ticket"]["guests"] == 2  # the learned answer says 4
    saved = [{"settings": {}}, {"message": row["message"], "prediction": json.dumps(TICKET), "seconds": 0.1}]
    path = run.folder / "predictions" / "test-tuned.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in saved), encoding="utf-8")
    return run


@pytest.fixture(scope="session")
def demo():
    """The module `apps/demo.py`."""
    return load_app("demo")


@pytest.fixture(scope="session")
def ticket_page(demo, ticket_run):
    """The demo of `ticket_run`, served."""
    page = demo.launch(ticket_run, block=False)
    yield page
    page.close()


@pytest.fixture(scope="session")
def moody_page(demo, ticket_run):
    """The demo of `ticket_run` served, with a model that has moods: its `answerer` says which."""
    from ftkit.evaluation.answer import Answerer

    class Moody(Answerer):
        """Fails midway at a message with "fail" in it, waits for `go` at one with "wait", and with "pause" as soon as a part
        of both answers is there; counts its streams.
        """

        def stream(self, message, *given, **more):
            self.begun.append(message)
            self.open, self.most = self.open + 1, max(self.most, self.open + 1)
            try:
                if "wait" in message:
                    self.go.wait(60)
                for n, answers in enumerate(super().stream(message, *given, **more)):
                    if "fail" in message and n == 5:
                        raise RuntimeError(message)
                    yield answers
                    if "pause" in message and all(each.text for each in answers.values()):
                        self.go.wait(60)
            finally:
                self.open -= 1

    whole = Answerer.of_run(ticket_run)
    moody = Moody(whole.task, whole.model, whole.tokenizer, max_new_tokens=whole.max_new_tokens, worker=whole.worker)
    moody.begun, moody.open, moody.most, moody.go = [], 0, 0, threading.Event()
    page = demo.launch(ticket_run, block=False, answerer=moody)
    page.answerer = moody
    yield page
    moody.go.set()
    page.close()


@pytest.fixture(scope="session")
def talking_run(talking_model, tiny_choice, tmp_path_factory):
    """A run of the tiny model on conversations: short answers, of which most end, and room for few turns."""
    from dataclasses import replace

    from tests.data.conversation.chats import write_chat_task

    task = load_task(write_chat_task(tmp_path_factory.mktemp("chats") / "host"))
    more = {"model": str(talking_model), "max_steps": 4, "checkpoint_steps": 4, "max_length": 512, "max_new_tokens": 12}
    choice = replace(tiny_choice, profile=tiny_choice.profile.with_changes(**more))
    run = trained_apart(task, choice, tmp_path_factory.mktemp("chat-runs"))
    run.update(
        training=run.training.model_copy(update={"longest_completion": 8}),
        profile=run.profile.with_changes(max_length=200),  # the page cuts early
    )
    return run


@pytest.fixture(scope="session")
def chat_page(demo, talking_run):
    """The demo of `talking_run`, served by a model that fails midway at "fail" and waits for `go` at "wait"."""
    from ftkit.evaluation.answer import TUNED, Answerer

    class Moody(Answerer):
        def grow(self, prompts, *given, **more):
            asked = self.tokenizer.decode(prompts[TUNED]).rsplit("user\n", 1)[-1]
            if "wait" in asked:
                self.go.wait(60)
            for n, answers in enumerate(super().grow(prompts, *given, **more)):
                if "fail" in asked and n == 2:
                    raise RuntimeError(asked)
                yield answers

    whole = Answerer.of_run(talking_run)
    moody = Moody(whole.task, whole.model, whole.tokenizer, max_new_tokens=whole.max_new_tokens, worker=whole.worker)
    moody.go = threading.Event()
    moody.go.set()
    page = demo.launch(talking_run, block=False, answerer=moody)
    page.answerer = moody
    yield page
    moody.go.set()
    page.close()


@pytest.fixture
def full(moody_page, demo):
    """`moody_page` with one message under way and as many waiting as may wait; they go on when the test is over."""
    import httpx

    moody_page.answerer.go.clear()
    try:
        for number in range(demo.WAITING + 1):
            sent = httpx.post(f"{moody_page.local_url}gradio_api/call/answer", json={"data": [f"wait {number}"]})
            assert sent.status_code == 200
            deadline = time.monotonic() + 30
            while not moody_page.answerer.open and time.monotonic() < deadline:  # the first has left the queue
                time.sleep(0.01)
        yield moody_page
    finally:
        drain(moody_page)


def drain(page):
    """Let the messages that wait at `moody_page` be answered, all of them."""
    page.answerer.go.set()
    deadline = time.monotonic() + 60
    while (len(page._queue) or page.answerer.open) and time.monotonic() < deadline:
        time.sleep(0.05)
