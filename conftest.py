"""Every test, and every notebook that nbmake runs, works offline, with the `ci` profile and runs of its own."""

import os
import tempfile


def pytest_configure(config):
    """Set the environment before anything is imported; the kernels of the notebooks inherit it."""
    os.environ.setdefault("FTKIT_PROFILE", "ci")
    os.environ.setdefault("FTKIT_RUNS", tempfile.mkdtemp(prefix="ftkit-runs-"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["FTKIT_ENCODER"] = ""  # installed or not, the same tests


def pytest_runtest_setup(item):
    """A notebook finds no run of another one, whatever the order."""
    if item.path.suffix == ".ipynb":
        os.environ["FTKIT_RUNS"] = tempfile.mkdtemp(prefix="ftkit-runs-")
