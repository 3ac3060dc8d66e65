"""Every test, and every notebook that nbmake runs, works offline, with the `ci` profile and runs of its own."""

import os
import tempfile

# before anything is imported, the tests' own conftest.py too; the kernels of the notebooks inherit it
os.environ.setdefault("FTKIT_PROFILE", "ci")
os.environ.setdefault("FTKIT_RUNS", tempfile.mkdtemp(prefix="ftkit-runs-"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["FTKIT_ENCODER"] = ""  # installed or not, the same tests

LONG = ("test_notebooks.py", "test_beside.py")  # files with tests of minutes


def pytest_collection_modifyitems(items):
    """Long tests come first: a process with nothing left takes over what waits at another, but not what has begun."""
    items.sort(key=lambda item: item.path.suffix != ".ipynb" and item.path.name not in LONG)


def pytest_runtest_setup(item):
    """A notebook finds no run of another one, whatever the order."""
    if item.path.suffix == ".ipynb":
        os.environ["FTKIT_RUNS"] = tempfile.mkdtemp(prefix="ftkit-runs-")
