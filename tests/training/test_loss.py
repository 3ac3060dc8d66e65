import pytest
import torch

from ftkit.common.errors import KitError
from ftkit.models import head
from ftkit.training import cpu_kernels as kernels
from ftkit.training.loss import completion_loss, whole_loss
from ftkit.training.proof import prove_loss
from tests.training.families import CANNOT, FAMILIES, batch, tiny_model


def loss_and_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_and_its_gradients_are_the_models_own_at_once_and_in_pieces(family, monkeypatch):
    model = tiny_model(family).eval()  # no dropout
    for left, piece in ((False, 128), (True, 5)):
        monkeypatch.setattr(head, "PIECE", piece)
        inputs = batch(left)
        own, theirs = loss_and_gradients(model, model(**inputs, use_cache=False).loss)
        loss, ours = loss_and_gradients(model, completion_loss(model, inputs))
        torch.testing.assert_close(loss, own, rtol=1e-5, atol=1e-5)
        assert ours.keys() == theirs.keys()
        for name, gradient in theirs.items():
            close = {"rtol": 5e-4 if left else 1e-4, "atol": 1e-6}  # pieces are added up in another order
            torch.testing.assert_close(ours[name], gradient, **close, msg=lambda text, n=name: f"{n}: {text}")
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


@pytest.mark.parametrize(("family", "at_once"), [("llama", 5), ("granite", 28)])
def test_logits_exist_at_a_piece_of_the_tokens_only_unless_the_family_changes_them(family, at_once, monkeypatch):
    model, seen = tiny_model(family), []
    completion_loss(model, batch())  # shows that the model hands on what its head made, or does not
    monkeypatch.setattr(head, "PIECE", 5)
    model.lm_head.register_forward_hook(lambda layer, given, output: seen.append(len(output)))
    completion_loss(model, batch()).backward()
    n = int((batch()["labels"][:, 1:] != -100).sum())
    assert n == 28 and max(seen) == at_once


def test_a_way_that_gives_another_loss_is_passed_over_and_said():
    model, inputs = tiny_model("granite").eval(), batch()

    def past_the_head(model, inputs):  # logits without the family's scale
        hidden = model.model(inputs["input_ids"]).last_hidden_state
        return whole_loss(model, inputs) + 0 * hidden.sum() + 0.3

    def broken(model, inputs):
        raise AttributeError("no attribute 'model'")

    with torch.no_grad():
        assert prove_loss(model, inputs, {"completion": completion_loss}).way == "completion"
        proof = prove_loss(model, inputs, {"completion": past_the_head, "trl": completion_loss})
        assert proof.way == "trl" and "trl's own way" in str(proof) and "alone:" in str(proof)
        proof = prove_loss(model, inputs, {"completion": past_the_head, "trl": broken})
    assert proof.way == "whole" and "AttributeError: no attribute 'model'" in str(proof)


def test_a_model_whose_own_loss_is_another_is_refused():
    class Unshifted(type(tiny_model("llama"))):
        def forward(self, *args, labels=None, **more):
            output = super().forward(*args, **more)
            if labels is not None:
                output.loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
            return output

    with torch.no_grad(), pytest.raises(KitError, match=r"its own loss is .* Take a decoder-only model"):
        prove_loss(
            Unshifted(tiny_model("llama", initializer_range=0.5).config).eval(), batch(), {"completion": completion_loss}
        )


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CANNOT])
def test_the_kits_attention_gives_a_familys_own_loss_or_is_not_used(family):
    model = tiny_model(family).to(torch.bfloat16).train()
    before = model.config._attn_implementation
    losses = []
    for attention in ("own", "the kit's"):
        if attention != "own" and not kernels.use_attention(model):
            assert model.config._attn_implementation == before
            return
        torch.manual_seed(3)  # the same dropout
        losses.append(completion_loss(model, batch()))
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=2e-2)
