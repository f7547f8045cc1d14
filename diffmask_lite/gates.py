"""The hard-concrete distribution, and the gate that reads a hidden state.

A gate is a random number z in [0, 1] that is exactly 0 with a probability that has a gradient: a binary concrete variable s
(Maddison et al., 2017; Jang et al., 2017), stretched to (LEFT, RIGHT) and cut off at 0 and 1 (Louizos et al., 2018).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

TEMPERATURE, LEFT, RIGHT = 0.2, -0.2, 1.0  # as in VISION DIFFMASK


def stretched(logits: Tensor, uniform: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return the stretched binary concrete variable in (LEFT, RIGHT), before it is cut off; shapes as `logits`.

    uniform: numbers in [0, 1) of the same shape; they are moved off the border, where the logarithm is infinite.
    """
    eps = torch.finfo(uniform.dtype).eps
    noise = torch.logit(uniform, eps=eps)
    return torch.sigmoid((logits + noise) / temperature) * (RIGHT - LEFT) + LEFT


def sample(logits: Tensor, uniform: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return one hard-concrete sample z in [0, 1] for each logit; differentiable where 0 < z < 1."""
    return stretched(logits, uniform, temperature).clamp(0, 1)


def log_open(logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return log P(z > 0) = log σ(logit − temperature · log(−LEFT / RIGHT)), the expected L0 norm's logarithm."""
    return F.logsigmoid(logits - temperature * math.log(-LEFT / RIGHT))


def prob_open(logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return P(z > 0), the probability that the gate is not shut."""
    return log_open(logits, temperature).exp()


def log_odds(log_p: Tensor) -> Tensor:
    """Return log(p / (1 − p)) from log p ≤ 0, finite also where p rounds to 1: the same order as p, without ties near 1."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).tiny)
    return log_p - torch.log(-torch.expm1(log_p))


def normalise(state: Tensor) -> Tensor:
    """LayerNorm without weights over the last axis, in float32: (…, D) → (…, D) of mean 0 and variance 1."""
    return F.layer_norm(state.float(), state.shape[-1:])


class Gate(nn.Module):
    """Read [h_0 ; h_i] of one patch and say, as a logit, whether to keep it: a perceptron with one hidden layer.

    Give it hidden states that went through `normalise`. The hidden states of a trained ViT differ in scale from layer to layer
    and from patch to patch. As they are, a few large ones saturate the tanh, and the gates shut for good early in training.

    class_aware: let the gate also read c_i, what the ViT makes of the whole image at that depth: [h_0 ; h_i ; c_i]. And let its
    last layer turn with the direction u in which the head finds the class: (w + A u) · hidden. A fur-like patch can then be
    kept in what is taken for a cat and removed from what is taken for a truck. It fits any head, and any class can be asked
    about.
    blocks: for the last gate, of how many blocks it also reads what attention carries of the patch along u
    (`vit.direct.Carried.paths`); it adds a weighted sum of them.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        bias: float = 5.0,
        class_aware: bool = False,
        blocks: int = 0,
    ):
        super().__init__()
        self.first = nn.Linear((3 if class_aware else 2) * width, hidden)
        self.last = nn.Linear(hidden, 1)
        nn.init.constant_(self.last.bias, bias)  # start with every patch kept
        self.turn = nn.Linear(width, hidden, bias=False) if class_aware else None
        if class_aware:
            nn.init.zeros_(self.turn.weight)  # start blind to the class
        self.carried = nn.Parameter(torch.full((blocks,), 0.7)) if blocks else None

    def forward(self, embedding: Tensor, state: Tensor, context: Tensor | None = None, **known: Tensor | None) -> Tensor:
        """Return logits (B, N) from the embedding h_0 and the state h_i, both (B, N, D).

        context: c_i (B, D), for a gate that reads it. known: what `score` takes.
        """
        return self.score(self.encode(embedding, state, context), **known)

    def encode(self, embedding: Tensor, state: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the hidden layer tanh(W [h_0 ; h_i ; c_i] + b), (B, N, hidden). A gate needs no more of h_i than this.

        W [h_0 ; h_i] is W_0 h_0 + W_i h_i, so nothing is copied, and training keeps h_0 once for all gates.
        """
        width = state.shape[-1]
        w_0, w_i, w_c = self.first.weight.tensor_split((width, 2 * width), dim=1)
        hidden = F.linear(embedding, w_0) + F.linear(state, w_i, self.first.bias)
        return torch.tanh(hidden if context is None else hidden + F.linear(context, w_c)[:, None])

    def score(self, hidden: Tensor, direction: Tensor | None = None, carried: Tensor | None = None) -> Tensor:
        """Return logits (B, N) from the hidden layer; for a class-aware gate, direction: u (B, D), carried: (B, blocks, N)."""
        weight = self.last.weight  # (1, hidden)
        if direction is not None:
            weight = (weight + F.linear(direction, self.turn.weight))[:, None]  # (B, 1, hidden)
        # No matrix product, which autocast would round: logits in bfloat16 have ties where gates are to rank.
        logits = (hidden.float() * weight).sum(-1) + self.last.bias
        return logits if carried is None else logits + (carried.float() * self.carried[:, None]).sum(1)


class PublishedGate(Gate):
    """The gate of the authors' code: 15 tanh(w · tanh(W [h_0 ; h_i] + b) + a) + offset, so a logit lies in about −7 … 23.

    Both layers have weight norm (Salimans and Kingma 2016, arXiv 1602.07868); the offset is learned and starts at 8.
    """

    SCALE, OFFSET = 15.0, 8.0

    def __init__(self, width: int, hidden: int):
        super().__init__(width, hidden, bias=0.0)
        self.first, self.last = weight_norm(self.first), weight_norm(self.last)
        self.offset = nn.Parameter(torch.tensor(self.OFFSET))

    def score(self, hidden: Tensor, **known: Tensor | None) -> Tensor:
        """Return logits (B, N) from the hidden layer; these gates know nothing else."""
        return self.SCALE * torch.tanh(super().score(hidden)) + self.offset
