"""Stage 03, fine-tuning: a plan, a trainer with the loss on completions, and a run that can be stopped and taken up.

Read `plan` (memory and time beforehand), `schedule` (epochs, batch, rate), `trainer` (rows, adapter, order), `loss`,
`finetune` (the whole road), `progress`, `budget` (the time allowed), `looks` (the loss and the answers on held-out rows).
Four can be left out at first: `proof` holds the loss against the model's own, `cpu_kernels` makes it fast on a CPU,
`give_way` lets it wait for the demo's visitors, `replay/` mixes in general talk, against forgetting. Lesson 03 builds it.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "plan": "DEVICES METHODS USABLE example_lengths model_shape plan_training",
        "schedule": "follow_data",
        "loss": "completion_loss",
        "trainer": "make_trainer training_data",
        "finetune": "train",
    },
)
