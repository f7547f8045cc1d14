"""Notebook 07's checkers name the mistakes that readers make."""

import pytest
import torch

from diffmask_lite import exercises


def share(step, batch, rank, size):
    part = batch // size
    return list(range(step * batch + rank * part, step * batch + (rank + 1) * part))


SHARES = {
    "take the same image": lambda step, batch, rank, size: share(step, batch, 0, size),
    "each takes 2, but process 0 takes 4": lambda step, batch, rank, size: share(step, batch, 0, 1),
    "step 3 of 12 images is places": lambda step, batch, rank, size: share(0, batch, rank, size),
    "in one piece": lambda step, batch, rank, size: share(step, batch, 0, 1)[rank::size],
    "a list of whole numbers": lambda step, batch, rank, size: torch.tensor(share(step, batch, rank, size)),
}


@pytest.mark.parametrize("words", SHARES)
def test_mistakes_in_the_share_are_named(words):
    said = exercises.check_share(SHARES[words])
    assert said.status == "failed" and words in said.hint


MASKS = {
    "h_0 … h_k:": lambda layers, k: layers[:, : k + 1].prod(1),
    "h_0 … h_{k+2}": lambda layers, k: layers[:, : k + 3].prod(1),
    "one gate alone": lambda layers, k: layers[:, k + 1] if k else layers[:, :2].prod(1),
    "it should be": lambda layers, k: layers[:, : k + 2].mean(1),
    "the shape should be": lambda layers, k: layers[:, : k + 2].prod(),
    "changed `layers` itself": lambda layers, k: layers[:, : k + 2].prod(1).add_(0 * layers.mul_(1 if k < 4 else 0.5).sum()),
}


@pytest.mark.parametrize("words", MASKS)
def test_mistakes_in_the_mask_are_named(words):
    said = exercises.check_mask_at(MASKS[words])
    assert said.status == "failed" and words in said.hint


def test_right_answers_pass():
    assert exercises.check_share(share).status == "passed"
    assert exercises.check_mask_at(lambda layers, k: layers[:, : k + 2].log().sum(1).exp()).status == "passed"
