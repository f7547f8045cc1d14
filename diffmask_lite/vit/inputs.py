"""Say in one sentence what is wrong with an input and what to do about it.

Each `require_…` raises `ValueError`, or `TypeError` for something that is not a tensor at all. Input is looked at once a call,
where it comes in: to look at all pixels makes a GPU wait.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .anatomy import Anatomy, anatomy

REMOVALS = ("drop", "mean", "noise")  # or a placeholder; see `predict`


def reason(error: Exception) -> str:
    """Return what an error of another library says, short enough for the brackets in one sentence of ours."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.strip().split(". ")[0].rstrip(".")


def printable(text: str) -> str:
    """Return a text as the terminal can show it: a character that its encoding lacks becomes an escape, not an error."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def require_images(model: nn.Module, images: Any, any_device: bool = False, items: Sequence[int] | None = None) -> Anatomy:
    """Hold images to what the ViT takes: float (B, C, H, W), normalised, finite, on its device; return the ViT's sizes.

    items: where in a data set the images come from, to name them by.
    """
    shape = anatomy(model)
    if not isinstance(images, Tensor):
        raise TypeError(
            f"Images must be a float tensor (B, C, H, W), but this is a {type(images).__name__}; "
            "take the images out of it and stack them."
        )
    wanted = (shape.channels, *shape.size)
    if images.ndim != 4:
        hint = "; add a batch axis with images[None]" if images.ndim == 3 else ""
        raise ValueError(f"Images must have 4 axes (B, C, H, W), but these have shape {tuple(images.shape)}{hint}.")
    normalise = "divide pixels by 255, then subtract the mean and divide by the standard deviation in vit.pretrained_cfg"
    if not images.is_floating_point():
        raise ValueError(f"Images must be normalised floats, but these are {images.dtype}; {normalise}.")
    if images.shape[1] != wanted[0]:
        raise ValueError(f"Images have {images.shape[1]} channels, but this ViT takes {wanted[0]}; convert them first.")
    if tuple(images.shape[1:]) != wanted:
        got, want = (" × ".join(map(str, sides)) for sides in (images.shape[1:], wanted))
        raise ValueError(f"Images are {got}, but this ViT takes {want}; resize or crop them first.")
    if len(images) == 0:
        raise ValueError("The batch of images is empty; pass at least one image.")
    weight = next(model.parameters())
    if images.device != weight.device and not any_device:
        raise ValueError(f"Images are on {images.device}, but the ViT is on {weight.device}; use images.to('{weight.device}').")
    if images.dtype != weight.dtype and not torch.is_autocast_enabled(weight.device.type):
        raise ValueError(f"Images are {images.dtype}, but the ViT's weights are {weight.dtype}; use images.to({weight.dtype}).")
    peak = max(map(abs, map(float, images.detach().aminmax())))  # NaN wins in aminmax, so one pass finds all three
    if not peak <= (most := 10 * _largest_pixel(model)):
        most = most if peak < float("inf") else torch.finfo(images.dtype).max
        bad = [place for place, image in zip(items or range(len(images)), images, strict=True) if not image.abs().max() <= most]
        named = f"{'images' if items is None else 'items'} {bad[:8]} of the {'batch' if items is None else 'data set'}"
        if not peak < float("inf"):
            raise ValueError(f"{named.capitalize()} hold NaN or infinite pixels; repair them or leave them out.")
        raise ValueError(f"Pixels of {named} reach {peak:.0f}, far outside the normalised range of this ViT; {normalise}.")
    return shape


def _largest_pixel(model: nn.Module) -> float:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    mean, std = cfg.get("mean", (0.5,)), cfg.get("std", (0.5,))
    return max(max(m, 1 - m) / s for m, s in zip(mean, std, strict=True))


def require_logits(logits: Tensor, shape: Anatomy, images: Tensor) -> None:
    """Hold logits that a caller has at hand to (B, classes)."""
    wanted = (len(images), shape.classes)
    if tuple(logits.shape) != wanted:
        raise ValueError(f"The logits have shape {tuple(logits.shape)}, but these images and this ViT need {wanted}.")


def require_finite(*answers: Tensor | None) -> None:
    """Refuse NaN and infinite numbers in what a ViT gave, one row an image; a device is waited for once."""
    finite = [answer.isfinite().reshape(len(answer), -1).all(1) for answer in answers if answer is not None]
    good = torch.stack(finite).all(0)
    if not good.all():
        bad = (~good).nonzero().flatten().tolist()
        raise ValueError(
            f"The ViT's answers to images {bad[:8]} of the batch are not finite numbers; look at its weights and its precision."
        )


def require_keep(keep: Any, shape: Anatomy, images: Tensor, removal: Any) -> None:
    """Hold a mask to (B, h, w) on the images' device, and a removal to those there are."""
    if not isinstance(keep, Tensor):
        raise TypeError(f"The mask must be a tensor (B, h, w), but this is a {type(keep).__name__}.")
    wanted = (len(images), *shape.grid)
    if tuple(keep.shape) != wanted:
        raise ValueError(
            f"The mask has shape {tuple(keep.shape)}, but {wanted[0]} images on a {shape.grid[0]} × {shape.grid[1]} patch "
            f"grid need {wanted}."
        )
    if keep.device != images.device:
        raise ValueError(
            f"The mask is on {keep.device}, but the images are on {images.device}; use keep.to('{images.device}')."
        )
    require_removal(removal, shape, images)
    if isinstance(removal, str) and keep.dtype != torch.bool and not (removal == "drop" and keep.is_floating_point()):
        raise ValueError(
            f'Removal "{removal}" takes whole patches away, so the mask must be bool, but it is {keep.dtype}; '
            'use keep > 0.5, or "drop" or a placeholder tensor as removal.'
        )
    if keep.dtype != torch.bool:
        low, high = map(float, keep.detach().aminmax())  # NaN wins
        if not (low >= 0 and high <= 1):
            raise ValueError(f"The mask must lie between 0 and 1, but it goes from {low:g} to {high:g}.")


