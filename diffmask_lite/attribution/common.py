"""What the attribution methods share: the class to explain, gradients without traces, and which tokens the head reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from ..vit import Anatomy, anatomy, guest
from ..vit.inputs import require_images, require_target

Target = int | Tensor | None


def require_input(vit: nn.Module, images: Tensor, target: Target) -> Anatomy:
    """Hold a method's input to what fits, and return the ViT's sizes."""
    shape = require_images(vit, images)
    require_target(target, shape, images)
    return shape


def pick(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the value (B,) that each row of values (B, classes) has for its chosen class (B,)."""
    return values.gather(1, chosen[:, None]).squeeze(1)


@contextmanager
def gradients(vit: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Yield the images, cut off from the caller's graph, in a context where gradients flow whatever the caller's mode is.

    The weights get no gradient: `torch.autograd.grad` differentiates by activations alone, and `.grad` stays as it was.
    """
    with torch.inference_mode(False), torch.enable_grad(), guest(vit):
        yield images.clone() if images.is_inference() else images.detach()


def reader(vit: nn.Module, tokens: Tensor) -> Tensor:
    """Return weights (B, P + N), of sum 1 in each row, on the tokens that the head reads; `tokens` (B, …) gives dtype and B.

    Those are the class token, or both such tokens of a distilled ViT. A head that pools patches reads them all, so attention
    is averaged over the patches as queries. The weights of attention pooling differ by image and are not used.
    """
    shape = anatomy(vit)
    row = tokens.new_zeros(len(tokens), shape.prefix + shape.patches)
    row[:, slice(shape.class_tokens) if shape.class_tokens else slice(shape.prefix, None)] = 1
    return row / row.sum(1, keepdim=True)


def on_grid(scores: Tensor, shape: Anatomy) -> Tensor:
    """Turn scores of patches (B, N), or of all tokens (B, P + N), into a map (B, h, w)."""
    scores = scores.detach()[:, -shape.patches :].unflatten(1, shape.grid)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def captum() -> ModuleType:
    """Return `captum.attr`, or say how to get it."""
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError('This method needs Captum; install it with pip install "diffmask_lite[attribution]".') from error
    return captum.attr


def seeded(generator: torch.Generator | None) -> torch.Generator:
    """Return the caller's generator, or a new one seeded with 0, so that the global random numbers stay as they are."""
    return generator or torch.Generator().manual_seed(0)
