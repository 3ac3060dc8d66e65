"""Experiments, each with its plan, its code, its results and its page: the recipe, how it follows the rows, beliefs."""

import ftkit as ftkit  # before bitsandbytes, whose notice on an optional kernel it keeps quiet
