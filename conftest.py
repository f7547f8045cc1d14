"""What all tests share: which notebooks are collected, where figures go, and how many cells were skipped."""

import os
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parent
SKIPPED = pytest.StashKey[list[str]]()

# Figures of the unit tests are drawn, not shown. A backend in the environment would also reach the notebooks' kernels,
# which would then show none inline, and checked cells would differ from the stored ones.
os.environ.pop("MPLBACKEND", None)
matplotlib.use("Agg")


def pytest_configure(config):
    config.stash[SKIPPED] = []
    # nbval opens this path from the working directory, which need not be the repository's root.
    config.option.nbval_sanitize_with = str(config.rootpath / config.option.nbval_sanitize_with)


def pytest_ignore_collect(collection_path):
    """Only the course itself is run: no copies, no check-points, no notebooks of a fixture."""
    if collection_path.suffix == ".ipynb" and collection_path.parent != ROOT / "notebooks":
        return True


def pytest_runtest_teardown(item):
    """Note each cell that says, in a line that begins with 'Skipped: ', which data it lacks."""
    for output in getattr(item, "test_outputs", None) or []:
        lines = output.get("text", "").splitlines()
        reasons = [line for line in lines if line.startswith("Skipped: ")]
        item.config.stash[SKIPPED] += [f"{item.path.name}, {item.name}: {line}" for line in reasons[:1]]


def pytest_terminal_summary(terminalreporter, config):
    skipped = config.stash[SKIPPED]
    terminalreporter.section(f"{len(skipped)} notebook cells skipped for want of data")
    for line in skipped:
        terminalreporter.line(line)
