"""Loading a model's tokenizer alone, which takes a fraction of the time of loading a model's code (lesson 01)."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ftkit.common.errors import KitError
from ftkit.models.chat_template import mend_template
from ftkit.models.find import prepare_model, readable

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")  # one of them holds the words


def load_tokenizer(name: str, adapter: Path | None = None) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer, padding on the left as generation needs it, its chat template mended (`mend_template`).

    `adapter` is the folder of an adapter: the tokenizer in it is taken, where the training saved one. Raises `KitError` if
    there is none, or no end token in it.
    """
    transformers_logging.set_verbosity_error()
    own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    place = str(adapter) if own else prepare_model(name)
    if Path(place).is_dir() and not any((Path(place) / file).is_file() for file in TOKENIZERS):
        raise KitError(f"{place} holds no tokenizer (tokenizer.json is missing). Copy the model's folder again.")
    with readable(name):
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=Path(place).is_dir())
    mend_template(tokenizer, name)
    tokenizer.padding_side = "left"
    return tokenizer