def require_removal(removal: Any, shape: Anatomy, images: Tensor) -> None:
    """Hold a removal to those there are, and a placeholder to the images' device."""
    if isinstance(removal, Tensor):
        if removal.device != images.device:
            raise ValueError(f"The placeholder is on {removal.device}, but the images are on {images.device}.")
        require_placeholder(removal, shape)
    elif not isinstance(removal, str) or removal not in REMOVALS:
        raise ValueError(f'Unknown removal {removal!r}: use "drop", "noise", "mean" or a placeholder tensor.')


def require_placeholder(placeholder: Tensor, shape: Anatomy) -> None:
    """Hold a placeholder to one embedding (D,), or one for each patch (N, D), of finite numbers."""
    if tuple(placeholder.shape) not in {(shape.width,), (shape.patches, shape.width)}:
        raise ValueError(
            f"The placeholder has shape {tuple(placeholder.shape)}, but this ViT needs ({shape.width},) or "
            f"({shape.patches}, {shape.width})."
        )
    if not placeholder.detach().isfinite().all():
        raise ValueError("The placeholder holds NaN or infinite values; make it again.")


def require_target(target: Any, shape: Anatomy, images: Tensor) -> None:
    """Hold the classes to explain to None, an int or whole numbers (B,), all among the ViT's classes."""
    if target is None:
        return
    if isinstance(target, Tensor):
        if tuple(target.shape) != (len(images),) or target.is_floating_point() or target.dtype == torch.bool:
            raise ValueError(
                f"The target must be an int or a LongTensor of shape ({len(images)},), one class for each image, but it is "
                f"{target.dtype} of shape {tuple(target.shape)}."
            )
        low, high = map(int, target.aminmax())
    elif isinstance(target, int) and not isinstance(target, bool):
        low = high = target
    else:
        raise TypeError(f"The target must be an int or a LongTensor (B,), but this is a {type(target).__name__}.")
    if low < 0 or high >= shape.classes:
        wrong = low if low < 0 else high
        raise ValueError(f"There is no class {wrong}: this ViT has classes 0 to {shape.classes - 1}.")
