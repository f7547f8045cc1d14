"""The optimisers of `fit`, and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import Lookahead, Muon

from ..diffmask import DiffMask

OPTIMIZERS = ("adam", "muon", "lookahead-adam")


def make_optimizer(name: str, explainer: DiffMask, lr: float) -> torch.optim.Optimizer:
    """Return an optimiser for the gates and, with a rate of its own, a learned placeholder; its groups know "initial_lr".

    "muon" (Jordan et al. 2024, kellerjordan.github.io/posts/muon) moves the matrices that read the hidden states, and NAdam at
    0.3 lr the rest. "lookahead-adam" is the published one.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"Unknown optimizer {name!r}: use {', '.join(map(repr, OPTIMIZERS))}.")
    matrices = [gate.first.weight for gate in explainer.gates] if name == "muon" else []
    apart = {id(p) for p in (*matrices, explainer.placeholder)}
    rest = [p for p in explainer.parameters() if id(p) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": 0.3 * lr if matrices else lr}]
    if explainer.kind == "learned":  # published: a learned placeholder has a rate of its own
        groups.append({"params": [explainer.placeholder], "lr": 1e-3})
    if matrices:
        groups = [{"params": matrices, "lr": lr}, *({**group, "use_fallback": True} for group in groups)]  # NAdam
    for group in groups:
        group["initial_lr"] = group["lr"]
    if name == "adam":
        return torch.optim.Adam(groups)
    if name == "muon":
        return Muon(groups, weight_decay=0.0, nesterov=True)
    return Lookahead(torch.optim.Adam(groups), alpha=0.5, k=6)


def set_rate(optimizer: torch.optim.Optimizer, step: int, warmup: int, decay: int) -> None:
    """Let the learning rate rise over `warmup` steps, then stay, or fall to 0 along a cosine of `decay` steps."""
    rate = min(1.0, (step + 1) / max(1, warmup)) * (0.5 * (1 + math.cos(math.pi * step / decay)) if decay else 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate
