"""`History` keeps a row a step by name, and its diagnosis tells the ways in which a training ends apart."""

import math

import numpy as np
import pytest

from diffmask_lite import History
from diffmask_lite.training.history import COLUMNS

STEPS = 200


def history(kl, kept, alpha=2.0, eps=0.1, steps=STEPS):
    made, given = History(eps), {"kl": kl, "kept": kept, "agree": 0.9, "sparsity": 0.5, "alpha": alpha, "layer": 0}
    for step in range(steps):
        made.add(step=step, **{name: value[step] if np.ndim(value) else value for name, value in given.items()})
    return made


FALLING = np.linspace(1, 0.3, STEPS)
SETTLED = np.r_[np.linspace(1, 0.3, STEPS // 2), np.full(STEPS // 2, 0.3)]
ENDS = {
    "collapsed": (9.4, 0.0),
    "collapsed late": (np.r_[np.zeros(170), np.full(30, 9.4)], np.r_[np.full(170, 0.5), np.zeros(30)]),
    "collapsed just now": (np.r_[np.zeros(194), np.full(6, 9.4)], np.r_[np.full(194, 0.5), np.full(6, 0.03)]),
    "violated": (0.5, 0.4),
    "idle": (0.01, 0.99),
    "moving": (0.05, FALLING),
    "settled": (0.08, SETTLED),
    "settled on nothing, for a constant ViT needs no patch": (0.0, 0.0),
    "settled in spite of single bad batches": (np.where(np.arange(STEPS) % 7 == 2, 20, 0.05), 0.3),
    "ordered: an order alone": (math.nan, 0.99),
}


@pytest.mark.parametrize("name", ENDS)
def test_each_end_is_named(name):
    made = history(*ENDS[name])
    said = made.diagnosis()
    assert said.startswith(f"{name.split()[0].strip(':')}:")
    assert name != "settled" or "KL 0.08 nats for ε = 0.1, 30% kept, α 2" in said
    if name.startswith("ordered"):
        assert said == "ordered: the gates learned an order alone." and made.words() == "loss nan"
        made.add(
            loss=-0.71,
            step=STEPS,
            kl=math.nan,
            kept=0.9,
            agree=math.nan,
            sparsity=0.5,
            alpha=math.nan,
            layer=0,
            correlation=0.71,
        )
        assert made.words() == "correlation 0.710" and ", correlation 0.710 in the last step." in made.diagnosis()
    assert "too few" in history(0.0, 0.5, steps=19).diagnosis()


def test_rows_go_out_and_come_in_by_name():
    whole, again = history(0.05, FALLING), History(0.1)
    again.extend(whole.rows())
    assert again.frame().equals(whole.frame()) and list(whole.frame()) == list(COLUMNS) and len(again) == STEPS
    assert whole.words() == "KL 0.050, α 2.0, kept 0.30" and whole.frame().kept.tolist() == FALLING.tolist()
    again.add(step=STEPS, kl=-1e-9, kept=1, agree=1, sparsity=1, alpha=1, layer=3)
    assert again.words().startswith("KL 0.000,"), "rounding leaves a KL of −0"
    again.add(loss=0.5, step=STEPS, kl=0, kept=1, agree=1, sparsity=1, alpha=1, layer=3, more="is left out")
    assert again.loss == 0.5 and again.layer[-1] == 3 and len(whole) == STEPS
