"""Scores of one-word answers, one of several labels, as a module of the library `evaluate`."""

import json

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from ftkit.evaluation import metrics

DESCRIPTION = """
Scores of answers that are one of several labels; spaces around an answer do not count.

- accuracy: share of answers equal to the reference (scikit-learn: accuracy_score).
- macro-F1: mean over the labels of F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979; scikit-learn: f1_score,
  average="macro"). An answer that is no label is a miss and no false alarm; labels that neither occur nor are predicted
  are left out of the mean.
- confusion matrix: how often the label of the row was answered with the label of the column; the last column counts
  answers that are no label (scikit-learn: confusion_matrix).
"""
INPUTS = """
predictions: the texts as the model wrote them. references: the right labels.
labels: all labels, as a list or as JSON text; left out, those of the references, sorted.
Returns {"accuracy", "macro-F1", "confusion matrix": a list for each label, "labels": the matrix's order}.
"""


class LabelScores(metrics.AnyText, evaluate.Metric):
    """Accuracy, macro-F1 and the confusion matrix."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references, labels=None, **others):
        known = json.loads(labels) if isinstance(labels, str) else list(labels or sorted(set(references)))
        place = {label: i for i, label in enumerate(known)}
        gold, guessed = ([place.get(text.strip(), len(known)) for text in texts] for texts in (references, predictions))
        f1 = f1_score(gold, guessed, labels=range(len(known)), average="macro", zero_division=np.nan)
        return {
            "accuracy": float(accuracy_score(references, [text.strip() for text in predictions])),
            "macro-F1": float(f1),
            "confusion matrix": confusion_matrix(gold, guessed, labels=range(len(known) + 1))[:-1].tolist(),
            "labels": known,
        }
