"""The hard-concrete distribution, and the gate that reads a hidden state.

A gate is a random number z in [0, 1] that is exactly 0 with a probability that has a gradient: a binary concrete variable s
(Maddison et al., 2017; Jang et al., 2017), stretched to (LEFT, RIGHT) and cut off at 0 and 1 (Louizos et al., 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    and from patch to patch; as they are, a few large ones saturate the tanh, and the gates shut for good early in training.

    classes: give the gate an output for each class, mixed by the probabilities p that the ViT predicts. A fur-like patch can
    then be kept in what is taken for a cat and removed from what is taken for a truck, which one output can hardly say.
    context: let the gate also read c_i, what the ViT makes of the whole image at that depth: [h_0 ; h_i ; c_i]. Whether one
    more patch of fur is needed hangs on what else is there, and a patch does not see the others as the head does.
    """

    def __init__(self, width: int, hidden: int, bias: float = 5.0, classes: int | None = None, context: bool = False):
        super().__init__()
        self.first = nn.Linear((3 if context else 2) * width, hidden)
        self.last = nn.Linear(hidden, classes or 1)
        nn.init.constant_(self.last.bias, bias)  # start with every patch kept

    def forward(self, embedding: Tensor, state: Tensor, p: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Return logits (B, N) from the embedding h_0 and the state h_i, both (B, N, D).

        p: (B, classes), for a gate with classes. context: c_i (B, D), for a gate that reads it.
        """
        read = [embedding, state] if context is None else [embedding, state, context[:, None].expand_as(state)]
        each = self.last(torch.tanh(self.first(torch.cat(read, dim=-1))))
        return each.squeeze(-1) if p is None else (each * p[:, None]).sum(-1)

    def look(self, state: Tensor, context: Tensor | None = None) -> Tensor:
        """Return W_i h_i + W_c c_i + b, (B, N, hidden): all that a gate needs of h_i, which can then go. See `decide`."""
        width = state.shape[-1]
        seen = F.linear(state, self.first.weight[:, width : 2 * width], self.first.bias)
        return seen if context is None else seen + F.linear(context, self.first.weight[:, 2 * width :])[:, None]


def decide(gates: Sequence[Gate], embedding: Tensor, looks: Sequence[Tensor], p: Tensor | None = None) -> Tensor:
    """Return the logits (B, S, N) of S gates at once: what `forward` does gate by gate, in a few large steps.

    embedding: h_0, (B, N, D); looks: `gate.look(h_i)` of each gate; p: (B, classes) for gates with classes.
    first([h_0 ; h_i]) = W_0 h_0 + W_i h_i + b, and the W_0 of all gates make one matrix. To mix the outputs by p is to mix
    their weights, so that an image has one weight vector a gate, however many classes there are.
    """
    w_0 = torch.cat([gate.first.weight[:, : embedding.shape[-1]] for gate in gates])  # (S · hidden, D)
    hidden = F.linear(embedding, w_0).unflatten(-1, (len(gates), -1))  # (B, N, S, hidden)
    hidden = torch.stack(list(looks), dim=2).add_(hidden).tanh_()
    last = torch.stack([gate.last.weight for gate in gates])  # (S, classes or 1, hidden)
    bias = torch.stack([gate.last.bias for gate in gates])  # (S, classes or 1)
    with torch.autocast(hidden.device.type, enabled=False):  # logits in bfloat16 would have ties where gates are to rank
        hidden = hidden.float()
        if p is None:
            return ((hidden * last[:, 0]).sum(-1) + bias[:, 0]).transpose(1, 2)
        mixed = torch.einsum("bc,sch->bsh", p, last)  # (B, S, hidden)
        return torch.einsum("bnsh,bsh->bsn", hidden, mixed) + (p @ bias.T)[..., None]
