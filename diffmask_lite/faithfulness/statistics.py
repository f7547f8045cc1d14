"""Intervals and differences by bootstrap: images are drawn with replacement, the same ones for every method, and so are seeds.

Methods are compared on the same images, so most of what makes one image harder than another cancels in a difference. Only a
paired interval shows that. Where a method has several seeds (trainings, random draws), its seeds are resampled as well. Three
seeds give an interval that is somewhat too narrow; with one seed it speaks of that one training.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray

# Is higher or lower better? Metrics at a share, "sufficiency@10%", go by the part before the @.
ARROWS = {
    "morf": "↓", "lerf": "↑", "srg": "↑", "sufficiency": "↓", "comprehensiveness": "↑", "agreement": "↑", "kept": "↓",
    "auroc": "↑", "auroc in image": "↑", "iou": "↑", "iou of best": "↑", "truth kept": "",
}  # fmt: skip


class Interval(NamedTuple):
    """A mean, and the percentile interval around it."""

    mean: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def image_weights(images: int, draws: int, seed: int = 0) -> ndarray:
    """Return the weight of each image in each bootstrap draw, (draws, n), rows summing to 1; a function of its arguments."""
    return np.random.default_rng([seed, images]).multinomial(images, np.full(images, 1 / images), size=draws) / images


def _over_seeds(replicates: ndarray, seed: int, stream: int) -> ndarray:
    """Average replicates (draws, S) over seeds that are drawn anew in each: (draws,)."""
    draws, seeds = replicates.shape
    rng = np.random.default_rng([seed, stream, seeds])
    return (replicates * rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)).sum(1) / seeds


def interval(point: ndarray, replicates: ndarray, seed: int = 0, level: float = 0.95) -> Interval:
    """Return the mean of point (S,) over seeds, with the percentile interval of replicates (draws, S) of the same statistic."""
    return _interval(point.mean(), _over_seeds(replicates, seed, 0), level)


def difference(a: tuple[ndarray, ndarray], b: tuple[ndarray, ndarray], seed: int = 0, level: float = 0.95) -> Interval:
    """Return the mean of a − b with its interval, each a pair of (S,) and (draws, S) from the same draws of images."""
    replicates = _over_seeds(a[1], seed, 1) - _over_seeds(b[1], seed, 2)  # each method's seeds are its own
    return _interval(a[0].mean() - b[0].mean(), replicates, level)


def _interval(mean: float, replicates: ndarray, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval lies between 0 and 1, but it is {level}.")
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(mean), float(low), float(high))


def values_of(scores: pd.DataFrame, method: str, metric: str, removal: str) -> ndarray:
    """Return one method's values as (S, n), seeds by images."""
    rows = scores[(scores["method"] == method) & (scores["metric"] == metric) & (scores["removal"] == removal)]
    if rows.empty:
        there = {column: ", ".join(scores[column].unique()) for column in ("method", "metric", "removal")}
        raise ValueError(
            f'There is no score of method "{method}", metric "{metric}" and removal "{removal}"; the table has the methods '
            f"{there['method']}, the metrics {there['metric']} and the removals {there['removal']}."
        )
    table = rows.pivot(index="seed", columns="image", values="value").to_numpy(float)
    if np.isnan(table).any():
        raise ValueError(f'Method "{method}" lacks "{metric}" for some images or seeds; score every seed on every image.')
    return table


def intervals(scores: pd.DataFrame, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """Return removal, method, metric, mean, low, high of every group of a long table of scores, in the table's order."""
    rows = []
    groups = scores[["removal", "method", "metric"]].drop_duplicates()
    for removal, method, metric in groups.itertuples(index=False):
        values = values_of(scores, method, metric, removal)
        replicates = image_weights(values.shape[1], draws, seed) @ values.T
        found = interval(values.mean(1), replicates, seed, level)
        rows.append({"removal": removal, "method": method, "metric": metric, **found._asdict()})
    return pd.DataFrame(rows)


def summary(scores: pd.DataFrame, metrics: list[str] | None = None, **options: float) -> pd.DataFrame:
    """Return a table to print: a row a method, a column a metric with its arrow, "mean [low, high]" in the cells.

    metrics: which and in which order, by default all. options: draws, seed, level; see `intervals`. A table that has `mean`,
    `low` and `high` already, such as that of `truth_scores`, is only laid out.
    """
    if metrics is not None:
        scores = scores[scores["metric"].isin(metrics)]
    table = scores if {"mean", "low", "high"} <= set(scores) else intervals(scores, **options)
    text = [str(Interval(*row)) for row in table[["mean", "low", "high"]].itertuples(index=False)]
    rows = [column for column in ("removal", "method") if column in table]
    keys = list(map(tuple, table[rows].drop_duplicates().to_numpy()))
    heads = metrics or list(table["metric"].unique())
    wide = table.assign(text=text).pivot(index=rows, columns="metric", values="text")
    wide = wide.reindex(keys if len(rows) > 1 else [key[0] for key in keys])[heads]
    return wide.fillna("–").rename(columns=with_arrow).rename_axis(columns=None)


def with_arrow(metric: str) -> str:
    """Return a metric's name with ↑ or ↓ for what is better: "srg ↑"."""
    return f"{metric} {ARROWS.get(metric.split('@')[0], '')}".strip()


def compare(
    scores: pd.DataFrame,
    a: str,
    b: str,
    metric: str = "srg",
    removal: str = "drop",
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean difference a − b of two methods on the same images, with its paired bootstrap interval.

    An interval without 0 is a difference that another sample of images (and seeds) would most likely show as well.
    """
    first, second = (values_of(scores, method, metric, removal) for method in (a, b))
    if first.shape[1] != second.shape[1]:
        raise ValueError(f'"{a}" has {first.shape[1]} images, but "{b}" has {second.shape[1]}; score both on the same images.')
    weights = image_weights(first.shape[1], draws, seed)
    return difference((first.mean(1), weights @ first.T), (second.mean(1), weights @ second.T), seed, level)


def differences(scores: pd.DataFrame, metric: str = "srg", removal: str = "drop", **options: float) -> pd.DataFrame:
    """Return a, b, mean (of a − b), low, high, and whether the interval leaves out 0, for every pair of methods.

    options: draws, seed, level; see `compare`. Among many pairs, some intervals at 95 % leave out 0 by chance: about one of
    twenty. Divide 1 − level by the number of pairs to be safe (Bonferroni), and raise draws with it.
    """
    rows = []
    for a, b in combinations(scores["method"].unique(), 2):
        found = compare(scores, a, b, metric, removal, **options)
        rows.append({"a": a, "b": b, **found._asdict(), "differs": found.differs})
    return pd.DataFrame(rows, columns=["a", "b", *Interval._fields, "differs"])


def removal_agreement(scores: pd.DataFrame, metric: str = "srg") -> pd.DataFrame:
    """Return Spearman's correlation between the rankings of the methods under each two removals: 1 where they agree."""
    rows = scores[scores["metric"] == metric]
    means = rows.pivot_table(index="method", columns="removal", values="value", aggfunc="mean")[rows["removal"].unique()]
    return means.corr("spearman").rename_axis(index=None, columns=None)
