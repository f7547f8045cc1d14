"""From a picture of any size to what a ViT takes, by timm's transforms; and which part of the picture that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from ..vit import anatomy, pixel_range

FITS = {"crop": "center", "pad": "border", "squash": "squash"}  # what timm calls them


def preprocess(model: nn.Module, finer: int = 1, fit: str | None = None) -> Preprocessing:
    """Return the transform that a timm ViT expects: resize, crop, normalise; a picture -> float (C, H, W).

    A picture is what `load_image` returns: a PIL image, or an array (H, W), (H, W, C) or (C, H, W) with the C bands that the
    ViT takes. Colours become grey (luminance) for a ViT of one channel. An array of uint8 is divided by 255. Other arrays
    stay as they are, so `mean` and `std` in `vit.pretrained_cfg` must be in their unit, a number for each band.
    finer: the same part of the picture on so many times as many pixels along each side, to look at; not for the ViT.
    fit: how a picture of another shape than the ViT's image is fitted, by default as timm says for this ViT.
        "crop": its middle is cut out. "pad": nothing is lost, and the mean colour fills up the image; patches of padding are
        patches like others. "squash": nothing is lost, and proportions change.
    Raises `ValueError` where channels and normalisation do not fit.
    """
    return Preprocessing(model, finer, fit)


class Preprocessing:
    """A ViT's preprocessing, as `preprocess` returns it.

    channels: how many the ViT takes. mean, std: of the normalisation, a number for each of them. fit: a name in `FITS`.
    """

    def __init__(self, model: nn.Module, finer: int = 1, fit: str | None = None):
        if fit is not None and fit not in FITS:
            raise ValueError(f"There is no fit {fit!r}; there are {', '.join(FITS)}.")
        pixel_range(model)  # refuses a ViT that does not say how its pixels are normalised; timm would guess
        shape = anatomy(model)  # not pretrained_cfg alone, which create_model(img_size=…) leaves at the weights' training size
        self.channels, self.size = shape.channels, tuple(finer * side for side in shape.size)
        cfg = timm.data.resolve_data_config({"input_size": (self.channels, *self.size)}, model=model)
        self.mean, self.std = (_each_channel(cfg[key], self.channels) for key in ("mean", "std"))
        if fit is not None:
            cfg["crop_mode"] = FITS[fit]
        if fit in ("pad", "squash"):
            cfg["crop_pct"] = 1.0  # timm cuts a margin off otherwise
        self.fit = next((name for name, mode in FITS.items() if mode == cfg["crop_mode"]), "crop")
        steps = timm.data.create_transform(**cfg | {"mean": self.mean, "std": self.std}, is_training=False).transforms
        self._resize, self._crop, *self._normalise = steps
        if self.fit == "pad":
            self._crop.fill = 0  # the mean colour, once a picture is normalised; timm rounds it to 8 bits

    def __call__(self, picture: Image.Image | np.ndarray) -> Tensor:
        image = self._resize(self._as_bands(picture))
        for step in (*self._normalise, self._crop) if self.fit == "pad" else (self._crop, *self._normalise):
            image = step(image)
        return image

    def box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return the part that the ViT sees of a picture of size (width, height): left, top, right, bottom, in its pixels.

        With "pad" it reaches beyond the picture.
        """
        width, height = size
        tall, wide = self._resize(torch.empty(1, height, width, device="meta")).shape[-2:]
        top, left = (_margin(length - side) for length, side in zip((tall, wide), self.size, strict=True))
        across, down = width / wide, height / tall
        return left * across, top * down, (left + self.size[1]) * across, (top + self.size[0]) * down

    def whole(self, picture: Image.Image | np.ndarray) -> Tensor:
        """Return the whole picture in its own size, normalised: float (C, H, W)."""
        image = self._as_bands(picture)
        for step in self._normalise:
            image = step(image)
        return image

    def size_of(self, picture: Image.Image | np.ndarray) -> tuple[int, int]:
        """Return the width and height of a picture."""
        return picture.size if isinstance(picture, Image.Image) else tuple(self._as_bands(picture).shape[:0:-1])

    def _as_bands(self, picture: Image.Image | np.ndarray) -> Image.Image | Tensor:
        if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and (picture.ndim == 2 or picture.shape[2:] == (3,)):
            picture = Image.fromarray(picture)
        if isinstance(picture, Image.Image) and not picture.mode.startswith(("I", "F")):  # those `convert` would cut off at 255
            if self.channels not in (1, 3):
                raise ValueError(
                    f"Three colours are not the {self.channels} bands that this ViT takes; use .tif or .npy files."
                )
            return picture.convert("L" if self.channels == 1 else "RGB")
        bands = np.asarray(picture)
        bands = bands[None] if bands.ndim == 2 else bands
        axes = [axis for axis in (0, 2) if bands.ndim == 3 and bands.shape[axis] == self.channels]
        if len(axes) != 1 or not np.isrealobj(bands) or bands.dtype.kind not in "buif":
            raise ValueError(
                f"An array of {bands.dtype} with shape {np.shape(picture)} is no picture for this ViT, which takes "
                f"{self.channels} channels; it must be (H, W, {self.channels}) or ({self.channels}, H, W)."
            )
        scale = 255 if bands.dtype == np.uint8 else 1
        found = torch.from_numpy(np.moveaxis(bands, axes[0], 0).astype(np.float32) / scale)
        if not found.isfinite().all():
            raise ValueError("The picture holds NaN or infinite numbers; fill them in first.")
        return found


def _each_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return a number for each channel, where timm's configuration names those of another number of channels."""
    if len(values) == channels:
        return tuple(values)
    if channels != 1 and len(set(values)) > 1:
        raise ValueError(
            f"This ViT takes {channels} channels, but its normalisation is of {len(values)}; put {channels} numbers into "
            'vit.pretrained_cfg["mean"] and ["std"], or pass --mean and --std.'
        )
    return (sum(values) / len(values),) * channels  # grey lies between the colours


def _margin(spare: int) -> int:
    """Return what timm and torchvision cut off before the middle; below 0 what they put there."""
    return round(spare / 2) if spare >= 0 else -(-spare // 2)
