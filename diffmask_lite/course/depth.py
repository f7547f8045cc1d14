"""Is a mask from the first blocks alone as good as one from all of them? Paired differences over images."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..faithfulness.statistics import Interval, image_weights

BETTER = {"kept": -1, "kl": -1, "agree": 1, "srg_drop": 1, "srg_mean": 1}  # −1: lower is better


def against_full_depth(
    table: pd.DataFrame, *, margin: float = 0.01, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Return depth, metric, mean, low, high, worse: each depth minus full depth on the same images, and the verdict.

    table: depth, image and the columns of `BETTER`, of one task, as `experiments/depth.py` stores it. worse: by more than the
    margin (a share, or nats), and the whole interval lies on the bad side of 0; pairs of masks that nearly agree make a
    difference of a thousandth certain. Not to be worse is not to be equal: with few images the intervals are wide.
    """
    full, rows = table["depth"].max(), []
    weights = image_weights(table["image"].nunique(), draws, seed)
    for metric, sign in BETTER.items():
        values = table.pivot(index="image", columns="depth", values=metric)
        for depth in values.columns.drop(full):
            gap = (values[depth] - values[full]).to_numpy(float)
            low, high = np.quantile(weights @ gap, [(1 - level) / 2, (1 + level) / 2])
            worse = sign * gap.mean() < -margin and (high < 0 if sign > 0 else low > 0)
            found = Interval(float(gap.mean()), float(low), float(high))
            rows.append({"depth": depth, "metric": metric, **found._asdict(), "worse": worse})
    return pd.DataFrame(rows)


def as_good_from(table: pd.DataFrame, **options: float) -> int:
    """Return the first depth from which on no metric is worse than at full depth; table, options: see `against_full_depth`."""
    found = against_full_depth(table, **options)
    worse = found.loc[found["worse"], "depth"]
    return int(worse.max()) + 1 if len(worse) else int(table["depth"].min())
