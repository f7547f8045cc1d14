"""The verdict on depth, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from diffmask_lite.course.depth import BETTER, against_full_depth, as_good_from


def table(offsets, images=100):
    """Depth d is `offsets[d]` better than full depth in every metric, give or take, on the same noisy images."""
    noise = np.random.default_rng(0).normal(size=(1 + len(offsets), images))
    rows = []
    for depth, offset in enumerate(offsets):
        values = {metric: sign * offset + noise[-1] + 0.1 * noise[depth] for metric, sign in BETTER.items()}
        rows.append(pd.DataFrame({"depth": depth, "image": range(images), **values}))
    return pd.concat(rows)


@pytest.mark.parametrize(
    ("offsets", "depth"),
    [([-1, -1, 0, 0], 2), ([-1, 0, -1, 0], 3), ([0] * 4, 0), ([-1, -0.001, 0, 0], 1), ([1, 1, -1, 0], 3), ([1, 0.5, 0, 0], 0)],
)  # fmt: skip
def test_the_depth_from_which_on_nothing_is_worse(offsets, depth):
    assert as_good_from(table(offsets)) == depth


@pytest.mark.parametrize("metric", BETTER)
def test_one_worse_metric_is_enough_and_its_sign_counts(metric):
    found = table([0, 0, 0])
    found.loc[found.depth == 1, metric] -= BETTER[metric]
    assert as_good_from(found) == 2
    said = against_full_depth(found).query("worse")
    assert said.metric.tolist() == [metric] and said["mean"].iloc[0] == pytest.approx(-BETTER[metric], abs=0.05)
    found.loc[found.depth == 1, metric] += 2 * BETTER[metric]
    assert as_good_from(found) == 0


def test_a_certain_difference_within_the_margin_does_not_count_and_differences_are_paired():
    found = table([0, 0, 0])
    found["kept"] = 0.4 + 0.008 * (found.depth == 0)
    assert as_good_from(found) == 0 and as_good_from(found, margin=0.005) == 1
    found = table([-0.1, 0, 0])  # what makes one image harder than another is a hundred times this difference, and cancels
    found["kl"] += 100 * np.tile(np.random.default_rng(1).normal(size=100), 3)
    assert bool(against_full_depth(found).query("metric == 'kl' and depth == 0").worse.iloc[0])
