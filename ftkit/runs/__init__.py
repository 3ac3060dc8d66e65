"""A run's folder: what every stage after the data reads, and adds its part to.

Read `run` (the folder and its records), `guards` (mistakes that raise no error), `card` (the model card), `timeline` (what
the model answered while it learned). Lessons 03 to 05 open runs; the lab "Break it" makes the mistakes that they catch.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "run": "Run finished_run open_run",
        "card": "make_card",
    },
)
