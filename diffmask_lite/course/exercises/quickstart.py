"""The checkers of notebook 00."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .verdict import Wrong, checker, expect


@checker
def check_kl(kl: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `kl(logits, masked)`, both (B, classes) → (B,), KL(p ‖ q) in nats."""
    same = torch.tensor([[1.0, 2.0, 3.0]])
    expect(kl(same, same), torch.zeros(1), "for two equal predictions")
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = ½ log 2 + ½ log ⅔
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    wanted = 0.5 * torch.tensor([2.0, 2 / 3]).log().sum(0, keepdim=True)
    expect(kl(p, q), wanted, "for p = (½, ½) and q = (¼, ¾)")
    expect(kl(p + 7, q - 3), wanted, "after adding a constant to all logits, which changes no probability,")
    draw = torch.Generator().manual_seed(0)
    logits, masked = torch.randn(4, 10, generator=draw), torch.randn(4, 10, generator=draw)
    p, q = logits.double().softmax(-1), masked.double().softmax(-1)
    wanted = (p * (p / q).log()).sum(-1)
    found = kl(logits, masked)
    if (
        isinstance(found, Tensor)
        and found.shape == wanted.shape
        and torch.allclose(found.double(), (q * (q / p).log()).sum(-1))
    ):
        raise Wrong("that is KL(q ‖ p): let p weigh the sum, not q")
    expect(found, wanted, "for a batch of four")
    sure = torch.tensor([[0.0, 200.0]])  # softmax gives exactly 0 for the first class, and log 0 is −∞
    expect(kl(-sure, sure), torch.tensor([200.0]), "for two predictions that are sure of different classes", 1e-2)


@checker
def check_top_patches(top_patches: Callable[[Tensor, int], Tensor]) -> None:
    """Check `top_patches(mask, m)`: mask (B, h, w) → bool (B, h, w), True at the m most probable patches of each image."""
    mask = torch.tensor([[[0.1, 0.9], [0.4, 0.3]], [[0.8, 0.2], [0.7, 0.6]]])
    expect(top_patches(mask, 1), torch.tensor([[[0, 1], [0, 0]], [[1, 0], [0, 0]]]).bool(), "for m = 1")
    expect(top_patches(mask, 3), torch.tensor([[[0, 1], [1, 1]], [[1, 0], [1, 1]]]).bool(), "for m = 3")
    ties = torch.full((1, 2, 2), 0.5)
    if int(top_patches(ties, 2).sum()) != 2:
        raise Wrong("where all patches are equally probable and m = 2, exactly 2 should be kept")
    expect(top_patches(mask, 0), torch.zeros(2, 2, 2).bool(), "for m = 0")
    expect(top_patches(mask, 4), torch.ones(2, 2, 2).bool(), "for m = 4")
