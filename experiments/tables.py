"""Write the tables of results: text that is the same from the same numbers, in files that are replaced in one step.

`diffmask_lite.course.results` reads them; `data/README.md` says what each column holds.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
from filelock import FileLock

from diffmask_lite.course.results import KEYS, TABLES
from diffmask_lite.vit.storage import write


def locked(path: str | os.PathLike) -> FileLock:
    """Return a context in which no other process that asks for it changes a file: to read, add and write in one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


def save(name: str, tables: dict[str, pd.DataFrame], about: dict, root: str | os.PathLike) -> list[Path]:
    """Write the wide tables of a comparison, by the names in `TABLES`, and its sidecar; return the files."""
    paths = [Path(root) / f"{name}{ending}" for ending in (*TABLES.values(), ".json")]
    texts = [text(tables[table]) for table in TABLES] + [sidecar(about)]
    for path, content in zip(paths, texts, strict=True):
        write(path, content)
    return paths


def wide(scores: pd.DataFrame) -> pd.DataFrame:
    """Undo `long`: one column a metric, in the order of their first appearance, as the rows are."""
    keys = [key for key in KEYS if key in scores]
    metrics = scores["metric"].unique()
    table = scores.pivot(index=keys, columns="metric", values="value")[metrics]
    rows = pd.MultiIndex.from_frame(scores[keys].drop_duplicates())
    return table.reindex(rows).rename_axis(columns=None).reset_index()


def text(table: pd.DataFrame) -> str:
    """Return a table as CSV, numbers rounded to four decimals and without zeros at the end."""

    def rounded(value: float) -> str:
        return f"{value:z.4f}".rstrip("0").rstrip(".")  # z: no minus on a zero

    return table.to_csv(index=False, lineterminator="\n", float_format=rounded)


def sidecar(about: dict) -> str:
    """Return what was measured as JSON."""
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"
