"""Options that `explain` and `train-gates` share: which ViT, and what its images and classes are."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_model_options(command: Any, default: str | None = None) -> None:
    """Add the options that `models.load` takes; default: the model, which must be named where there is none."""
    ours = f', or ours, "{default}", which comes with weights and gates (default)' if default else ""
    group = command.add_argument_group("the ViT")
    group.add_argument(
        "--model", metavar="NAME", default=default, required=default is None,
        help=f'timm\'s name of the ViT; "local-dir:FOLDER" for a folder of timm or transformers, with its weights{ours}',
    )  # fmt: skip
    group.add_argument(
        "--weights", type=Path, metavar="FILE",
        help="its weights, as your training saved them: .pth, .pt, .bin or .safetensors with a state dict; of a file of timm's "
        "training script the averaged (EMA) weights, if it has some",
    )  # fmt: skip
    group.add_argument("--pretrained", action="store_true", help="take the weights that timm has for this name (network, once)")
    group.add_argument("--names", type=Path, metavar="FILE", help="text file with a class's name in each line, in their order")
    group.add_argument(
        "--multilabel", action="store_true", default=None,
        help="the head was trained with a sigmoid for each label, so several can be right (default: as a folder's config says)",
    )  # fmt: skip
    group.add_argument(
        "--mean", type=_numbers(float), metavar="X[,X,…]",
        help="mean of the pixels in your training, for pixels in 0 … 1 (of bands in .tif and "
        ".npy: in the unit of the file), one number or one a channel (default: timm's for NAME)",
    )  # fmt: skip
    group.add_argument("--std", type=_numbers(float), metavar="X[,X,…]", help="their standard deviation, in the same way")
    group.add_argument(
        "--crop", type=float, metavar="SHARE",
        help="part of a photograph's shorter side that the ViT gets, 1 for all of it (default: timm's for NAME, often 0.9; "
        "where --fit keeps the whole photograph, it has no effect)",
    )  # fmt: skip
    group.add_argument(
        "--size", type=_numbers(int), metavar="PIXELS",
        help="side of the images, or HEIGHT,WIDTH (default: read off the weights, else timm's for NAME)",
    )  # fmt: skip


def model_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return of these options those that say what images and classes are, as keywords of `models.load`."""
    return {key: getattr(options, key) for key in ("size", "mean", "std", "names", "multilabel", "crop")}


def _numbers(kind: type) -> Callable[[str], tuple]:
    def read(text: str) -> tuple:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            words = "whole numbers" if kind is int else "numbers"
            raise argparse.ArgumentTypeError(f"{text!r} must be {words} with commas between them") from None

    return read
