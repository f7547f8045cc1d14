"""A long measurement in pieces, each stored as soon as it is finished, so that the same command goes on after a stop.

Each run has a folder of its own, named by a hash of all that its numbers depend on: pieces of another run are never taken for
those of this one. Runs that differ in one entry alone, say the gates, share a folder for the pieces that do not depend on it.
The code is not part of the hash, so a folder keeps the commits at which its pieces were made.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
from torch import Tensor

from diffmask_lite.course.results import read
from diffmask_lite.vit.storage import load_tensors, save_tensors, write
from tables import locked, text

PACKAGES = ("torch", "timm", "captum", "numpy")


class Cache:
    """The finished pieces of one run.

    root: the folder of all runs. run: whatever the numbers depend on, as JSON can hold it. without: the entry of `run` that
    some pieces do not depend on. report: is told about each piece that was made, and how many of the `total` are there.
    """

    def __init__(self, root: str | os.PathLike, run: dict, report: Callable[[str], None] = print, without: str = ""):
        self.run, self.report = run, report
        self.total: int | None = None
        self.commit = commit()  # now: somebody may edit the package while its code runs
        self.finished: set[str] = set()
        self.folder = _folder(root, run)
        self.shared = _folder(root, {key: value for key, value in run.items() if key != without})

    @property
    def commits(self) -> list[str]:
        """The commits at which pieces were made."""
        paths = [folder / "commits.txt" for folder in (self.shared, self.folder)]
        return list(dict.fromkeys(line for path in paths if path.is_file() for line in path.read_text("utf-8").split()))

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]], shared: bool = False) -> dict[str, Tensor]:
        """Return the piece `name`, made now or read back. shared: it does not depend on the entry `without`."""
        path = (self.shared if shared else self.folder) / f"{_file(name)}.safetensors"
        if not path.is_file():
            save_tensors(path, self._made(name, make, path.parent), {"piece": name})
        self.finished.add(name)
        return load_tensors(path)[0]

    def tables(self, name: str, make: Callable[[], dict[str, pd.DataFrame]], shared: bool = False) -> dict[str, pd.DataFrame]:
        """Return the piece `name`, made now or read back, with the numbers as the results' files will have them."""
        path = (self.shared if shared else self.folder) / f"{_file(name)}.json"
        if not path.is_file():
            made = {key: text(table) for key, table in self._made(name, make, path.parent).items()}
            write(path, json.dumps(made, ensure_ascii=False))  # a piece is whole or not there
        self.finished.add(name)
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {key: read(io.StringIO(table)) for key, table in stored.items()}

    def _made(self, name: str, make: Callable[[], dict], folder: Path) -> dict:
        start = time.perf_counter()
        made = make()
        self.report(f"{len(self.finished) + 1} of {self.total or '?'}: {name}, {time.perf_counter() - start:.1f} s")
        path = folder / "commits.txt"
        with locked(path):
            known = path.read_text("utf-8") if path.is_file() else ""
            if self.commit not in known.split():
                write(path, f"{known}{self.commit}\n")
        return made


def _folder(root: str | os.PathLike, run: dict) -> Path:
    """Return the folder of a run, with a file that says which run it is."""
    content = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
    digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
    folder = Path(root) / f"{run['task']}-{digest}"
    write(folder / "run.json", content)
    return folder


def _file(name: str) -> str:
    return name.replace(", ", ".").replace(" ", "_")


def commit(file: Path = Path(__file__)) -> str:
    """Return the commit that a file is at, with "-dirty" if anything in its folder differs from it, or "unknown"."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=file.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # else this is an installed copy inside somebody's repository
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return "unknown"


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of what the numbers depend on; None where a package is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
