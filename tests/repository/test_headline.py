"""The comparisons are those of the stored tables, the row that of the manifest; a loss is printed like a win."""

import re

import numpy as np
import pandas as pd
import pytest

import headline
from diffmask_lite import weights
from diffmask_lite.course import results

PAGE = headline.PAGE.read_text("utf-8")
FOUND = results.load("cifar10")
SIGNED = r"([+−]?\d\.\d\d)"
NEITHER = "neither is shown to be better"


def number(text):
    return float(text.replace("−", "-"))


def test_the_headline_is_that_of_the_stored_tables_best_first():
    assert headline.rewritten(PAGE, FOUND, weights.manifest()) == PAGE, "run python tools/headline.py"
    rows = re.findall(rf"^\| \**(\w[\w ]+?)\** \| {SIGNED} \[", headline.PLACE.search(PAGE)[0], flags=re.MULTILINE)
    scores = FOUND.scores[(FOUND.scores["removal"] == "drop") & (FOUND.scores["metric"] == "srg")]
    means = scores.groupby("method")["value"].mean()
    assert {name for name, _ in rows} == set(means.index)
    assert [number(value) for _, value in rows] == pytest.approx(means.sort_values(ascending=False), abs=0.0051)
    with pytest.raises(ValueError, match="no row"):
        headline.rewritten(headline.KEPT.sub("", PAGE), FOUND, weights.manifest())


def test_what_the_gates_keep_is_that_of_the_manifest():
    scores = {"kl": 0.123, "agreement": 0.9514, "kept": 0.246, "test images": 10000, "source": "folder"}
    first = {
        "cifar10_gates.safetensors": {"seed": 0, "scores": scores},
        "cifar10_plain_gates.safetensors": {"seed": 0, "scores": scores | {"kept": 0.99}},
        "grid_gates.safetensors": {"seed": 0, "scores": scores | {"kept": 0.99}},
    }
    other = {"cifar10_gates_1.safetensors": {"seed": 1, "scores": scores | {"kept": 0.5, "kl": 0.2, "agreement": 0.9}}}
    third = {"cifar10_gates_2.safetensors": {"seed": 2, "scores": scores}}
    words = (
        "hard masks keep 25 % of the patches at KL 0.12 nats, and the class stays for 95.1 % of the images (10,000 test images"
    )
    assert f"| {words}, JPEG mirror, seed 0) |" in headline.kept_row(first)
    assert f"| {words}, JPEG mirror, seed 0; seed 1: 50 %, 0.20 nats, 90.0 %) |" in headline.kept_row(other | first)
    both = "seeds 1 and 2: 50 % and 25 %, 0.20 and 0.12 nats, 90.0 % and 95.1 %)"
    assert both in headline.kept_row(other | first | third)


@pytest.mark.parametrize(
    ("shift", "verdicts"),
    [
        (0.6, ("better", "better")),
        (0.3, (NEITHER, "better")),
        (0.15, ("worse", "better")),
        (0.0, ("worse", NEITHER)),
        (-0.3, ("worse", "worse")),
    ],
)
def test_a_loss_is_printed_like_a_win(shift, verdicts):
    """DiffMask lies `shift` above the best method of one pass, which lies 0.3 below the best of all; no baseline is a rival."""
    noise = np.random.default_rng(0).normal(0, 0.05, 20)
    means = {"rollout": 0.0, "grad_cam": -0.1, "leave_one_out": 0.3, "occlusion": 0.2, "diffmask": shift + noise - noise.mean()}
    means |= dict.fromkeys(["random", "centre", "blurred leave_one_out", "blurred diffmask", "diffmask_plain"], 2.0)
    row = {"seed": 0, "image": range(20), "metric": "srg"}
    scores = [pd.DataFrame(row | {"method": m, "value": v, "removal": r}) for m, v in means.items() for r in ("drop", "mean")]
    text = headline.table(results.Results(pd.concat(scores), None, None, None, FOUND.about))
    lines = [line.split(": ", 1) for line in text.splitlines() if line.startswith("- ")]
    assert [what for what, _ in lines] == ["- tokens dropped", "- mean patch instead"]
    rivals = ("the best of all, leave_one_out", shift - 0.3), ("the best that asks the ViT once, rollout", shift)
    gaps = [gap for _, both in lines for gap in both.split("; ")]
    for gap, (rival, mean), verdict in zip(gaps, rivals * 2, verdicts * 2, strict=True):
        parts = re.fullmatch(rf"{SIGNED} \[{SIGNED}, {SIGNED}\] against {rival}: {verdict}", gap)
        assert parts, gap
        middle, low, high = map(number, parts.groups())
        assert middle == pytest.approx(mean, abs=0.0051) and low < middle < high
        assert (low < 0 < high) == (verdict == NEITHER)
        assert not mean or parts[1].startswith("+" if mean > 0 else "−")
