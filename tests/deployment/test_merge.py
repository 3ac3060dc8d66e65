import gc
import json
import math

import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.common.paths import kit_root
from ftkit.deployment import fidelity as merging
from ftkit.deployment.merge import load_folder, merged_model, save_merged
from ftkit.deployment.proof import answering
from ftkit.evaluation.answer import load_tuned
from ftkit.models.adapter import load_adapter
from ftkit.models.four_bit import linear_4bit_layers
from ftkit.models.load import load_model
from ftkit.runs.run import Run


@pytest.fixture(scope="module")
def merged_folder(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    save_merged(tiny_run, folder)
    return folder


def logits(model, device="cpu"):
    with torch.inference_mode():
        return model.eval()(torch.arange(3, 43)[None].to(model.device)).logits.float()


def test_the_merged_folder_is_one_ordinary_model(merged_folder, tiny_run):
    names = {path.name for path in merged_folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "chat_template.jinja"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth")) or "adapter" in name for name in names)
    assert "quantization" not in (merged_folder / "config.json").read_text()
    settings = json.loads((merged_folder / "generation_config.json").read_text())
    assert settings["max_new_tokens"] == tiny_run.profile.max_new_tokens and not settings["do_sample"]
    model, tokenizer = load_folder(merged_folder)
    assert model.dtype == load_model(tiny_run.profile.model, tiny_run.profile.dtype).dtype
    assert not hasattr(model, "peft_config") and tokenizer.chat_template and tokenizer.padding_side == "left"


def test_the_merged_model_is_the_tuned_one_and_the_original_base_gives_another(merged_folder, tiny_run):
    """The adapter corrects 4-bit weights: added to others it is off by what 4 bits leave out."""
    tuned = load_adapter(load_model(tiny_run.profile.model, tiny_run.profile.dtype), tiny_run.adapter)
    expected = logits(tuned)
    scale = float(expected.std())
    off = {
        "faithful": float((logits(load_folder(merged_folder)[0]) - expected).std()) / scale,
        "original": float((logits(merged_model(tiny_run, four_bit=False)) - expected).std()) / scale,
    }
    assert off["faithful"] < 0.03 < off["original"], off


def test_an_evaluation_before_the_merge_changes_nothing(merged_folder, tiny_run):
    """The trap of CPUs with AVX512-BF16: a forward pass must not leave repacked weights to be merged."""
    base = load_model(tiny_run.profile.model, tiny_run.profile.dtype)
    before = logits(base)
    tuned = load_adapter(base.dequantize(dtype=base.dtype), tiny_run.adapter)
    again = tuned.merge_and_unload().state_dict()
    saved = load_folder(merged_folder)[0].state_dict()
    assert before.isfinite().all()
    for name, weights in saved.items():
        torch.testing.assert_close(again[name], weights, msg=name)


def test_an_adapter_with_numbers_that_are_not_finite_is_refused(tiny_run, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    run = Run(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    path = run.adapter / "adapter_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = math.nan
    save_file(weights, path)
    with pytest.raises(KitError, match=r"cannot be merged: NaNs detected.*Train again"):
        merged_model(run)


@pytest.fixture(scope="module")
def fidelity(tiny_run):
    said = []
    return merging.compare_merges(tiny_run, limit=8, say=said.append), said


def test_every_way_of_merging_is_compared_with_the_adapter_on_its_base(fidelity, tiny_run, tiny_task):
    result, said = fidelity
    assert list(result.variants) == list(merging.VARIANTS)
    assert (result.n, result.of) == (8, 12)
    assert result.variants["adapter"].against_adapter is None
    metrics = {"exact match", *(f.name for f in tiny_task.fields)}
    for key in list(merging.VARIANTS)[1:]:
        variant = result.variants[key]
        assert metrics <= set(variant.scores) and metrics <= set(variant.against_adapter)
        compared = variant.against_adapter["exact match"]
        assert compared.n == 8 and len(compared.interval) == 2 and 0 <= compared.p <= 1
        assert variant.seconds >= 0 and 0 <= variant.identical <= variant.same_answer <= 1
    assert merging.load_fidelity(tiny_run) == result
    assert sum("answered" in line for line in said) >= len(merging.VARIANTS)


def test_the_faithful_merge_keeps_more_texts_than_the_one_into_the_original(fidelity):
    same = {key: variant.identical for key, variant in fidelity[0].variants.items()}
    assert same["merged"] > same["original"], same  # a random model's ties fall easily


def test_the_table_and_a_sentence_each(fidelity):
    from rich.console import Console

    console = Console(width=150, record=True)
    console.print(merging.fidelity_table(fidelity[0]))
    text = console.export_text()
    assert "the first 8 of 12" in text and "p (McNemar)" in text and "95 % interval" in text
    for key in merging.VARIANTS:
        assert key in text
    sentences = merging.describe_fidelity(fidelity[0])
    assert len(sentences) == len(merging.VARIANTS) - 1
    assert all("95 % interval" in sentence for sentence in sentences)


def test_a_sentence_names_a_variant_as_one_would_say_it():
    said = merging.describe_fidelity(merging.load_fidelity(Run(kit_root() / "data" / "reference_run")))
    begins = [sentence.split(": ")[0].lower() for sentence in said]
    assert begins == [name for key, name in merging.VARIANTS.items() if key != "adapter"]
    assert not any("into 4-bit model" in sentence or "merged, merged into" in sentence for sentence in said)
    assert any("4-bit merged model is" in sentence or "adapter and 4-bit merged" in sentence for sentence in said)


def test_without_a_comparison_the_way_to_one_is_told(tmp_path):
    with pytest.raises(KitError, match="--fidelity"):
        merging.load_fidelity(Run(tmp_path))


def test_a_variants_memory_is_free_before_the_next_is_loaded(tiny_run):
    import weakref

    with answering(tiny_run, lambda: load_tuned(tiny_run)) as answerer:
        model = weakref.ref(answerer.model)
        assert not linear_4bit_layers(answerer.model) or answerer.model.device.type != "cpu"
    gc.collect()
    assert model() is None
