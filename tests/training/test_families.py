"""The whole road with a tiny model of every family, in float32: numbers agree to rounding."""

import re
from dataclasses import replace

import pytest

from ftkit.cli.model import examine_model
from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.data.task import load_task
from ftkit.evaluation.answer import TUNED, Answerer
from ftkit.models.find import find_model
from ftkit.models.load import load_model
from ftkit.runs.run import open_run
from ftkit.training.finetune import train
from tests.conftest import desk_tokenizer
from tests.training.families import CANNOT, FAMILIES, take_road, tiny_model


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = desk_tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CANNOT])
def test_a_family_goes_the_whole_road(family, tokenizer, tmp_path):
    road = take_road(family, tmp_path, tokenizer)
    assert road.loss == "completion"
    assert road.planned == pytest.approx(1, abs=0.15)
    assert road.adapted > 0 and road.learned
    assert road.reloaded < 1e-4
    assert road.merged < 1e-4
    assert road.streamed or family == "minimax"  # padding on the left changes what its linear attention sees


def saved(family, folder, tokenizer):
    """A family's tiny model as people have one: a folder, with its tokenizer."""
    tiny_model(family).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", CANNOT)
def test_a_family_that_cannot_be_trained_is_refused_and_leaves_no_run(
    family, tokenizer, tiny_task, tiny_choice, tmp_path, monkeypatch
):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    profile = tiny_choice.profile.with_changes(model=str(saved(family, tmp_path / family, tokenizer)))
    with pytest.raises(KitError, match=r"cannot be trained here .*ftkit doctor --model"):
        train(tiny_task, replace(tiny_choice, profile=profile), fresh=True, say=lambda line: None)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "mixtral", "falcon_mamba"])
def test_a_family_is_trained_by_its_relative_path_and_said_what_is_special(
    family, tokenizer, tiny_task, tiny_choice, tmp_path, monkeypatch
):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    saved(family, tmp_path / "model", tokenizer)
    monkeypatch.chdir(tmp_path)
    said, settings = [], {"model": "model", "max_steps": 2, "checkpoint_steps": 2, "batch_size": 2}
    choice = replace(tiny_choice, profile=tiny_choice.profile.with_changes(**settings))
    run = train(tiny_task, choice, fresh=True, say=said.append)
    assert run.profile.model == str((tmp_path / "model").resolve())
    assert run.record.guards.loss == "completion" and not any("Loss by" in line for line in said)
    assert any("get no adapter" in line for line in said) == (family == "falcon_mamba")
    assert any(line.startswith("In 4 bits are") for line in said) == (family in ("mixtral", "falcon_mamba"))
    monkeypatch.chdir("/")
    assert open_run(str(run.folder)).finished and find_model(run.profile.model).kind == "folder"


def test_the_doctor_takes_a_model_the_whole_road(tokenizer, tmp_path):
    findings = list(examine_model(str(saved("granite", tmp_path / "model", tokenizer))))
    things = "family licence weights tokenizer vocabulary 4-bit memory forward loss adapter training generation merge"
    assert [finding.thing for finding in findings] == things.split()
    assert all(finding.ok for finding in findings), [str(finding) for finding in findings if not finding.ok]


def test_the_doctor_names_what_is_wrong_with_a_model(tokenizer, tmp_path):
    folder = saved("llama", tmp_path / "model", tokenizer)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    *_, last = examine_model(str(folder))
    assert last.thing == "weights" and not last.ok and "no safetensors" in last.text


def test_the_page_of_models_lists_the_families_that_are_tested():
    page = (kit_root() / "docs" / "models.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(FAMILIES)
    assert f"{len(FAMILIES)} families" in page


@pytest.mark.parametrize("family", ["gpt2", "opt", "gptj", "codegen", "biogpt", "mpt"])
def test_a_text_longer_than_a_models_table_of_places_is_one_clear_error(family, tokenizer, tmp_path):
    short = dict.fromkeys(("n_positions", "max_seq_len", "max_position_embeddings"), 40)
    tiny_model(family, **short).save_pretrained(tmp_path / "base")
    answerer = Answerer(load_task("desk"), load_model(str(tmp_path / "base"), "float32").eval(), tokenizer, max_new_tokens=4)
    assert len(answerer.complete([[{"role": "user", "content": "Where are you?"}]])) == 1
    ids = tokenizer("where are you? " * 20)["input_ids"]
    long = [{"role": "user", "content": "where are you? " * 20}]
    for use in (
        lambda: answerer.complete([long]),
        lambda: answerer.next_token_probabilities([ids], [5]),
        lambda: answerer.log_probabilities([ids]),
        lambda: list(answerer.stream(long[0]["content"], (TUNED,))),
    ):
        with pytest.raises(KitError, match=r"has places for 40\. Shorten the message"):
            use()
