"""The verdict: should this task be fine-tuned, and with what? `ftkit verdict TASK`.

Read `rule` (how scores become advice), `contenders` (who answers the same rows, and at what cost), `classifier` (the
fine-tuned encoder), `judge` (all into `verdict.json`), then `page`.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "judge": "verdict verdict_folder",
        "page": "verdict_tables",
        "rule": "RULE decide",
    },
)
