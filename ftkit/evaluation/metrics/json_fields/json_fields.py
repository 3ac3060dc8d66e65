"""Scores of JSON answers with known fields, as a module of the library `evaluate`."""

import json

import datasets
import evaluate
import numpy as np
from sklearn.metrics import f1_score

from ftkit.common.errors import KitError
from ftkit.evaluation import metrics

DESCRIPTION = """
Scores of JSON answers with known fields; what cannot be read counts as wrong.

- valid JSON: share of answers with a JSON object in them (the first one counts, prose around it is skipped).
- fits the task: share of answers with all fields in their order, no others, each with an allowed value (JSON Schema).
- <field>: share of answers whose value equals the reference's, in value and type; a missing field is wrong, also for null.
- exact match: share of answers with all fields equal.
- <field> set F1 (fields of type set): mean over answers of 2 |A and B| / (|A| + |B|); two empty sets count 1, no list 0.
  It is Dice's coefficient (Dice 1945, Ecology 26), the F1 of one example (scikit-learn: f1_score, average="samples").
- <field> macro-F1 (fields of type choice): mean over the values of F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979;
  scikit-learn: f1_score, average="macro"). An answer that is none of the values is a miss and no false alarm; values that
  neither occur nor are predicted are left out of the mean.
"""
INPUTS = """
predictions: the texts as the model wrote them. references: the right objects as JSON text, with all fields.
fields: the task's [[fields]] as JSON text or a list of dicts (ftkit.evaluation.metrics.fields_text(task)).
Returns {metric: score from 0 to 1}.
"""


class JsonFields(metrics.AnyText, evaluate.Metric):
    """Validity, fit, exact match, accuracy of each field, macro-F1 of closed fields, set F1 of list fields."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references, fields=None, **others):
        if fields is None:
            raise KitError(
                "json_fields needs the task's fields: compute(..., fields=ftkit.evaluation.metrics.fields_text(task))."
            )
        task = metrics.task_of_fields(fields)
        rows = [{task.target: _reference(task, i, text)} for i, text in enumerate(references)]
        scores = {name: float(np.mean(values)) for name, values in metrics.row_scores(task, rows, predictions).items()}
        for name, (values, gold, guessed) in metrics.closed_values(task, rows, predictions).items():
            labels = range(len(values))
            scores[name] = float(f1_score(gold, guessed, labels=labels, average="macro", zero_division=np.nan))
        return scores


def _reference(task, number, text):
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or any(f.name not in value for f in task.fields):
        raise KitError(f"Reference {number + 1} is no JSON object with all fields.")
    return value
