"""ftkit: the small package behind the fine-tuning course.

The modules follow the way the data goes, and each imports only from those before it:
`base`, `profiles`, `models`, `tasks`, `metrics`, `checking`, `runs`, `training`, `generation`, `evaluation`, `exporting`,
`deployment`, and the smaller ones that these are built on; beside them `doctor`, `course`, `plots` and `cli`. Nothing
heavy (torch, trl, gradio) is imported until it is used.
"""

__version__ = "0.1.0"
