"""`predict`: what a ViT says of an image of which only some patches are left. The one place where patches are taken away."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .anatomy import anatomy
from .hold import guest
from .hooks import replace_embedding
from .inputs import require_images, require_keep
from .tokens import drop_tokens, require_droppable, weigh_tokens


def predict(
    model: nn.Module,
    images: Tensor,
    keep: Tensor | None = None,
    removal: str | Tensor = "drop",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the ViT's logits (B, classes) for images (B, C, H, W) of which only the patches in `keep` (B, h, w) are left.

    removal: what is done to the other patches.
        "drop": the token is left out. With no patch left and no class token to read the head has no input; the
            prediction is then defined as uniform (all logits 0). Here `keep` may be a float in [0, 1] with a gradient, see
            `weigh_tokens`.
        "mean": pixels of value 0 after normalisation, that is the mean colour of the training data.
        "noise": one picture of uniform noise over the range of normalised pixels, the same for the whole batch, drawn
            from `generator` (on the CPU; by default seeded with 0).
        a placeholder (D,) or (N, D): this embedding instead of the patch's, before positions; here, too, `keep` may be a float
            in [0, 1] with a gradient, and mixes the two: keep · h_0 + (1 − keep) · placeholder (VISION DIFFMASK, eq. 4).

    Raises `ValueError` on input that does not fit.
    """
    shape = require_images(model, images)
    if keep is not None:
        require_keep(keep, shape, images, removal)
    return predict_unchecked(model, images, keep, removal, generator)


def predict_unchecked(
    model: nn.Module,
    images: Tensor,
    keep: Tensor | None = None,
    removal: str | Tensor = "drop",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Do what `predict` does with input that was looked at before: for loops that ask about the same images many times."""
    shape = anatomy(model)
    with guest(model):
        if keep is None:
            return model(images)
        if isinstance(removal, Tensor):
            z = keep.flatten(1)[..., None].to(images.dtype)  # (B, N, 1)
            placeholder = removal.to(images.dtype)
            with replace_embedding(model, lambda state: z * state + (1 - z) * placeholder):
                return model(images)
        if removal == "drop" and keep.is_floating_point():
            with weigh_tokens(model, keep.flatten(1)):
                return model(images)
        if removal == "drop":
            return _predict_dropped(model, images, keep.flatten(1))
        if removal == "mean":
            fill = images.new_zeros(())
        else:
            low, high = pixel_range(model)
            draw = torch.rand(images.shape[1:], generator=generator or torch.Generator().manual_seed(0))
            fill = (low + (high - low) * draw).to(images)
        return model(torch.where(to_pixels(keep, shape.size, shape.patch), images, fill))


def _predict_dropped(model: nn.Module, images: Tensor, keep: Tensor) -> Tensor:
    """Group a batch by how many patches each image keeps, since a batch needs one length; keep is (B, N)."""
    require_droppable(model)
    counts = keep.sum(1)
    logits, order = [], []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().squeeze(1)
        if count == 0 and not anatomy(model).class_tokens:
            logits.append(images.new_zeros(len(rows), anatomy(model).classes))  # nothing to pool: uniform by definition
        else:
            index = keep[rows].nonzero()[:, 1].view(len(rows), count)
            with drop_tokens(model, index):
                logits.append(model(images[rows]))
        order.append(rows)
    return torch.cat(logits)[torch.cat(order).argsort()]


def mean_patch(model: nn.Module) -> Tensor:
    """Return the embeddings of an image of the mean colour, zero after normalisation: (N, D)."""
    shape = anatomy(model)
    with torch.no_grad(), guest(model):
        grey = next(model.parameters()).new_zeros(1, shape.channels, *shape.size)
        return model.patch_embed(grey).flatten(1, -2)[0]


def to_pixels(keep: Tensor, size: tuple[int, int], patch: tuple[int, int] | None = None) -> Tensor:
    """Spread keep (B, h, w) over the pixels it covers: (B, 1, H, W), bool.

    `patch` is the size of a patch in pixels, by default H // h × W // w. Pixels beyond the last whole patch belong to none,
    and stay (a 384 × 384 image has 27 × 27 patches of 14 × 14 pixels and 6 left over).
    """
    tall, wide = patch or (size[0] // keep.shape[1], size[1] // keep.shape[2])
    pixels = keep.bool().repeat_interleave(tall, dim=1).repeat_interleave(wide, dim=2)[:, None, : size[0], : size[1]]
    return F.pad(pixels, (0, size[1] - pixels.shape[3], 0, size[0] - pixels.shape[2]), value=True)


def pixel_range(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the values that black and white have after the ViT's own normalisation, each (C, 1, 1).

    They are (1, 1, 1), the mean over colours, where the ViT takes another number of channels than its normalisation has.
    Raises `ValueError` for a ViT without `pretrained_cfg`, that is one that `timm.create_model` did not make.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if "mean" not in cfg or "std" not in cfg:
        raise ValueError('This ViT does not say how its pixels are normalised; set vit.pretrained_cfg["mean"] and ["std"].')
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    if len(mean) != anatomy(model).channels:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return (0 - mean) / std, (1 - mean) / std
