import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ftkit import attention
from ftkit.models import load_model
from ftkit.training import completion_loss


@pytest.mark.parametrize(("heads", "kv_heads", "length"), [(4, 4, 7), (9, 3, 33), (8, 1, 64)])
def test_it_is_causal_attention_forwards_and_back(heads, kv_heads, length):
    torch.manual_seed(0)
    shapes = (heads, kv_heads, kv_heads)
    ours = [torch.randn(2, h, length, 16, dtype=torch.float64, requires_grad=True) for h in shapes]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    blocked = attention._blocked(length, torch.float64)
    one = attention.causal_attention(*ours, 0.25, blocked)
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
    model.set_attn_implementation(attention.register())
    assert model.config._attn_implementation == attention.NAME
    same, ours = loss_and_gradients(model, inputs())
    torch.testing.assert_close(same, loss, rtol=5e-3, atol=5e-3)
    for name, gradient in gradients.items():
        gap = (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert gap < 0.05, name


def test_it_is_used_in_training_and_not_where_it_would_be_wrong(tiny_model, monkeypatch):
    used = []
    real = attention.causal_attention
    monkeypatch.setattr(attention, "causal_attention", lambda *args: used.append(1) or real(*args))
    model = load_model(str(tiny_model), "bfloat16", four_bit=False).train()
    model.set_attn_implementation(attention.register())
    completion_loss(model, inputs())
    assert len(used) == model.config.num_hidden_layers

    used.clear()
    left = {key: value.flip(1) for key, value in inputs().items()}  # padding on the left needs its mask
    completion_loss(model, left)
    model(torch.randint(5, 600, (1, attention.LONGEST + 1)), use_cache=False)
    model.eval()
    prompt = torch.randint(5, 600, (1, 6))
    cache = model(prompt, use_cache=True).past_key_values
    model(prompt[:, :1], past_key_values=cache)
    assert not used


def test_padding_on_the_left_and_on_the_right_give_the_same_loss(tiny_model):
    model = load_model(str(tiny_model), "float32", four_bit=False)
    right = inputs()
    rolled = {key: value.clone() for key, value in right.items()}
    for value in rolled.values():
        value[1] = value[1].roll(5)
    torch.testing.assert_close(completion_loss(model, right), completion_loss(model, rolled), rtol=1e-4, atol=1e-4)


def test_an_option_leaves_pytorchs_own(monkeypatch):
    assert attention.wanted("cpu") and not attention.wanted("cuda")
    monkeypatch.setenv("FTKIT_FAST_ATTENTION", "0")
    assert not attention.wanted("cpu")
