"""Perplexity of reference texts under a model, as a module of the library `evaluate`."""

import datasets
import evaluate
import numpy as np

from ftkit.evaluation import metrics

DESCRIPTION = """
Perplexity of the references: how many tokens, on average, the model would have to choose between at each step.

perplexity = exp(- sum of ln p(token | what stands before it) / number of tokens), over the tokens of all references
together (Jelinek et al. 1977). Lower is better; 1 is certainty. Comparable only between models with the same tokenizer.
"""
INPUTS = """
log_probabilities: for each example, the sum of its tokens' natural log probabilities. tokens: for each, their number.
Returns {"perplexity": from 1}.
"""


class ReferencePerplexity(evaluate.Metric):
    """Perplexity from sums of log probabilities and numbers of tokens."""

    def _info(self):
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"log_probabilities": datasets.Value("float64"), "tokens": datasets.Value("int64")}),
        )

    def _compute(self, log_probabilities, tokens, **others):
        return {"perplexity": float(metrics.perplexity(log_probabilities, tokens)(np.arange(len(tokens))))}
