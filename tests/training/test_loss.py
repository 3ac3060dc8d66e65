import pytest
import torch

from ftkit.training.loss import completion_loss, whole_loss
from tests.training.families import FAMILIES, batch, tiny_model


def loss_and_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_and_its_gradients_are_the_models_own(family):
    model = tiny_model(family).eval()  # no dropout
    for left in (False, True):
        inputs = batch(left)
        own, theirs = loss_and_gradients(model, model(**inputs, use_cache=False).loss)
        loss, ours = loss_and_gradients(model, completion_loss(model, inputs))
        torch.testing.assert_close(loss, own, rtol=1e-5, atol=1e-5)
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
        with torch.no_grad():
            torch.testing.assert_close(whole_loss(model, inputs), own, rtol=1e-5, atol=1e-5)


def test_a_mixture_of_experts_has_its_balance_in_the_loss_where_its_configuration_asks_for_it():
    plain = completion_loss(tiny_model("mixtral").eval(), batch())
    model = tiny_model("mixtral", output_router_logits=True, router_aux_loss_coef=0.5).eval()
    for left in (False, True):
        inputs = batch(left)
        own, loss = model(**inputs, use_cache=False).loss, completion_loss(model, inputs)
        torch.testing.assert_close(loss, own, rtol=1e-5, atol=1e-5)
        assert float(loss) > float(plain) + 0.1
    n = int((inputs["labels"][:, 1:] != -100).sum())
    torch.testing.assert_close(completion_loss(model, inputs, 2 * n), own / 2, rtol=1e-5, atol=1e-5)


def test_logits_exist_at_the_completions_tokens_only():
    model, seen = tiny_model("cohere").eval(), []
    model.lm_head.register_forward_hook(lambda layer, given, output: seen.append(tuple(output.shape)))
    completion_loss(model, batch())
    assert seen == [(int((batch()["labels"][:, 1:] != -100).sum()), model.config.vocab_size)]
    assert len(model.lm_head._forward_pre_hooks) == 0  # evaluation sees all positions again
