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
    decide,
    log_odds,
    log_open,
    normalise,
    prob_open,
    sample,
    stretched,
)
from diffmask_lite.state import stream

LOGITS = [-4.0, -1.0, 0.0, 0.7, 2.0]


@pytest.mark.parametrize("logit", LOGITS)
def test_prob_open_is_the_share_of_samples_above_zero(logit):
    z = sample(torch.full((1_000_000,), logit), torch.rand(1_000_000, generator=stream(0, "gate")))
    p = prob_open(torch.tensor(logit)).item()
    assert z.min() >= 0 and z.max() <= 1
    assert (z > 0).float().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 1e6))


@pytest.mark.parametrize("logit", LOGITS)
def test_samples_follow_torchs_relaxed_bernoulli_stretched_and_cut(logit):
    """E[z] by quadrature over the density of torch's relaxed Bernoulli, an implementation that we do not share."""
    temperature = torch.tensor(TEMPERATURE).double()
    concrete = LogitRelaxedBernoulli(temperature, logits=torch.tensor(logit).double())
    t = torch.linspace(-150, 150, 300_001, dtype=torch.float64)
    density = concrete.log_prob(t).exp()
    wanted = torch.trapezoid(density * (torch.sigmoid(t) * (RIGHT - LEFT) + LEFT).clamp(0, 1), t).item()
    z = sample(torch.full((1_000_000,), logit), torch.rand(1_000_000, generator=stream(1, "gate")))
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


def test_deciding_at_once_equals_gate_by_gate_with_its_gradients():
    torch.manual_seed(0)
    gates = [Gate(12, 8) for _ in range(4)]
    h_0, states = torch.randn(3, 5, 12), [torch.randn(3, 5, 12) for _ in gates]
    slow = torch.stack([gate(h_0, state) for gate, state in zip(gates, states, strict=True)], dim=1)
    fast = decide(gates, h_0, [gate.look(state) for gate, state in zip(gates, states, strict=True)])
    torch.testing.assert_close(fast, slow)
    weights = [weight for gate in gates for weight in gate.parameters()]
    weighing = torch.randn(3, 4, 5)
    wanted = torch.autograd.grad((slow * weighing).sum(), weights)
    for found, right in zip(torch.autograd.grad((fast * weighing).sum(), weights), wanted, strict=True):
        torch.testing.assert_close(found, right)
    assert all(gate.last.bias.item() == 5 for gate in gates)


def test_gates_with_classes_mix_their_outputs_by_the_prediction():
    torch.manual_seed(0)
    gates = [Gate(12, 8, classes=3) for _ in range(2)]
    for gate in gates:
        torch.nn.init.normal_(gate.last.bias)
    h_0, states, p = torch.randn(4, 5, 12), torch.randn(2, 4, 5, 12), torch.rand(4, 3).softmax(1)
    fast = decide(gates, h_0, [gate.look(state) for gate, state in zip(gates, states, strict=True)], p)
    for i, gate in enumerate(gates):
        for b in range(4):
            for n in range(5):
                outputs = gate.last(torch.tanh(gate.first(torch.cat([h_0[b, n], states[i, b, n]]))))  # one a class
                wanted = sum(p[b, c] * outputs[c] for c in range(3))
                torch.testing.assert_close(fast[b, i, n], wanted)
                torch.testing.assert_close(gate(h_0, states[i], p)[b, n], wanted)


def test_gates_with_context_read_the_whole_image_too():
    torch.manual_seed(0)
    gates = [Gate(12, 8, classes=3, context=True) for _ in range(2)]
    h_0, states, context = torch.randn(4, 5, 12), torch.randn(2, 4, 5, 12), torch.randn(2, 4, 12)
    p = torch.rand(4, 3).softmax(1)
    looks = [gate.look(state, c) for gate, state, c in zip(gates, states, context, strict=True)]
    fast = decide(gates, h_0, looks, p)
    for i, gate in enumerate(gates):
        torch.testing.assert_close(gate(h_0, states[i], p, context[i]), fast[:, i])
        for b in range(4):
            outputs = gate.last(torch.tanh(gate.first(torch.cat([h_0[b, 2], states[i, b, 2], context[i, b]]))))
            torch.testing.assert_close(fast[b, i, 2], outputs @ p[b])


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
