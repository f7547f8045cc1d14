"""The hard-concrete distribution against a million samples, against quadrature, and against torch's own concrete."""

import math

import pytest
import torch
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

from diffmask_lite.gates import (
    LEFT,
    RIGHT,
    TEMPERATURE,
    Gate,
    PublishedGate,
    log_odds,
    log_open,
    normalise,
    prob_open,
    sample,
    stretched,
)  # fmt: skip
from diffmask_lite.vit.randomness import stream

LOGITS = [-4.0, -1.0, 0.0, 0.7, 2.0]


@pytest.mark.parametrize("logit", LOGITS)
def test_samples_follow_torchs_relaxed_bernoulli_stretched_and_cut(logit):
    """E[z] by quadrature over the density of torch's relaxed Bernoulli, an implementation that we do not share."""
    z = sample(torch.full((1_000_000,), logit), torch.rand(1_000_000, generator=stream(0, "gate")))
    p = prob_open(torch.tensor(logit)).item()
    assert z.min() >= 0 and z.max() <= 1
    assert (z > 0).float().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 1e6))

    concrete = LogitRelaxedBernoulli(torch.tensor(TEMPERATURE).double(), logits=torch.tensor(logit).double())
    t = torch.linspace(-150, 150, 300_001, dtype=torch.float64)
    density = concrete.log_prob(t).exp()
    wanted = torch.trapezoid(density * (torch.sigmoid(t) * (RIGHT - LEFT) + LEFT).clamp(0, 1), t).item()
    assert torch.trapezoid(density, t).item() == pytest.approx(1, abs=1e-3)
    assert z.mean().item() == pytest.approx(wanted, abs=2e-3)


def test_uniform_border_values_stay_finite_and_monotone():
    u = torch.tensor([0.0, 1e-8, 0.5, 1 - 2**-24])
    s = stretched(torch.zeros(4), u)
    assert s.isfinite().all() and (s.diff() >= 0).all() and s[2].item() == pytest.approx((LEFT + RIGHT) / 2)


def test_log_open_has_a_gradient_where_a_sample_has_none():
    logit = torch.tensor(-8.0, requires_grad=True)
    sample(logit, torch.tensor(0.5)).backward()
    assert logit.grad.item() == 0
    log_open(logit).backward()
    assert logit.grad.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("aware", [False, True])
def test_a_gate_equals_its_formula_for_each_patch_with_its_gradients(aware):
    torch.manual_seed(0)
    gate = Gate(12, 8, class_aware=aware)
    assert (gate.last.bias == 5).all()
    torch.nn.init.normal_(gate.last.bias)
    h_0, h_i, c_i = torch.randn(4, 5, 12), torch.randn(4, 5, 12), torch.randn(4, 12) if aware else None
    u = torch.randn(4, 12) if aware else None
    if aware:
        assert (gate.turn.weight == 0).all()  # blind to the class, at first
        torch.nn.init.normal_(gate.turn.weight)

    fast = gate(h_0, h_i, c_i, direction=u)
    torch.testing.assert_close(gate.score(gate.encode(h_0, h_i, c_i), u), fast)
    slow = torch.empty(4, 5)
    for b in range(4):
        for n in range(5):
            hidden = torch.tanh(gate.first(torch.cat([h_0[b, n], h_i[b, n], *([c_i[b]] if aware else [])])))
            slow[b, n] = gate.last(hidden)[0] + (hidden @ (gate.turn.weight @ u[b]) if aware else 0)
    torch.testing.assert_close(fast, slow)
    weighing, weights = torch.randn(4, 5), list(gate.parameters())
    found, wanted = (torch.autograd.grad((logits * weighing).sum(), weights) for logits in (fast, slow))
    torch.testing.assert_close(found, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert gate(h_0, h_i, c_i, direction=u).dtype == torch.float32, "logits in bfloat16 would have ties"


def test_the_published_gate_is_that_of_the_authors_code():
    """15 tanh(v · tanh(W [h_0 ; h_i] + b) + a) + 8, with weight norm: each row of W and v is g · w / |w|."""
    torch.manual_seed(0)
    gate = PublishedGate(6, 4)
    with torch.no_grad():
        for layer in (gate.first, gate.last):
            layer.parametrizations.weight.original0.uniform_(0.5, 2)  # g
    (h_0, h_i), parts = torch.randn(2, 3, 5, 6), []
    for layer in (gate.first, gate.last):
        g, w = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        parts.append((g * w / w.norm(dim=1, keepdim=True), layer.bias))
    (w, b), (v, a) = parts
    slow = 15 * torch.tanh(torch.tanh(torch.cat([h_0, h_i], -1) @ w.T + b) @ v.T + a).squeeze(-1) + 8
    torch.testing.assert_close(gate(h_0, h_i), slow)
    assert (gate.last.bias == 0).all() and gate.offset.requires_grad and gate(100 * h_0, h_i).min() > -7


def test_a_class_aware_gate_turns_with_the_direction_and_adds_what_is_carried():
    torch.manual_seed(0)
    gate = Gate(12, 8, class_aware=True, blocks=2)
    h_0, h_i, c_i, u, carried = (torch.randn(4, *shape) for shape in ((5, 12), (5, 12), (12,), (12,), (2, 5)))
    hidden = gate.encode(h_0, h_i, c_i)
    plain = gate.last(hidden).squeeze(-1)
    torch.testing.assert_close(gate.score(hidden, direction=u), plain)  # blind to the class at first
    torch.nn.init.normal_(gate.turn.weight)
    slow = torch.empty(4, 5)
    for b in range(4):
        for n in range(5):
            slow[b, n] = plain[b, n] + gate.turn(u[b]) @ hidden[b, n] + gate.carried @ carried[b, :, n]
    torch.testing.assert_close(gate(h_0, h_i, c_i, direction=u, carried=carried), slow)


def test_log_odds_rank_what_rounds_to_one():
    odds = torch.tensor([-30.0, -3.0, 0.0, 3.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(log_odds(torch.nn.functional.logsigmoid(odds)), odds, atol=1e-3, rtol=0)
    log_p = torch.tensor([-1e-9, -1e-12, -1e-20, 0.0])
    assert (log_p.exp() == 1).all()
    found = log_odds(log_p)
    assert found.isfinite().all() and (found.diff() > 1).all()
    assert log_odds(torch.tensor(-200.0)).item() == pytest.approx(-200)


def test_normalise_has_mean_zero_and_variance_one_for_each_patch():
    x = normalise(torch.randn(2, 3, 64, dtype=torch.bfloat16) * 30 + 7)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var(-1, unbiased=False), torch.ones(2, 3), atol=1e-3, rtol=0)
