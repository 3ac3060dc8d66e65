"""ftkit: the small package behind the fine-tuning course.

A folder is a stage of the course, in the order of the lessons: `models` (01), `data` (02), `training` (03), `evaluation`
(04), `deployment` (05); `runs` holds what the stages pass on, `common` what all of them need, `course` the exercises and
`cli` the command line. A stage imports only from those before it. Nothing heavy is loaded until it is used.
"""

import logging

# bitsandbytes says, as soon as it is imported, that the hub has an optional kernel; its own code serves without it
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.CRITICAL)

__version__ = "0.2.0"
