"""Attribution by attention alone: where do the tokens that the head reads look? The answer does not know the class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..vit import guest, observe_attention
from .common import Target, on_grid, reader, require_input


def head_means(vit: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention of every block, mean over its heads: L tensors (B, P + N, P + N), each row of sum 1."""
    means: list[Tensor] = []
    with torch.no_grad(), guest(vit), observe_attention(vit, lambda _i, attention: means.append(attention.mean(1))):
        vit(images)
    return means


def raw_attention(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Show how the last block's class token looks at the patches, mean over heads: S_j = mean_h A^L_h[class, j].

    A ViT whose head pools patches has the mean over the patches as queries instead. `target` makes no difference.
    """
    shape = require_input(vit, images, target)
    last = head_means(vit, images)[-1]
    return on_grid((reader(vit, last)[:, None] @ last).squeeze(1), shape)


def rollout(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Follow attention through all blocks, half of each token staying where it is: S = (Ã^L ⋯ Ã^1)[class], Ã = (A + I) / 2.

    A is the mean over heads; the residual connection is the I. `target` makes no difference. Source: Abnar and Zuidema,
    "Quantifying Attention Flow in Transformers", ACL 2020, arXiv 2005.00928.
    """
    shape = require_input(vit, images, target)
    means = head_means(vit, images)
    row = reader(vit, means[-1])
    for attention in reversed(means):  # only one row of the product is wanted, so no matrix is ever multiplied by another
        row = (row + (row[:, None] @ attention).squeeze(1)) / 2
    return on_grid(row, shape)
