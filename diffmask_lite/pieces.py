"""A long measurement in pieces, each stored as soon as it is finished, so that the same command goes on after a stop.

Each run has a folder of its own, named by a hash of all that its numbers depend on: pieces of another run are never taken for
those of this one. The code is not part of the hash, so the folder keeps the commits at which its pieces were made.
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

from . import results
from .state import load_state, save_state

PACKAGES = ("torch", "timm", "captum", "numpy")


class Pieces:
    """The finished pieces of one run.

    root: the folder of all runs. run: whatever the numbers depend on, as JSON can hold it. report: is told about each piece
    that was made, and how many of the `total` are there.
    """

    def __init__(self, root: str | os.PathLike, run: dict, report: Callable[[str], None] = print):
        self.run, self.report = run, report
        self.total: int | None = None
        self.finished: set[str] = set()
        content = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
        digest = hashlib.blake2b(content.encode(), digest_size=4).hexdigest()
        self.folder = Path(root) / f"{run['task']}-{digest}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(content, encoding="utf-8")

    @property
    def commits(self) -> list[str]:
        """The commits at which pieces were made."""
        path = self.folder / "commits.txt"
        return path.read_text(encoding="utf-8").split() if path.is_file() else []

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the piece `name`, made now or read back."""
        path = self.folder / f"{_file(name)}.safetensors"
        if not path.is_file():
            save_state(path, self._made(name, make), {"piece": name})
        self.finished.add(name)
        return load_state(path)[0]

    def tables(self, name: str, make: Callable[[], dict[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
        """Return the piece `name`, made now or read back, with the numbers as the results' files will have them."""
        path = self.folder / f"{_file(name)}.json"
        if not path.is_file():
            made = {key: results.text(table) for key, table in self._made(name, make).items()}
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
            os.replace(partial, path)  # a piece is whole or not there
        self.finished.add(name)
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {key: results.read(io.StringIO(table)) for key, table in stored.items()}

    def _made(self, name: str, make: Callable[[], dict]) -> dict:
        start = time.perf_counter()
        made = make()
        self.report(f"{len(self.finished) + 1} of {self.total or '?'}: {name}, {time.perf_counter() - start:.1f} s")
        if (now := commit()) not in self.commits:
            with (self.folder / "commits.txt").open("a", encoding="utf-8") as file:
                file.write(f"{now}\n")
        return made


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
    """Return the versions of Python and of what the numbers hang on; None where a package is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
