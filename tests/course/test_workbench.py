import pytest
import torch

from ftkit.common.machine import resolve_dtype
from ftkit.course.workbench import Workbench, change_batches, cut_examples, losses
from ftkit.data.prompt import completion_text, example_ids
from ftkit.models.load import load_tokenizer
from ftkit.training.trainer import training_data


@pytest.fixture(scope="module")
def bench(tiny_task, tiny_choice, tmp_path_factory):
    tokenizer = load_tokenizer(tiny_choice.profile.model)
    return Workbench(tiny_task, tokenizer, tiny_choice.profile, 2, tmp_path_factory.mktemp("break-it"))


@pytest.fixture(scope="module")
def tuned(bench):
    """A training of two steps whose loss falls on everything."""
    rows = bench.task.rows("train")[:8]
    return bench.tune(bench.data(rows), change_batches(lambda batch: batch["labels"].copy_(batch["input_ids"])), rate=1e-3)


def test_data_of_rows_are_as_the_training_makes_them(bench):
    rows = bench.task.rows("train")
    packaged = training_data(bench.task, bench.tokenizer, bench.profile)
    assert bench.data(rows).to_list() == packaged.to_list()


def test_a_spoiled_training_runs_tells_its_loss_and_leaves_no_checkpoint(bench, tuned):
    steps, heights = zip(*losses(tuned), strict=True)
    assert steps == (1, 2) and all(height > 0 for height in heights)
    assert tuned.args.learning_rate == 1e-3
    assert not list(bench.folder.rglob("checkpoint-*"))
    batch = tuned.data_collator([dict(tuned.train_dataset[0])])
    assert torch.equal(batch["labels"], batch["input_ids"])


def test_a_training_of_all_weights_moves_all_of_them_and_keeps_them_in_float32(bench, capsys):
    from ftkit.models.load import load_model

    model = load_model(bench.profile.model, bench.profile.dtype, four_bit=False)
    before = {name: weight.detach().float().clone() for name, weight in model.named_parameters()}
    products = []
    model.lm_head.register_forward_hook(lambda layer, given, output: products.append(output.dtype))
    trainer = bench.tune_all(model, bench.data(bench.task.rows("train")[:4]), rate=1e-2)
    assert set(products) == {getattr(torch, resolve_dtype(bench.profile.dtype))}  # as autocast does, weights in float32
    after = dict(trainer.model.named_parameters())
    assert set(after) == set(before) and not any("lora" in name for name in after)
    assert all(weight.dtype == torch.float32 for weight in after.values())
    assert all(not torch.equal(after[name], before[name]) for name in before if name.endswith("proj.weight"))
    assert len(losses(trainer)) == 2 and "2 steps in" in capsys.readouterr().out
    assert not list(bench.folder.rglob("checkpoint-*"))


def test_cutting_leaves_the_beginnings(bench):
    class Trainer:
        train_dataset = bench.data(bench.task.rows("train")[:4]).map(
            lambda row: {"input_ids": list(range(row["length"])), "labels": [-100] * row["length"]}
        )

    cut_examples(40)(Trainer)
    assert [row["input_ids"] for row in Trainer.train_dataset] == [list(range(40))] * 4
    assert [len(row["labels"]) for row in Trainer.train_dataset] == [40] * 4


def test_a_model_writes_on_from_a_text_as_it_stands(bench, tuned):
    """Batched answers are those of plain `generate` on one text: nothing is put before it."""
    texts = ["Ticket:", *bench.prompts(bench.task.rows("test")[:1])]
    written = bench.write(tuned.model, texts, 6)
    for text, answer in zip(texts, written, strict=True):
        ids = torch.tensor([bench.tokenizer(text, add_special_tokens=False)["input_ids"]])
        new = tuned.model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert bench.tokenizer.decode(new, skip_special_tokens=True) == answer
    assert bench.tokens(texts) == [len(bench.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def test_a_whole_answer_fits_the_task_and_nothing_follows_it(bench, capsys):
    rows = bench.task.rows("test")[:4]
    good = [completion_text(bench.task, row["ticket"]) for row in rows]
    assert all(map(bench.whole, good))
    assert not any(map(bench.whole, [good[0] + good[1], good[0][:-5], '{"menu":[]}', "prose", ""]))
    assert bench.right(good, rows) == 4
    assert bench.show([good[0], good[1] + "\n" + good[1], good[2][:20], "no"], rows) == 1
    said = capsys.readouterr().out
    assert said.startswith("1 of 4 answers are tickets, 1 right") and "⏎" in said


def test_the_loss_by_part_is_the_models_own_loss_over_the_labels(bench, tuned):
    row = bench.task.rows("validation")[0]
    parts = bench.loss_by_part(tuned.model, [row])
    ids = torch.tensor([example_ids(bench.tokenizer, bench.task, row)])
    start = len(bench.tokenizer(bench.prompts([row])[0], add_special_tokens=False)["input_ids"])
    for part, hidden in (("answer", slice(0, start)), ("prompt", slice(start, None))):
        labels = ids.clone()
        labels[0, hidden] = -100
        with torch.inference_mode():
            own = float(tuned.model.eval()(input_ids=ids, labels=labels).loss)
        assert abs(own - parts[part]) < 0.02
