import math
from concurrent.futures import ThreadPoolExecutor
from functools import wraps

import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.data.prompt import chat_prompt, prompt_ids, prompt_text
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.stream import Drafts, Growing
from ftkit.models.load import load_model, load_tokenizer


@pytest.fixture(scope="module")
def messages(tiny_task):
    return [row["message"] for row in tiny_task.rows("test")]


@pytest.fixture(scope="module")
def alone(answerer, messages):
    """Every message answered by itself, with plain `generate`: the adapter on for tuned, off for base."""

    def one(message, side):
        prompt = prompt_text(answerer.tokenizer, answerer.prompt(message, side))
        ids = answerer.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            out = answerer.model.generate(**ids, max_new_tokens=answerer.max_new_tokens, do_sample=False)
        return answerer.tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    tuned = [one(message, TUNED) for message in messages]
    with answerer.model.disable_adapter():
        base = [one(message, BASE) for message in messages]
    return {BASE: base, TUNED: tuned}


def share_equal(some, others):
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(others)


def test_base_and_tuned_differ_and_so_do_the_messages(alone):
    assert share_equal(alone[BASE], alone[TUNED]) < 0.2
    assert len(set(alone[TUNED])) > 6


@pytest.mark.parametrize("side", [BASE, TUNED])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_batched_answers_are_those_of_plain_generate_in_the_order_asked(answerer, messages, alone, side, batch_size):
    answerer.batch_size = batch_size
    calls = []
    answers = answerer.answer(messages, side, lambda done, of: calls.append((done, of)))
    # padding, and a beginning computed once, change the order of floating-point sums: a tie may fall otherwise
    assert share_equal(answers, alone[side]) >= (1.0 if batch_size == 1 and side == TUNED else 0.75)
    assert calls[-1] == (12, 12) and len(calls) == -(-12 // batch_size)


def test_the_stream_grows_to_the_answers_of_both_sides(answerer, messages):
    expected = {side: answerer.answer(messages[:6], side) for side in (BASE, TUNED)}
    same = []
    for i, message in enumerate(messages[:6]):
        seen = list(answerer.stream(message))
        lengths = [step[TUNED].tokens for step in seen]
        assert lengths == sorted(lengths) and len(seen) > 2
        assert set(seen[-1]) == {BASE, TUNED}
        same += [seen[-1][side].text[:12] == expected[side][i][:12] for side in (BASE, TUNED)]
        assert seen[-1][TUNED].seconds > 0
    assert sum(same) >= 0.7 * len(same)  # sums in another order: a random model's ties may fall otherwise


@pytest.fixture
def streamer(answerer):
    """The tuned side's streamer, to be changed; its drafts are put back."""
    answerer.prepare_stream()
    streamer = answerer._streamers()[TUNED]
    drafts = streamer.drafts
    yield streamer
    streamer.drafts = drafts


def test_guessed_tokens_save_steps_and_change_no_answer(answerer, messages, streamer, monkeypatch):
    def last(message):
        *_, answers = answerer.stream(message, [TUNED])
        return answers[TUNED]

    streamer.drafts = Drafts([])
    without = [last(message) for message in messages[:4]]
    steps, taken = [], {True: [], False: []}
    forward = streamer.forward
    monkeypatch.setattr(streamer, "forward", lambda *given: steps.append(1) or forward(*given))
    for message, answer in zip(messages, without, strict=False):
        ids = answerer.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
        right, wrong = [*ids, answerer.tokenizer.eos_token_id], [token + 1 for token in ids]
        for guesses in ([right], [right[:6] + wrong], [wrong]):
            streamer.drafts = Drafts(guesses)
            steps.clear()
            again = last(message)
            # several tokens at once add up in another order: a random model's ties may fall otherwise
            assert again.text[:8] == answer.text[:8]
            taken[guesses[0] == right].append(len(steps) / again.tokens)
    assert min(taken[True]) < 0.5  # where the text's tokens are the answer's own
    assert streamer.prefix and streamer.cache.get_seq_length() == len(streamer.prefix)  # what is shared stays as it was


def test_what_followed_in_the_training_answers_is_guessed_and_nothing_where_it_is_open():
    drafts = Drafts([[5, 6, 7, 1], [5, 6, 8, 1], [5, 6, 9, 1]])
    assert drafts.after([]) == [5, 6]  # then three tokens are as likely as one another
    assert drafts.after([5, 6, 8]) == [1]
    assert drafts.after([3]) == []


def test_an_answer_stops_at_its_time_limit_and_says_so(answerer, messages):
    *_, last = answerer.stream(messages[0], time_limit=0.0)
    for answer in last.values():
        assert answer.timed_out and not answer.finished
        assert answer.tokens < answerer.max_new_tokens


def test_the_stream_gives_the_probability_of_the_answer(answerer, messages):
    *_, last = answerer.stream(messages[0])
    prompt = prompt_text(answerer.tokenizer, answerer.prompt(messages[0], TUNED))
    start = answerer.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        out = answerer.model.generate(
            input_ids=start,
            max_new_tokens=answerer.max_new_tokens,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        shares = [score[0].float().softmax(-1).max().item() for score in out.scores]
    assert math.log(last[TUNED].probability) == pytest.approx(sum(map(math.log, shares)), rel=0.2)


def test_no_answer_crosses_between_sides_or_users_when_many_ask_at_once(answerer, messages):
    jobs = [(message, side) for message in messages[:6] for side in (BASE, TUNED)] * 2
    answerer.batch_size = 1

    def ask(job):
        message, side = job
        if len(message) % 3 == 0:  # some by stream, one side
            return list(answerer.stream(message, [side]))[-1][side].text
        return answerer.answer([message], side)[0]

    expected = {job: ask(job) for job in set(jobs)}

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, jobs))
    assert answers == [expected[job] for job in jobs]


