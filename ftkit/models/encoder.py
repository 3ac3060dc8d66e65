"""A small encoder, which reads a text and does not write: the packaged one, and what it makes of texts (lessons 02b and 04).

It is optional: nothing else needs it. `ftkit.models.catalog.INSTALL_ENCODER` installs the packaged one, which reads English;
`$FTKIT_ENCODER` names the folder of another.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ftkit.common.errors import KitError
from ftkit.common.machine import detect_hardware
from ftkit.common.paths import expanded
from ftkit.models.catalog import ENCODER_PACKAGE
from ftkit.models.find import readable
from ftkit.models.load import quiet_libraries

BATCH = 32  # texts that are read at once


def find_encoder() -> Path | None:
    """Folder of the encoder: `$FTKIT_ENCODER` (empty: none), else the installed package that carries one; None without.

    Raises `KitError` if `$FTKIT_ENCODER` names no model's folder.
    """
    if (named := os.environ.get("FTKIT_ENCODER")) is not None:
        folder = expanded(named)
        if named and not (folder / "config.json").is_file():
            raise KitError(f"FTKIT_ENCODER is {named}, which is not a model's folder: it has no config.json.")
        return folder if named else None
    try:
        files = importlib.metadata.distribution(ENCODER_PACKAGE.split("==")[0]).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    weights = (Path(str(f.locate())) for f in files if f.name == "model.safetensors")
    return next((path.parent for path in weights if path.is_file()), None)


@dataclass
class Encoder:
    """An encoder with its tokenizer. `seen` keeps the vectors of texts, so that each is computed once."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    seen: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, folder: Path | None = None) -> Encoder | None:
        """Load an encoder from its folder, left out the one of `find_encoder`, in float32; None where there is none.

        Raises `KitError` if its files are broken.
        """
        if not (folder := folder or find_encoder()):
            return None
        quiet_libraries()
        with readable(str(folder)):
            model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(folder, model.eval().to(detect_hardware().device), tokenizer)

    @property
    def name(self) -> str:
        """Which encoder it is: the package with its version, or a folder."""
        return str(self.folder) if os.environ.get("FTKIT_ENCODER") else ENCODER_PACKAGE

    @property
    def most_tokens(self) -> int:
        """How much of a text the encoder reads, in tokens."""
        return min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    @property
    def memory_mb(self) -> float:
        """Its weights in memory, in MB (10^6 bytes)."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters()) / 1e6

    def remark(self, texts: Sequence[str]) -> str:
        """A remark on texts that are longer than the encoder reads, "" where there are none."""
        long = sum(len(ids) > self.most_tokens for ids in self.tokenizer(list(texts), verbose=False)["input_ids"])
        return f"; it sees the first {self.most_tokens} tokens only of {long:,} of {len(texts):,} messages" if long else ""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """A vector of length 1 for each text: the mean over its tokens of the last layer. Shape [texts, width].

        Mean pooling is what this encoder was trained with (Reimers and Gurevych 2019, arXiv 1908.10084).
        """
        new = sorted({text for text in texts if text not in self.seen}, key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            cut = {"truncation": True, "max_length": self.most_tokens}
            inputs = self.tokenizer(some, padding=True, return_tensors="pt", **cut).to(self.model.device)
            with torch.inference_mode():
                hidden = self.model(**inputs).last_hidden_state  # [texts, tokens, width]
            mask = inputs["attention_mask"].unsqueeze(-1)
            means = torch.nn.functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)
            self.seen |= zip(some, means.cpu().numpy(), strict=True)
        return np.stack([self.seen[text] for text in texts])
