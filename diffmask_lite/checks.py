"""Say in one sentence what is wrong with an input and what to do about it.

Each `check_…` returns nothing and raises `ValueError` (`TypeError` for something that is not a tensor at all).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .anatomy import Anatomy


def reason(error: Exception) -> str:
    """Return what an error of another library says, short enough for the brackets in one sentence of ours."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.strip().split(". ")[0].rstrip(".")


def check_images(images: Any, body: Anatomy, model: nn.Module) -> None:
    """Hold a batch of images to what the ViT takes: float (B, C, H, W), normalised, finite, on the ViT's device."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"Images must be a float tensor (B, C, H, W), but this is a {type(images).__name__}; "
            "take the images out of it and stack them."
        )
    wanted = (body.channels, *body.size)
    shape = " × ".join(map(str, wanted))
    if images.ndim != 4:
        hint = "; add a batch axis with images[None]" if images.ndim == 3 else ""
        raise ValueError(f"Images must have 4 axes (B, C, H, W), but these have shape {tuple(images.shape)}{hint}.")
    if not images.is_floating_point():
        raise ValueError(
            f"Images must be normalised floats, but these are {images.dtype}; divide pixels by 255, then subtract the mean "
            "and divide by the standard deviation in vit.pretrained_cfg."
        )
    if images.shape[1] != wanted[0]:
        raise ValueError(f"Images have {images.shape[1]} channels, but this ViT takes {wanted[0]}; convert them first.")
    if tuple(images.shape[2:]) != wanted[1:]:
        got = " × ".join(map(str, images.shape[1:]))
        raise ValueError(f"Images are {got}, but this ViT takes {shape}; resize or crop them first.")
    if len(images) == 0:
        raise ValueError("The batch of images is empty; pass at least one image.")
    weight = next(model.parameters())
    if images.device != weight.device:
        raise ValueError(f"Images are on {images.device}, but the ViT is on {weight.device}; use images.to('{weight.device}').")
    autocast = torch.is_autocast_enabled(weight.device.type)
    if images.dtype != weight.dtype and not autocast:
        raise ValueError(f"Images are {images.dtype}, but the ViT's weights are {weight.dtype}; use images.to({weight.dtype}).")
    peak = max(map(abs, map(float, images.detach().aminmax())))  # NaN wins in aminmax, so one pass finds all three
    if not peak < float("inf"):
        bad = [i for i, image in enumerate(images) if not image.isfinite().all()]
        raise ValueError(f"Images {bad[:8]} of the batch hold NaN or infinite pixels; repair them or leave them out.")
    limit = 10 * _largest_pixel(model)
    if peak > limit:
        raise ValueError(
            f"Pixels reach {peak:.0f}, far outside the normalised range of this ViT; divide pixels by 255, then subtract the "
            "mean and divide by the standard deviation in vit.pretrained_cfg."
        )


def _largest_pixel(model: nn.Module) -> float:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    mean, std = cfg.get("mean", (0.5,)), cfg.get("std", (0.5,))
    return max(max(m, 1 - m) / s for m, s in zip(mean, std, strict=True))


def check_keep(keep: Any, body: Anatomy, images: Tensor, removal: Any) -> None:
    """Hold a mask to (B, h, w) on the images' device, and a removal to the four there are."""
    if not isinstance(keep, Tensor):
        raise TypeError(f"The mask must be a tensor (B, h, w), but this is a {type(keep).__name__}.")
    wanted = (len(images), *body.grid)
    if tuple(keep.shape) != wanted:
        raise ValueError(
            f"The mask has shape {tuple(keep.shape)}, but {wanted[0]} images on a {body.grid[0]} × {body.grid[1]} patch "
            f"grid need {wanted}."
        )
    if keep.device != images.device:
        raise ValueError(
            f"The mask is on {keep.device}, but the images are on {images.device}; use keep.to('{images.device}')."
        )
    if isinstance(removal, Tensor):
        if tuple(removal.shape) not in {(body.width,), (body.patches, body.width)}:
            raise ValueError(
                f"The placeholder has shape {tuple(removal.shape)}, but this ViT needs ({body.width},) or "
                f"({body.patches}, {body.width})."
            )
        if removal.device != images.device:
            raise ValueError(f"The placeholder is on {removal.device}, but the images are on {images.device}.")
    elif not isinstance(removal, str) or removal not in ("drop", "noise", "mean"):
        raise ValueError(f'Unknown removal {removal!r}: use "drop", "noise", "mean" or a placeholder tensor.')
    elif keep.dtype != torch.bool and not (removal == "drop" and keep.is_floating_point()):
        raise ValueError(
            f'Removal "{removal}" takes whole patches away, so the mask must be bool, but it is {keep.dtype}; '
            'use keep > 0.5, or "drop" or a placeholder tensor as removal.'
        )


def check_target(target: Any, body: Anatomy, images: Tensor) -> None:
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
    if low < 0 or high >= body.classes:
        wrong = low if low < 0 else high
        raise ValueError(f"There is no class {wrong}: this ViT has classes 0 to {body.classes - 1}.")
