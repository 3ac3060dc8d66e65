import importlib.machinery
import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch.nn.functional import scaled_dot_product_attention

from ftkit.models.four_bit import linear_4bit_layers
from ftkit.models.load import load_model
from ftkit.training import cpu_kernels as kernels
from ftkit.training.trainer import cast_adapter, completion_loss, lora_config


@pytest.mark.parametrize(("heads", "kv_heads", "length"), [(4, 4, 7), (9, 3, 33), (8, 1, 64)])
def test_it_is_causal_attention_forwards_and_back(heads, kv_heads, length):
    torch.manual_seed(0)
    shapes = (heads, kv_heads, kv_heads)
    ours = [torch.randn(2, h, length, 16, dtype=torch.float64, requires_grad=True) for h in shapes]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    blocked = kernels._blocked(length, torch.float64)
    one = kernels.causal_attention(*ours, 0.25, blocked)
    two = scaled_dot_product_attention(*theirs, is_causal=True, scale=0.25, enable_gqa=True)
    torch.testing.assert_close(one, two)
    weight = torch.randn_like(one)
    (one * weight).sum().backward()
    (two * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def inputs(length=24, padding=5):
    torch.manual_seed(1)
    ids = torch.randint(5, 600, (3, length))
    mask = torch.ones_like(ids)
    labels = ids.clone()
    labels[:, : length // 2] = -100
    mask[1, length - padding :] = 0
    labels[1, length - padding :] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_and_gradients(model, given):
    model.zero_grad()
    loss = completion_loss(model, given)
    loss.backward()
    return loss.detach(), {n: p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None}


def test_the_loss_and_its_gradients_are_those_of_sdpa_padding_and_all(tiny_model):
    model = load_model(str(tiny_model), "bfloat16", four_bit=False).train()
    loss, gradients = loss_and_gradients(model, inputs())
    model.set_attn_implementation(kernels.register())
    assert model.config._attn_implementation == kernels.NAME
    same, ours = loss_and_gradients(model, inputs())
    torch.testing.assert_close(same, loss, rtol=5e-3, atol=5e-3)
    for name, gradient in gradients.items():
        gap = (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert gap < 0.05, name


def test_it_is_used_in_training_and_not_where_it_would_be_wrong(tiny_model, monkeypatch):
    used = []
    real = kernels.causal_attention
    monkeypatch.setattr(kernels, "causal_attention", lambda *args: used.append(1) or real(*args))
    model = load_model(str(tiny_model), "bfloat16", four_bit=False).train()
    model.set_attn_implementation(kernels.register())
    completion_loss(model, inputs())
    assert len(used) == model.config.num_hidden_layers

    used.clear()
    left = {key: value.flip(1) for key, value in inputs().items()}  # padding on the left needs its mask
    completion_loss(model, left)
    model(torch.randint(5, 600, (1, kernels.LONGEST + 1)), use_cache=False)
    model.eval()
    prompt = torch.randint(5, 600, (1, 6))
    cache = model(prompt, use_cache=True).past_key_values
    model(prompt[:, :1], past_key_values=cache)
    assert not used


def adapted(place, profile, dtype):
    """A model in 4-bit with an adapter of this dtype whose B is not zero: then A has gradients too."""
    from peft import get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(load_model(str(place), dtype), lora_config(profile)).train()
    cast_adapter(model, getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


@pytest.fixture
def with_adapter(tiny_model, tiny_choice):
    return adapted(tiny_model, tiny_choice.profile, "bfloat16")


def adapter_layers(model):
    return [module for name, module in model.named_modules() if name.endswith("q_proj")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_adapted_layer_and_its_gradients_are_pefts(with_adapter, dtype):
    cast_adapter(with_adapter, dtype)

    def both_ways(layer, x):
        x = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(x)
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))
        ab = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        found = [out.detach(), x.grad, *(weight.grad.clone() for weight in ab)]
        for weight in ab:
            weight.grad = None
        return found

    layer = adapter_layers(with_adapter)[0]
    x = torch.randn(2, 9, layer.in_features, dtype=torch.bfloat16)
    theirs = both_ways(layer, x)
    assert kernels.speed_up_adapters(with_adapter) == 7 * with_adapter.config.num_hidden_layers
    for one, two in zip(both_ways(layer, x), theirs, strict=True):
        assert one.shape == two.shape
        assert (one - two).float().norm() / two.float().norm() < 0.01


def test_a_weight_with_its_scales_unpacked_once_is_what_bitsandbytes_makes_of_it(with_adapter):
    for layer in linear_4bit_layers(with_adapter):
        theirs = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        for _ in range(2):  # the second time from the kept scales
            assert torch.equal(kernels.dequantize_weight(layer.weight), theirs)
        assert layer.weight.quant_state.nested


def test_a_training_step_with_all_of_it_gives_pefts_loss_and_gradients(with_adapter):
    base = with_adapter.get_base_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradients = loss_and_gradients(base, inputs())
        kernels.speed_up_adapters(with_adapter)
        base.set_attn_implementation(kernels.register())
        same, ours = loss_and_gradients(base, inputs())
    torch.testing.assert_close(same, loss, rtol=5e-3, atol=5e-3)
    assert len(gradients) == 2 * 7 * base.config.num_hidden_layers
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-6) < 0.06, name


def test_in_float32_it_is_all_used_and_nothing_but_rounding_differs(tiny_model, tiny_choice, monkeypatch):
    model, used = adapted(tiny_model, tiny_choice.profile, "float32"), []
    base = model.get_base_model()
    loss, gradients = loss_and_gradients(base, inputs())
    kernels.speed_up_adapters(model)
    base.set_attn_implementation(kernels.register())
    for name in ("causal_attention", "dequantize_weight"):
        real = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *args, real=real, name=name: used.append(name) or real(*args))
    same, ours = loss_and_gradients(base, inputs())
    layers = base.config.num_hidden_layers
    assert used.count("causal_attention") == layers and used.count("dequantize_weight") > 7 * layers
    torch.testing.assert_close(same, loss, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        assert (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-6) < 1e-4, name


def test_the_adapted_layer_goes_pefts_way_where_its_own_would_be_wrong(with_adapter, monkeypatch):
    used = []
    real = kernels.LoraProduct.apply
    monkeypatch.setattr(kernels.LoraProduct, "apply", lambda *args: used.append(1) or real(*args))
    kernels.speed_up_adapters(with_adapter)
    layer = adapter_layers(with_adapter)[0]
    x = torch.randn(1, 3, layer.in_features, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        adapted = layer(x)
        assert used == [1]
        with with_adapter.disable_adapter():
            assert not torch.equal(layer(x), adapted)  # the base alone
        layer(x.float())
        layer.lora_dropout["default"] = torch.nn.Dropout(0.5)
        layer(x)
        layer.lora_dropout["default"] = torch.nn.Identity()
        with_adapter.eval()
        torch.testing.assert_close(layer(x), adapted, rtol=0.02, atol=0.02)
    assert used == [1]


def test_padding_on_the_left_and_on_the_right_give_the_same_loss(tiny_model):
    model = load_model(str(tiny_model), "float32", four_bit=False)
    right = inputs()
    rolled = {key: value.clone() for key, value in right.items()}
    for value in rolled.values():
        value[1] = value[1].roll(5)
    torch.testing.assert_close(completion_loss(model, right), completion_loss(model, rolled), rtol=1e-4, atol=1e-4)


def test_an_option_leaves_pytorchs_own(monkeypatch):
    assert kernels.is_used("cpu") and not kernels.is_used("cuda")
    monkeypatch.setenv("FTKIT_FAST_KERNELS", "0")
    assert not kernels.is_used("cpu")


def test_liger_is_used_on_a_gpu_where_it_is_installed_and_leaves_the_loss_alone(monkeypatch):
    def on(device):
        return SimpleNamespace(device=SimpleNamespace(type=device))

    called = []
    assert not kernels.fuse(on("cuda")) or importlib.util.find_spec("liger_kernel")
    package, module = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    package.__spec__ = importlib.machinery.ModuleSpec("liger_kernel", None)
    module._apply_liger_kernel_to_instance = lambda **given: called.append(given)
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", module)
    model = on("cuda")
    assert kernels.fuse(model) and not kernels.fuse(on("cpu"))
    assert called == [{"model": model, "cross_entropy": False, "fused_linear_cross_entropy": False}]
    monkeypatch.setenv("FTKIT_FAST_KERNELS", "0")
    assert not kernels.fuse(model)


def test_packed_rows_have_the_loss_that_they_have_apart(tiny_model):
    model = load_model(str(tiny_model), "float32", four_bit=False).train()
    apart = inputs()
    n = [int(mask.sum()) for mask in apart["attention_mask"]]
    first = [int(mask.argmax()) for mask in apart["attention_mask"]]
    packed = {
        key: torch.cat(
            [apart[key][row, start : start + length] for row, (start, length) in enumerate(zip(first, n, strict=True))]
        )
        for key in ("input_ids", "labels")
    }
    packed["position_ids"] = torch.cat([torch.arange(length) for length in n])
    one_row = {key: value[None] for key, value in packed.items()}
    torch.testing.assert_close(completion_loss(model, one_row), completion_loss(model, apart), rtol=1e-4, atol=1e-4)
