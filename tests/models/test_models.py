import time

import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.common.profiles import read_profiles
from ftkit.data.prompt import prompt_text
from ftkit.models.adapter import load_adapter
from ftkit.models.find import cached_folder, find_model, prepare_model
from ftkit.models.four_bit import linear_4bit_layers, weight_bytes
from ftkit.models.hub import hub_answers
from ftkit.models.load import load_model, load_tokenizer

SMOLLM2 = read_profiles()["cpu"].model


def with_adapter(model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def gradients_and_merged(model):
    """Gradients of the adapter for one batch, and a copy of the merged weights of every 4-bit layer."""
    import bitsandbytes.functional as F

    ids = torch.arange(3, 43).reshape(2, 20)
    model.train()
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    weights = [F.dequantize_4bit(layer.weight.data, layer.weight.quant_state) for layer in linear_4bit_layers(model)]
    deltas = [m.get_delta_weight("default") for m in model.modules() if hasattr(m, "get_delta_weight")]
    return gradients, [w + d for w, d in zip(weights, deltas, strict=True)]


def evaluation_pass(model):
    model.eval()
    with torch.inference_mode():
        model(input_ids=torch.arange(3, 23).reshape(1, 20))


@pytest.mark.parametrize("which", ["tiny", "packaged"])
def test_an_evaluation_pass_changes_neither_gradients_nor_merged_weights(tiny_model, which):
    model = with_adapter(load_model(str(tiny_model) if which == "tiny" else SMOLLM2, "bfloat16", device="cpu"))
    gradients, merged = gradients_and_merged(model)
    evaluation_pass(model)
    gradients_after, merged_after = gradients_and_merged(model)
    assert len(gradients) == 2 * len(merged) > 0
    assert gradients.keys() == gradients_after.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(gradients_after[name], gradient, msg=name)
    for before, after in zip(merged, merged_after, strict=True):
        torch.testing.assert_close(after, before)


def test_four_bit_is_nf4_with_double_quantization_and_small():
    model, whole = load_model(SMOLLM2, "bfloat16"), load_model(SMOLLM2, "bfloat16", four_bit=False)
    layers = linear_4bit_layers(model)
    assert len(layers) == 30 * 7
    assert all(layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested for layer in layers)
    elements = sum(layer.in_features * layer.out_features for layer in layers)
    saved = weight_bytes(whole) - weight_bytes(model)
    assert 0.73 * 2 * elements < saved < 0.75 * 2 * elements  # 16 bits become a little over 4


def test_the_packaged_model_answers():
    tokenizer = load_tokenizer(SMOLLM2)
    model = load_model(SMOLLM2)
    prompt = prompt_text(tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :])
    assert "Paris" in text


def test_sources_come_in_order(tiny_model, monkeypatch, tmp_path):
    assert find_model(str(tiny_model)).kind == "folder"
    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path))
    assert find_model(SMOLLM2).kind == "package"
    cached_folder(SMOLLM2).mkdir(parents=True)
    assert find_model(SMOLLM2).kind == "cache"
    assert find_model("somebody/something").kind == "hub"
    with pytest.raises(KitError, match=r"no config\.json"):
        find_model(str(tmp_path))


def test_an_interrupted_preparation_leaves_no_broken_cache(tiny_model, monkeypatch, tmp_path):
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

    monkeypatch.setenv("FTKIT_CACHE", str(tmp_path))

    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    small = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", lambda **_: small)  # it is unpacked in no time,
        patch.setattr(PreTrainedTokenizerBase, "save_pretrained", interrupted)  # and its weights are written by then
        prepare_model(SMOLLM2)
    assert not cached_folder(SMOLLM2).exists()
    killed = cached_folder(SMOLLM2).parent / f".{cached_folder(SMOLLM2).name}.killed"
    killed.mkdir()  # what a kill -9 leaves
    folder = prepare_model(SMOLLM2)
    assert {p.name for p in cached_folder(SMOLLM2).parent.iterdir() if p.is_dir()} == {cached_folder(SMOLLM2).name}
    assert sorted(p.suffix for p in cached_folder(SMOLLM2).glob("model.*")) == [".safetensors"]
    assert load_model(folder, device="cpu").get_input_embeddings().weight.shape[0] == len(load_tokenizer(folder))


