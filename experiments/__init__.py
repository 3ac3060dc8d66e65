"""Experiments: the recipe, how it follows the number of rows, and three beliefs, each with its plan, its code, its results and its page."""

import ftkit as ftkit  # before bitsandbytes, whose notice on an optional kernel it keeps quiet
