"""What all tests share: which notebooks are collected, where figures go, threads, and how many cells were skipped."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one on each core; set before torch is imported, and inherited by kernels
    os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib
import pytest

ROOT = Path(__file__).parent
SKIPPED = "cell skipped for want of data"

# Figures of the unit tests are drawn, not shown. A backend in the environment would also reach the notebooks' kernels,
# which would then show none inline, and checked cells would differ from the stored ones.
os.environ.pop("MPLBACKEND", None)
# What a hub would give is not there in tests, and its client would ask for most of a minute. Kernels inherit this, too.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
matplotlib.use("Agg")


def pytest_configure(config):
    # nbval opens this path from the working directory, which need not be the repository's root.
    config.option.nbval_sanitize_with = str(config.rootpath / config.option.nbval_sanitize_with)


def pytest_ignore_collect(collection_path):
    """Only the course itself is run: no copies, no check-points, no notebooks of a fixture."""
    if collection_path.suffix == ".ipynb" and collection_path.parent != ROOT / "notebooks":
        return True


def pytest_collection_modifyitems(items):
    """Let workers begin with the notebooks: the longest files, begun last, would keep one worker and leave the others idle."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.suffix != ".ipynb")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    """Note each cell that says, in a line that begins with 'Skipped: ', which data it lacks."""
    if call.when == "call":
        for output in getattr(item, "test_outputs", None) or []:
            reasons = [line for line in output.get("text", "").splitlines() if line.startswith("Skipped: ")]
            item.user_properties += [(SKIPPED, f"{item.path.name}, {item.name}: {line}") for line in reasons[:1]]


def pytest_terminal_summary(terminalreporter):
    """Print what was noted; the reports also come from the workers that ran the cells."""
    reports = [report for kind in terminalreporter.stats.values() for report in kind if getattr(report, "when", "") == "call"]
    skipped = [value for report in reports for name, value in report.user_properties if name == SKIPPED]
    terminalreporter.section(f"{len(skipped)} notebook cells skipped for want of data")
    for line in sorted(skipped):
        terminalreporter.line(line)
