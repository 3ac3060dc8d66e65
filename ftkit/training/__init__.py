"""Stage 03, fine-tuning: a plan, a trainer with the loss on completions, and a run that can be stopped and taken up.

Read `plan` (memory and time beforehand), `schedule` (epochs, batch, rate), `trainer` (rows, adapter, loss, order),
`finetune` (the whole road), `progress`; `cpu_kernels` makes it fast on a CPU and can be left out. Lesson 03 builds it.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "plan": "DEVICES METHODS USABLE example_lengths model_shape plan_training",
        "trainer": "completion_loss make_trainer training_data",
        "schedule": "follow_data",
        "finetune": "train",
    },
)
