"""Stage 04, evaluation: answers by base and tuned, scores with intervals, baselines, and what was forgotten.

Read `answer` (base and tuned in one model), `metrics/` (how right an answer is), `intervals` (how sure a score is),
`baselines`, `errors`, `forgetting`, then `measure` (all of it into `evaluation.json`) and `report`. `saved_answers` keeps
what was computed, `stream` serves the demo. `decoding/` holds answers to a schema, or asks for them again, `judging/` asks
another model which answers are better, `verdict/` says whether to fine-tune at all. Lesson 04 builds it.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "answer": "BASE TUNED Answerer load_tuned",
        "stream": "Answer",
        "decoding.constrained": "ROOM SchemaProcessor",
        "intervals": "bootstrap_interval compare_shares describe_comparison seeds_interval share_interval",
        "metrics": "score",
        "saved_answers": "load_evaluation read_answers",
        "measure": "answers_of evaluate",
        "tables": "comparison_table describe_evaluation evaluation_table told_table",
    },
)
