"""The checkers of notebook 02: likely mistakes are met by a hint that names them, and right answers pass in any style."""

import math

import pytest
import torch

from diffmask_lite import exercises
from diffmask_lite.exercises.gates import AN_AXIS, AT_ONE
from diffmask_lite.exercises.verdict import Wrong, expect


def masses(logits, temperature, left, right):
    shut = torch.sigmoid(temperature * math.log(-left / right) - logits)
    if right == 1:
        return shut, torch.zeros_like(logits)
    return shut, torch.sigmoid(logits - temperature * math.log((1 - left) / (right - 1)))


def divided(logits, temperature, left, right):
    return masses(logits, temperature, left, 2)[0], torch.sigmoid(logits - temperature * math.log((1 - left) / (right - 1)))


def nan_at_one(logits, temperature, left, right):
    shut, full = masses(logits, temperature, left, right)
    return shut, full / 0 if right == 1 else full


def by_tensors(logits, temperature, left, right):
    """The same formula in torch, where log(1.2 / 0) is infinite and needs no special case."""
    return masses(logits, temperature, left, right)[0], torch.sigmoid(
        logits - temperature * torch.log((1 - left) / torch.tensor(right - 1))
    )


def mean_gate(logits, axis=True):
    t = (torch.arange(1000) + 0.5) / 1000
    shift = 0.2 * torch.log((t + 0.2) / (1 - t))
    return torch.sigmoid((logits[..., None] if axis else logits) - shift).mean(-1)


def no_axis_left(logits):
    return mean_gate(logits[..., None], axis=False).mean()  # every logit's mean in one number


@pytest.mark.parametrize("answer", [masses, by_tensors])
def test_right_masses_pass(answer):
    assert exercises.check_masses(answer).status == "passed"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *setting: masses(*setting)[::-1], "swapped"),
        (lambda *setting: (1 - masses(*setting)[0], masses(*setting)[1]), "P(z > 0)"),
        (lambda *setting: masses(*setting)[0], "two tensors"),
        (divided, AT_ONE),
        (nan_at_one, AT_ONE),
    ],
)
def test_wrong_masses_get_a_hint_of_their_own(answer, hint):
    verdict = exercises.check_masses(answer)
    assert verdict.status == "failed" and hint in verdict.hint


def test_an_error_of_another_kind_is_passed_on():
    def broken(logits, temperature, left, right):
        if right > 1:
            raise ValueError("of my own")
        return masses(logits, temperature, left, right)

    assert "of my own" in exercises.check_masses(broken).hint


def test_a_right_mean_passes():
    assert exercises.check_mean_gate(mean_gate).status == "passed"


@pytest.mark.parametrize("answer", [lambda logits: mean_gate(logits, axis=False), no_axis_left])
def test_a_missing_axis_is_named(answer):
    verdict = exercises.check_mean_gate(answer)
    assert verdict.status == "failed" and AN_AXIS in verdict.hint


def test_a_mean_over_the_stretched_is_named():
    def uncut(logits):
        s = torch.sigmoid((logits[..., None] + torch.logit((torch.arange(20_000) + 0.5) / 20_000)) / 0.2)
        return (s * 1.2 - 0.2).mean(-1)

    assert "before cutting off" in exercises.check_mean_gate(uncut).hint


def test_numbers_in_hints_have_four_digits_unless_these_are_equal():
    with pytest.raises(Wrong, match=r"should be \[0\.3333, 2\.0\], but it is \[0\.6667, 2\.0\]"):
        expect(torch.tensor([2 / 3, 2.0]), torch.tensor([1 / 3, 2.0]), "here")
    with pytest.raises(Wrong, match=r"should be 0\.33331, but it is 0\.33334"):
        expect(torch.tensor(0.33334, dtype=torch.float64), torch.tensor(0.33331, dtype=torch.float64), "here", 1e-9)
