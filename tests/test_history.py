"""`History.diagnosis` tells the ways in which a training ends apart."""

import numpy as np
import pytest

from diffmask_lite import History

STEPS = 200


def history(kl, kept, alpha=2.0, eps=0.1, steps=STEPS):
    made = History(eps)
    for step in range(steps):
        made.add(step, *np.broadcast_to([f[step] if np.ndim(f) else f for f in (kl, kept, 0.9, 0.5, alpha, 0)], 6))
    return made


FALLING = np.linspace(1, 0.3, STEPS)
SETTLED = np.r_[np.linspace(1, 0.3, STEPS // 2), np.full(STEPS // 2, 0.3)]
ENDS = {
    "collapsed": history(9.4, 0.0),
    "collapsed late": history(np.r_[np.zeros(170), np.full(30, 9.4)], np.r_[np.full(170, 0.5), np.zeros(30)]),
    "collapsed just now": history(np.r_[np.zeros(194), np.full(6, 9.4)], np.r_[np.full(194, 0.5), np.full(6, 0.03)]),
    "violated": history(0.5, 0.4),
    "idle": history(0.01, 0.99),
    "moving": history(0.05, FALLING),
    "settled": history(0.08, SETTLED),
}


@pytest.mark.parametrize("name", ENDS)
def test_each_end_is_named(name):
    assert ENDS[name].diagnosis().startswith(f"{name.split()[0]}:")


def test_gates_that_learned_an_order_alone_are_to_be_cut():
    assert history(np.nan, 0.99).diagnosis().startswith("uncut: ") and "`calibrate`" in history(np.nan, 0.5).diagnosis()


def test_the_sentence_states_what_it_saw():
    assert "KL 0.08 nats for ε = 0.1, 30% kept, α 2" in ENDS["settled"].diagnosis()


def test_nothing_kept_is_no_collapse_where_the_prediction_survives():
    """A constant ViT needs no patch."""
    assert history(0.0, 0.0).diagnosis().startswith("settled")


def test_single_bad_batches_do_not_change_the_diagnosis():
    kl = np.full(STEPS, 0.05)
    kl[-2::-7] = 20
    assert history(kl, 0.3).diagnosis().startswith("settled")


def test_few_steps_say_little():
    assert "too few" in history(0.0, 0.5, steps=19).diagnosis()
