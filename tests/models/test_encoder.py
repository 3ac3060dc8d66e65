import numpy as np
import pytest

from ftkit.common.errors import KitError
from ftkit.models.encoder import Encoder, find_encoder


def test_a_text_becomes_the_mean_of_its_tokens_whatever_it_is_batched_with(tiny_encoder):
    import torch

    encoder = Encoder.load(tiny_encoder)
    texts = ["table for four on friday", "hi", "a", "table for four on friday"]
    vectors = encoder.embed(texts)
    assert vectors.shape == (4, 32) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors[0], vectors[3]) and not np.allclose(vectors[0], vectors[1], atol=0.1)
    with torch.inference_mode():  # alone, without padding
        mean = encoder.model(**encoder.tokenizer("hi", return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
    assert np.allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_text_that_is_too_long_is_cut_and_said(tiny_encoder):
    encoder = Encoder.load(tiny_encoder)
    long = "table " * 200
    assert encoder.most_tokens == 128 and encoder.remark(["table", "for"]) == ""
    assert encoder.remark(["table", long]) == "; it sees the first 128 tokens only of 1 of 2 messages"
    assert np.array_equal(*encoder.embed([long, "table " * 300]))


def test_where_the_encoder_comes_from(tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_ENCODER", str(tiny_encoder))
    assert find_encoder() == tiny_encoder and Encoder.load().name == str(tiny_encoder)
    monkeypatch.setenv("FTKIT_ENCODER", "")
    assert find_encoder() is None and Encoder.load() is None
    monkeypatch.setenv("FTKIT_ENCODER", str(tmp_path))
    with pytest.raises(KitError, match=r"no config\.json"):
        find_encoder()
    monkeypatch.delenv("FTKIT_ENCODER")
    monkeypatch.setattr("ftkit.models.encoder.ENCODER_PACKAGE", "no-such-package==1.0")
    assert find_encoder() is None


def test_the_packaged_encoder_knows_what_is_alike(monkeypatch):
    monkeypatch.delenv("FTKIT_ENCODER")
    if not find_encoder():
        pytest.skip("the optional encoder is not installed (ftkit.models.catalog.INSTALL_ENCODER)")
    encoder = Encoder.load()
    cat, kitten, invoice = encoder.embed(["a cat sleeps", "the kitten is asleep", "please send the invoice again"])
    assert encoder.model.config.hidden_size == 384 and cat @ kitten > 0.6 > 0.3 > cat @ invoice