def test_offline_a_missing_model_is_refused_at_once():
    began = time.monotonic()
    with pytest.raises(KitError, match="the model hub does not answer"):
        prepare_model("somebody/something")
    assert time.monotonic() - began < 20  # the libraries' own tries take minutes


def test_a_hub_that_does_not_answer_is_waited_for_only_seconds(monkeypatch):
    import socket

    from huggingface_hub import constants

    with socket.socket() as deaf:  # takes connections and never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        assert not hub_answers(timeout=1)
        assert time.monotonic() - began < 15


def copy_of(adapter, tmp_path):
    import shutil

    return shutil.copytree(adapter, tmp_path / "adapter")


def test_a_missing_adapter_is_refused(tiny_model, tmp_path):
    with pytest.raises(KitError, match=r"adapter_config\.json is missing"):
        load_adapter(load_model(str(tiny_model)), tmp_path)


def test_an_adapter_cut_in_half_is_refused(tiny_model, tiny_run, tmp_path):
    folder = copy_of(tiny_run.adapter, tmp_path)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(KitError, match=r"adapter_model\.safetensors is broken"):
        load_adapter(load_model(str(tiny_model)), folder)


def test_an_empty_adapter_is_refused(tiny_model, tiny_run, tmp_path):
    from safetensors.torch import save_file

    folder = copy_of(tiny_run.adapter, tmp_path)
    save_file({}, folder / "adapter_model.safetensors")
    with pytest.raises(KitError, match="is empty: it holds no weights"):
        load_adapter(load_model(str(tiny_model)), folder)


def test_an_adapter_of_another_base_is_refused(tiny_run):
    with pytest.raises(KitError, match="does not fit this base model"):
        load_adapter(load_model(SMOLLM2), tiny_run.adapter)


def rewritten(folder, change):
    """The adapter's weights, changed and saved again: a whole file that is not what was trained."""
    from safetensors.torch import load_file, save_file

    weights = folder / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights)
    return folder


def test_an_adapter_with_a_part_of_its_weights_is_refused(tiny_model, tiny_run, tmp_path):
    def half(weights):
        return dict(sorted(weights.items())[::2])

    with pytest.raises(KitError, match=r"adapter_model\.safetensors lacks \d+ of 28 weights"):
        load_adapter(load_model(str(tiny_model)), rewritten(copy_of(tiny_run.adapter, tmp_path), half))


def test_an_adapter_of_a_deeper_base_is_refused(tiny_model, tiny_run, tmp_path):
    def deeper(weights):
        return weights | {k.replace("layers.1.", "layers.2."): v.clone() for k, v in weights.items()}

    with pytest.raises(KitError, match=r"does not fit this base model: it has weights for .*layers\.2"):
        load_adapter(load_model(str(tiny_model)), rewritten(copy_of(tiny_run.adapter, tmp_path), deeper))


@pytest.mark.parametrize(
    ("config", "words"),
    [("[]", "no peft_type"), ("{}", "no peft_type"), ('{"peft_type": "LORA"', "not readable as JSON")],
)
def test_a_broken_adapter_configuration_is_refused(tiny_model, tiny_run, tmp_path, config, words):
    folder = copy_of(tiny_run.adapter, tmp_path)
    (folder / "adapter_config.json").write_text(config)
    with pytest.raises(KitError, match=words):
        load_adapter(load_model(str(tiny_model)), folder)


def test_a_run_whose_adapter_names_another_base_is_refused(tiny_model, tiny_run, tmp_path):
    import json

    folder = copy_of(tiny_run.adapter, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "somebody/something"}))
    with pytest.raises(KitError, match="was trained on somebody/something, but the run on"):
        load_adapter(load_model(str(tiny_model)), folder, base=str(tiny_model))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tokenizer.json", r"holds no tokenizer.*Copy"),
        ("model.safetensors", r"cannot be read \(.*Copy it again"),
    ],
)
def test_a_base_without_tokenizer_or_with_half_its_weights_is_refused(tiny_model, tmp_path, name, words):
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "base")
    (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    if name == "tokenizer.json":
        (folder / name).unlink()
    with pytest.raises(KitError, match=words):
        load_tokenizer(str(folder)), load_model(str(folder), device="cpu")
