"""Start the demo of the run that lies in this folder. Hugging Face Spaces calls this file; at home: `python app.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ON_A_SPACE = "SPACE_ID" in os.environ


def main() -> None:
    """Serve the newest run under `runs/`, with the kit, the base model and the task of this folder alone."""
    os.environ |= {"FTKIT_RUNS": str(HERE / "runs"), "FTKIT_CACHE": str(HERE / "cache")}
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    sys.path.insert(0, str(HERE))
    from ftkit.common.paths import load_app
    from ftkit.runs.run import open_run

    # the demo serves this machine only; a Space's front door knocks from outside the container
    host = os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if ON_A_SPACE else "127.0.0.1")
    load_app("demo").launch(open_run(), int(os.environ.get("GRADIO_SERVER_PORT") or 7860), host=host)


if __name__ == "__main__":
    main()
