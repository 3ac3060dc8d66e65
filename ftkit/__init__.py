"""ftkit: the small package behind the fine-tuning course.

The modules follow the way the data goes, and each imports only from those before it:
`base`, `profiles`, `models`, `tasks`, `checking`, `runs`, `training`, `generation`, `evaluation`, `deployment`;
beside them `doctor`, `course`, `plots` and `cli`. Nothing heavy (torch, trl, gradio) is imported until it is used.
"""

__version__ = "0.1.0"