def test_a_stream_that_is_left_stops_the_work(answerer, messages, monkeypatch):
    grown, step = [], Growing.step
    monkeypatch.setattr(Growing, "step", lambda *given: (grown.append(1), step(*given)))
    answerer.max_new_tokens, before = 2000, answerer.max_new_tokens
    try:
        stream = answerer.stream(messages[0])
        next(stream)
        stream.close()
        left = len(grown)
        answerer.max_new_tokens = before
        answerer.answer(messages[:1])
        assert len(grown) <= left + 1  # the one that was under way
    finally:
        answerer.max_new_tokens = before


def test_an_error_while_generating_reaches_the_reader(answerer, messages, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("out of memory")

    answerer.prepare_stream()
    monkeypatch.setattr(answerer._streamers()[TUNED], "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(answerer.stream(messages[0]))


@pytest.mark.parametrize("message", ["", "  \n", "x" * 20_000, None])
def test_a_message_that_may_not_be_read_is_refused(answerer, message):
    with pytest.raises(KitError, match="Message 2: it"):
        answerer.answer(["hello", message])
    with pytest.raises(KitError, match="The message: it"):
        next(answerer.stream(message))


def test_an_unknown_side_is_refused(answerer):
    with pytest.raises(KitError, match="'tunde' is not a model of a run"):
        answerer.answer(["hello"], "tunde")


def test_a_large_batch_takes_no_copy_of_the_heads_weights_for_each_row(answerer, monkeypatch):
    """What the head gets lies in one block: of a slice, `linear` would copy its weights once a row."""
    monkeypatch.setattr(answerer, "batch_size", 16)
    head, seen = answerer.model.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda module, given, out: seen.append((given[0].shape, given[0].is_contiguous())))
    answerer.answer(["a table for two", "we lost a hat on friday", "is the terrace open"])
    handle.remove()
    assert seen[0][0][:2] == (3, 1) and all(contiguous for _, contiguous in seen)


def test_a_shared_beginning_is_computed_once_and_changes_no_answer(tiny_model, tiny_task, monkeypatch):
    model = load_model(str(tiny_model), "float32", four_bit=False).eval()
    alone = Answerer(tiny_task, model, load_tokenizer(str(tiny_model)), batch_size=5, max_new_tokens=12)
    rows = tiny_task.rows("test")
    shown = tiny_task.rows("train")[:2]
    chats = [chat_prompt(tiny_task, row["message"], told=True, shots=shown) for row in rows]
    forward, lengths = model.forward, []

    @wraps(forward)  # `generate` looks at what it takes
    def seen(*args, **given):
        lengths.append(given["input_ids"].shape)
        return forward(*args, **given)

    monkeypatch.setattr(model, "forward", seen)
    shared = alone.complete(chats)
    assert lengths[0][0] == 1 and lengths[0][1] > 100  # the beginning, once
    assert max(length for rows, length in lengths[1:]) < lengths[0][1]
    monkeypatch.setattr("ftkit.evaluation.answer.WORTH_SHARING", 10**6)
    assert alone.complete(chats) == shared
    assert len(set(shared)) > 1


def test_the_next_tokens_probabilities_are_the_models_own(answerer, tiny_task):
    import torch

    prompts = [prompt_ids(answerer.tokenizer, answerer.prompt(row["message"], TUNED)) for row in tiny_task.rows("test")[:5]]
    found = answerer.next_token_probabilities(prompts, [7, 50, 300], TUNED)
    assert found.shape == (5, 3)
    for prompt, row in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            expected = answerer.model(input_ids=ids).logits[0, -1].float().softmax(-1)[[7, 50, 300]]
        assert row == pytest.approx(expected.numpy(), abs=0.02, rel=0.1)
