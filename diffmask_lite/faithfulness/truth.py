"""Maps and masks against a known truth, (n, h, w), bool or 0 and 1: True at the patches that decide the answer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch import Tensor

from .ranking import best, midranks, stack_maps
from .statistics import Interval, difference, image_weights, interval


def pooled_iou(keep: Tensor, truth: Tensor) -> float:
    """Return |keep ∩ truth| / |keep ∪ truth| over all patches of all images together; both of one shape.

    Pooling lets images with an empty truth count: each patch kept there enlarges the union. 1 if both are empty everywhere.
    """
    keep, truth = _as_bool(keep, "masks"), _as_bool(truth, "truth")
    _check_same(keep, truth, "masks")
    union = int((keep | truth).sum())
    return int((keep & truth).sum()) / union if union else 1.0


def pooled_auroc(maps: Tensor, truth: Tensor) -> float:
    """Return the chance that a patch of the truth, of any image, has a higher value than one outside it, of any image.

    A tie counts ½. It asks more than a ranking within each image: values must mean the same from image to image. NaN where
    the truth holds all patches or none.
    """
    _check_same(maps, truth, "maps")
    return float(_auroc(maps.flatten(), truth.flatten()))


def image_auroc(maps: Tensor, truth: Tensor) -> Tensor:
    """Return the AUROC within each image, float64 (n,): NaN where its truth holds all patches or none."""
    _check_same(maps, truth, "maps")
    return _auroc(maps.flatten(1), truth.flatten(1))


def _check_same(found: Tensor, truth: Tensor, what: str) -> None:
    if found.shape != truth.shape:
        raise ValueError(f"The {what} have shape {tuple(found.shape)}, but the truth has {tuple(truth.shape)}.")


def _as_bool(mask: Tensor, what: str) -> Tensor:
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"The {what} must be bool, or hold nothing but 0 and 1; use a comparison such as values > 0.5.")
    return mask.bool()


def _auroc(values: Tensor, truth: Tensor) -> Tensor:
    """Mann and Whitney's U over the number of pairs, along the last axis."""
    values, truth = values.cpu(), _as_bool(truth, "truth").cpu()  # where ranks are made
    positive, negative = truth.sum(-1).double(), (~truth).sum(-1).double()
    wins = (midranks(values) * truth).sum(-1) - positive * (positive + 1) / 2
    return wins / (positive * negative)  # 0 / 0 where there is no pair


def truth_scores(
    maps: Mapping[str, Tensor], truth: Tensor, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Return method, metric, mean, low, high: how well maps (n, h, w) or (S, n, h, w) find the truth, bool (n, h, w).

    Of a map: "auroc" (pooled), "auroc in image" (mean over the images where it is defined) and "iou of best". The last is the
    pooled IoU of as many best patches as are true in each image, so that no threshold helps or harms. Of a hard mask (bool):
    "iou" (pooled), "kept", and "truth kept", the share of patches in the truth. Means are over seeds; intervals are by
    bootstrap over images, and over seeds where there are several.
    """
    rows = []
    for (method, metric), found in _replicates(maps, truth, draws, seed).items():
        rows.append({"method": method, "metric": metric, **interval(*found, seed, level)._asdict()})
    return pd.DataFrame(rows)


def truth_differences(
    maps: Mapping[str, Tensor],
    truth: Tensor,
    metric: str = "auroc",
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return a, b, mean (of a − b), low, high, differs, for every pair of methods that have the metric of `truth_scores`."""
    found = {method: pair for (method, name), pair in _replicates(maps, truth, draws, seed).items() if name == metric}
    rows = []
    for a, b in combinations(found, 2):
        between = difference(found[a], found[b], seed, level)
        rows.append({"a": a, "b": b, **between._asdict(), "differs": between.differs})
    return pd.DataFrame(rows, columns=["a", "b", *Interval._fields, "differs"])


def _replicates(
    maps: Mapping[str, Tensor], truth: Tensor, draws: int, seed: int
) -> dict[tuple[str, str], tuple[ndarray, ndarray]]:
    """Return (method, metric) -> the metric of each seed (S,), and of each seed on each draw of images (draws, S)."""
    if not isinstance(truth, Tensor) or truth.dtype != torch.bool or truth.ndim != 3:
        raise ValueError("The truth must be a bool tensor (n, h, w), True at the patches that decide the answer.")
    truth = truth.cpu()
    weights = np.concatenate([np.ones((1, len(truth))), image_weights(len(truth), draws, seed)])
    found = {}
    for name, group in stack_maps(maps, len(truth), tuple(truth.shape[1:])).items():
        metrics = _mask_metrics if group.dtype == torch.bool else _map_metrics
        by_seed = [metrics(one, truth, weights) for one in group]
        for metric in by_seed[0]:
            values = np.stack([one[metric] for one in by_seed], axis=1)  # (1 + draws, S)
            found[name, metric] = values[0], values[1:]
    return found


def _mask_metrics(keep: Tensor, truth: Tensor, weights: ndarray) -> dict[str, ndarray]:
    both, either, kept, true = (
        weights @ mask.flatten(1).double().mean(1).numpy() for mask in (keep & truth, keep | truth, keep, truth)
    )
    total = weights.sum(1)
    iou = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    return {"iou": iou, "kept": kept / total, "truth kept": true / total}


def _map_metrics(maps: Tensor, truth: Tensor, weights: ndarray) -> dict[str, ndarray]:
    inside = image_auroc(maps, truth).numpy()
    defined = np.isfinite(inside)
    seen = weights @ defined
    within = np.divide(weights[:, defined] @ inside[defined], seen, out=np.full(len(weights), np.nan), where=seen > 0)
    chosen = best(maps, truth.flatten(1).sum(1))
    iou = _mask_metrics(chosen, truth, weights)["iou"]
    return {"auroc": _weighted_auroc(maps, truth, weights), "auroc in image": within, "iou of best": iou}


def _weighted_auroc(maps: Tensor, truth: Tensor, weights: ndarray) -> ndarray:
    """Pooled AUROC with image i counted weights[:, i] times, one number a row of weights (draws, n)."""
    levels, place = np.unique(maps.flatten(1).numpy(), return_inverse=True)
    place, truth = place.reshape(len(maps), -1), truth.flatten(1).numpy()
    found = np.empty(len(weights))
    for row, weight in enumerate(weights):
        each = np.broadcast_to(weight[:, None], truth.shape)
        positive = np.bincount(place[truth], each[truth], len(levels))  # how much truth at each value
        negative = np.bincount(place[~truth], each[~truth], len(levels))
        wins = positive @ (negative.cumsum() - negative / 2)  # all below, and half of those that tie
        pairs = positive.sum() * negative.sum()
        found[row] = wins / pairs if pairs else np.nan
    return found
