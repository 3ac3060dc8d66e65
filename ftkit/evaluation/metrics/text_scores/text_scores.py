"""Scores of free texts against a reference, as a module of the library `evaluate`."""

import datasets
import evaluate
import numpy as np
from sacrebleu.metrics import CHRF

from ftkit.evaluation import metrics

DESCRIPTION = """
Scores of free texts against one reference each; spaces around an answer do not count.

- exact match: share of answers equal to the reference.
- chrF: mean over answers of the F-score of character n-grams up to 6, recall weighted double:
  5 P R / (4 P + R), P and R averaged over the orders (Popović 2015, W15-3049; sacrebleu's CHRF).
- corpus chrF: the same with the n-grams of all answers counted together, as papers report it (sacrebleu's corpus_score).
- ROUGE-L: mean over answers of F1 = 2 P R / (P + R), where P and R are the length of the longest common subsequence of
  words over the number of words in answer and reference (Lin 2004, W04-1013; rouge-score, words in any script, no stemming).
"""
INPUTS = """
predictions: the texts as the model wrote them. references: the wanted texts.
Returns {metric: score from 0 to 1}.
"""


class TextScores(metrics.AnyText, evaluate.Metric):
    """Exact match, chrF and ROUGE-L."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references, **others):
        pairs = list(zip([text.strip() for text in predictions], references, strict=True))
        return {
            "exact match": float(np.mean([answer == target for answer, target in pairs])),
            "chrF": float(np.mean([metrics.chrf(answer, target) for answer, target in pairs])),
            "corpus chrF": CHRF().corpus_score([answer for answer, _ in pairs], [references]).score / 100,
            "ROUGE-L": float(np.mean([metrics.rouge_l(answer, target) for answer, target in pairs])),
        }
