"""The drawing of a transformer against real models, and the loss that is drawn while a training runs."""

import pickle

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, MistralConfig, Qwen2Config

from ftkit.common.errors import KitError
from ftkit.course.views import inside
from ftkit.course.views.inside import Blueprint
from ftkit.course.views.live import LiveLoss
from tests.course.pictures import is_one_whole_svg

SMALL = {
    "vocab_size": 90,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
OTHERS = [Qwen2Config(**SMALL), MistralConfig(**SMALL, head_dim=8, tie_word_embeddings=True)]


@pytest.fixture(scope="module", params=["tiny", *OTHERS], ids=["llama", "qwen2", "mistral"])
def config(request):
    return AutoConfig.from_pretrained(request.getfixturevalue("tiny_model")) if request.param == "tiny" else request.param


def test_the_drawing_shows_the_linear_layers_that_the_model_has(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    plan = Blueprint.of(config)
    for layer in model.model.layers:
        found = {
            name.split(".")[-1]: module for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)
        }
        assert {name: tuple(module.weight.shape) for name, module in found.items()} == plan.linear
        assert plan.layer_weights == sum(module.weight.numel() for module in found.values())
    assert len(model.model.layers) == plan.layers
    assert tuple(model.get_input_embeddings().weight.shape) == (plan.vocabulary, plan.width)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == plan.tied
    said = str(inside.transformer(config))
    assert all(f"{name} {outputs} x {inputs}" in said for name, (outputs, inputs) in plan.linear.items())
    assert ("the embedding, used once more" in said) == plan.tied


def test_a_model_that_is_built_in_another_way_is_not_drawn():
    with pytest.raises(KitError, match="gpt2 is not built as Llama is"):
        inside.transformer(GPT2Config())


def test_the_places_of_an_adapter_are_marked_where_it_has_weights_and_nowhere_else():
    plain, marked = inside.transformer(OTHERS[0]), inside.transformer(OTHERS[0], {"q_proj": 96, "down_proj": 1280})
    assert "in a layer: q_proj 96, down_proj 1,280; together 1,376, in all layers 4,128." in str(marked)
    assert "Weights of the adapter" not in str(plain)
    assert [picture.svg.count("<!-- + ") for picture in (plain, marked)] == [2, 2 + 3]  # the sums; legend and places


HALF = [[1.0, 0.0], [0.25, 0.75]]
PICTURES = {
    "model": lambda: inside.transformer(OTHERS[0]),
    "adapters": lambda: inside.transformer(OTHERS[0], {"q_proj": 96}),
    "attention": lambda: inside.attention([" a", "<b>"], HALF, "layer 1"),
    "guesses": lambda: inside.layer_guesses([(0, ".", 0.5, 0.0), (2, " yes", 0.75, 0.75)], " yes"),
}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_a_picture_is_one_whole_svg_with_its_text_and_the_same_each_time(draw):
    assert is_one_whole_svg(draw)


def test_the_texts_hold_the_numbers_that_the_pictures_show():
    assert str(PICTURES["attention"]()) == "layer 1. Where each token looks most: “<b>” at “<b>” 75%."
    assert "0 “.” 50%, final 0.0%; 2 “·yes” 75%, final 75.0%" in str(PICTURES["guesses"]())


# --- while it trains ---

TRAIN = """
import pickle, sys, time
from ftkit.training.finetune import train


def say(line):  # a tiny model would be trained before anybody has looked
    print(line)
    time.sleep(1.5 if "step" in line else 0)


task, choice = pickle.loads(open(sys.argv[1], "rb").read())
train(task, choice, fresh=True, say=say)
"""
WATCH = """
import subprocess, sys
from ftkit.course.views.live import LiveLoss

live = LiveLoss(share=0.5)
command = [sys.executable, "-u", "train.py", "training"]
with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
    for line in live.watch(process.stdout):
        print(line, end="")
"""


def test_the_loss_is_drawn_while_it_trains_in_one_output_that_stays(tiny_task, tiny_choice, tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    profile = tiny_choice.profile.with_changes(max_steps=40, checkpoint_steps=10)
    (tmp_path / "training").write_bytes(pickle.dumps((tiny_task, type(tiny_choice)(profile, "a test"))))
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    sources = [WATCH, "print(live.drawings, len(live.run.loss_curve()), live.seconds < 10)"]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    picture, *printed = notebook.cells[0].outputs
    assert picture.output_type == "display_data" and {output.output_type for output in printed} == {"stream"}
    lines = "".join(output.text for output in printed)
    assert "step   40 of 40" in lines and "\nFinished: 40 steps" in lines
    assert "on training rows: " in picture.data["text/plain"] and " at step 40" in picture.data["text/plain"]
    assert "on validation rows: " in picture.data["text/plain"] and "<svg" in picture.data["image/svg+xml"]
    drawings, points, quick = notebook.cells[1].outputs[0].text.split()
    assert 2 <= int(drawings) <= int(points) + 1 and quick == "True"


def test_where_no_notebook_listens_the_lines_come_through_and_nothing_is_drawn(capsys):
    live = LiveLoss()
    assert list(live.watch(["one\n", "Fine-tuning; run nobody\n", "three\n"])) == [
        "one\n",
        "Fine-tuning; run nobody\n",
        "three\n",
    ]
    assert live.drawings == 0 and not capsys.readouterr().out
