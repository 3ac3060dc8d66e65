"""ftkit: the small package behind the fine-tuning course.

A folder is a stage of the course, in the order of the lessons: `models` (01), `data` (02), `training` (03), `evaluation`
(04), `deployment` (05); `runs` holds what the stages pass on, `common` what all of them need, `course` the exercises and
`cli` the command line. A stage imports only from those before it. Nothing heavy is loaded until it is used.
"""

__version__ = "0.2.0"
