"""The stored comparisons of all attribution methods: `load("cifar10").scores` is what `faithfulness.summary` takes.

`python experiments/compare.py NAME` measures them; `data/README.md` says what each column holds. Four tables and a sidecar:

    NAME.csv          one row a method, seed, removal and image, one column a metric of `faithfulness.evaluate`
    NAME_curves.csv   the curves behind them, mean over images and seeds
    NAME_masks.csv    one row a method, seed, removal and image, one column a metric of `faithfulness.mask_scores`
    NAME_probes.csv   label leak, weight randomisation and, where the truth is known, the scores against it
    NAME.json         what was measured: command, commit, versions, seeds, fingerprints and hashes of the weights
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .. import weights

TABLES = {"scores": ".csv", "curves": "_curves.csv", "masks": "_masks.csv", "probes": "_probes.csv"}
KEYS = ["source", "method", "seed", "removal", "image"]  # of a row in `scores` and `masks`; the other columns are metrics


@dataclass(frozen=True)
class Results:
    """One stored comparison."""

    scores: pd.DataFrame  # long: method, seed, removal, image, metric, value; image is the index in the test set
    curves: pd.DataFrame  # method, removal, order ("morf", "lerf"), share removed, p (of the predicted class), n averaged
    masks: pd.DataFrame  # long, as scores; seed is that of the gates whose number of patches every method keeps
    probes: pd.DataFrame  # probe, method, seed (none where all are taken together), what, mean, low, high, n (images)
    about: dict  # the sidecar


def load(name: str, root: str | os.PathLike | None = None) -> Results:
    """Read the stored comparison of a task, "cifar10" or "grid".

    root: a folder of tables, by default the one that comes with the package. Raises `FileNotFoundError` with the command
    that makes a missing file.
    """
    root = Path(root or folder())
    tables = {table: read(_there(root / f"{name}{ending}", name)).drop(columns="source") for table, ending in TABLES.items()}
    about = json.loads(_there(root / f"{name}.json", name).read_text(encoding="utf-8"))
    return Results(long(tables["scores"]), tables["curves"], long(tables["masks"]), tables["probes"], about)


def folder() -> Path:
    """Return where the tables lie."""
    return weights.folder() / "results"


def long(table: pd.DataFrame) -> pd.DataFrame:
    """Turn a wide table, one column a metric, into one with a row a number: method, seed, removal, image, metric, value."""
    keys = [key for key in KEYS if key in table]
    return table.melt(keys, var_name="metric", value_name="value")


def read(file: str | os.PathLike) -> pd.DataFrame:
    """Read what `text` made."""
    table = pd.read_csv(file)
    return table.astype({"seed": "Int64"}) if "seed" in table and table["seed"].isna().any() else table


def _there(path: Path, name: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"There is no table {path}; make it with `python experiments/compare.py {name}`.")
    return path
