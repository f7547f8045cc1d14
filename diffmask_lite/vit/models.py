"""ViTs of others, made ready to be explained: timm's by name, with weights from timm or a file; folders; adapters.

`load("vit_small_patch16_224", "checkpoint.pth")` gives the ViT of a training of your own. What belongs to its images and
classes lies in `vit.pretrained_cfg`: `mean`, `std`, `input_size` and `label_names`.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from torch import nn

from .adapters import from_torchvision, from_transformers, two_class
from .anatomy import anatomy
from .inputs import reason
from .state import fill, read_state, sizes_of

FOLDER = "local-dir:"

__all__ = ["class_names", "describe", "from_torchvision", "from_transformers", "load", "summary", "two_class"]


def load(
    model: str,
    weights: str | os.PathLike | None = None,
    pretrained: bool = False,
    *,
    size: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    names: str | os.PathLike | Sequence[str] | None = None,
    multilabel: bool | None = None,
    crop: float | None = None,
    shape: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a ViT in eval mode, on the CPU: one of timm's architectures, with weights of yours or of timm.

    model: timm's name, "hf-hub:…", or "local-dir:" and a folder with weights, of `timm.models.save_for_hf` or of
        transformers' `save_pretrained` (see `from_transformers`).
    weights: a file of your training, safetensors or what `torch.save` wrote: a state dict, or a dict that holds one under a key
        of `vit.state.HELD` (the first that is there). Classes, channels, patch and image size are read off its tensors. It does
        not say which other options the ViT was made with, such as `global_pool`; a folder does.
    pretrained: take timm's weights, which needs a network once.
    size: of the images in pixels, a side or (H, W); by default the file's, else timm's for this name.
    mean, std: of the normalisation, one number or one a channel, for pixels in [0, 1]; by default timm's for this name.
    names: a word for each class, or a text file with a line for each; see `class_names`.
    multilabel: whether the head has a sigmoid for each label; by default as a folder's configuration says, else not.
    crop: which part of the photograph's shorter side the ViT gets, in (0, 1]; by default timm's for this name, often 0.9.
    shape: "size", "channels" and "multilabel" where nothing else says them, as a file of gates does.
    A head of one logit becomes one of two, see `two_class`. Without weights the ViT is untrained.
    Raises `ValueError` or `FileNotFoundError`, one sentence, for whatever does not fit together.
    """
    if pretrained and weights:
        raise ValueError("The ViT's weights can come from --pretrained or from --weights, not from both.")
    require_known(model)
    size = size and _pair(size)
    if _is_of_transformers(model):
        if weights:
            raise ValueError(f"The folder of {model} holds its weights; leave --weights out.")
        if multilabel:
            raise ValueError(f"The folder of {model} says what its head predicts; leave --multilabel out.")
        vit = _from_folder(Path(model.removeprefix(FOLDER)), size)
        describe(vit, mean, std, names, crop)
        return vit
    state = read_state(weights) if weights else None
    options = {} if state is None else sizes_of(_create(model, meta=True), state)
    filled = model.startswith(FOLDER) and state is None
    cfg, shape = None if ":" in model else timm.get_pretrained_cfg(model), {} if filled else shape or {}
    read_off = options.pop("img_size", None)
    wanted = size or read_off or shape.get("size")
    if wanted and (cfg is None or tuple(wanted) != tuple(cfg.input_size[1:])):  # not every model knows how to be told
        options["img_size"] = tuple(wanted)
    if shape.get("channels", 3) != 3:
        options.setdefault("in_chans", shape["channels"])
    vit = _create(model, pretrained or filled, **options)
    if state is not None:
        fill(vit, state, weights, model)
    if shape.get("multilabel") if multilabel is None else multilabel:
        vit.pretrained_cfg["problem_type"] = "multi_label_classification"
    if vit.num_classes == 1:
        vit = two_class(vit)
    describe(vit, mean, std, names, crop)
    return vit.eval()


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    sides = (size,) if isinstance(size, int) else tuple(size)
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(f"--size is a side in pixels, or HEIGHT,WIDTH, but it is {','.join(map(str, sides))}.")
    return sides[0], sides[-1]


def require_known(model: str) -> None:
    """Raise `ValueError` for a name that timm does not have; "hf-hub:…" and "local-dir:…" are looked up by `load`."""
    if ":" not in model and not timm.is_model(model.split(".")[0]):
        if Path(model).is_dir():
            raise ValueError(f"timm has no model {model!r}, but there is a folder of this name: say {FOLDER}{model}.")
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        raise ValueError(f"timm has no model {model!r}" + (f"; nearest: {', '.join(near)}." if near else "."))


def _create(model: str, pretrained: bool = False, meta: bool = False, **options: Any) -> nn.Module:
    """Make a model of timm; meta: without numbers, to look at its sizes."""
    try:
        with torch.device("meta" if meta else "cpu"):
            return timm.create_model(model, pretrained=pretrained, **options)
    except Exception as error:  # timm's models and its hub client raise whatever they meet
        raise ValueError(f"timm could not make {model} ({reason(error)}).") from error


def _is_of_transformers(model: str) -> bool:
    path = Path(model.removeprefix(FOLDER), "config.json")
    if not model.startswith(FOLDER) or not path.is_file():
        return False
    try:
        return "architectures" in json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({reason(error)}).") from error


def _from_folder(folder: Path, size: tuple[int, int] | None) -> nn.Module:
    """Return the ViT in a folder of transformers."""
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification  # an extra, and slow to import
    except ImportError as error:
        raise ValueError(f"{folder} is a folder of transformers; install them with: pip install transformers.") from error
    try:
        made, processor = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True), None
        if (folder / "preprocessor_config.json").is_file():
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever it meets
        raise ValueError(f"transformers could not read {folder} ({reason(error)}).") from error
    return from_transformers(made, processor, size)


# Images and classes


def describe(
    vit: nn.Module,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    names: str | os.PathLike | Sequence[str] | None = None,
    crop: float | None = None,
) -> None:
    """Write into `vit.pretrained_cfg` which images the ViT takes and what its classes are called; as for `load`."""
    sizes, cfg = anatomy(vit), vit.pretrained_cfg
    if crop is not None:
        if not 0 < crop <= 1:
            raise ValueError(f"--crop is above 0 and at most 1, but it is {crop:g}.")
        cfg["crop_pct"] = crop
    cfg["input_size"] = (sizes.channels, *sizes.size)
    for key, given in (("mean", mean), ("std", std)):
        values = cfg.get(key) if given is None else given
        if values is None:
            raise ValueError(
                "Nothing says how the pixels of this ViT are normalised, as preprocessor_config.json does in a folder of "
                "transformers; pass --mean and --std."
            )
        values = (values,) if isinstance(values, int | float) else tuple(values)
        if len(values) != sizes.channels:
            if given is not None and len(values) != 1:
                raise ValueError(f"--{key} has {len(values)} numbers, but the ViT takes {sizes.channels} channels.")
            values = (sum(values) / len(values),) * sizes.channels
        if not all(map(math.isfinite, values)) or (key == "std" and min(values) <= 0):
            raise ValueError(f"--mean must be finite and --std above 0, but --{key} is {' '.join(map(str, values))}.")
        cfg[key] = values
    if names is not None:
        words = list(names) if isinstance(names, list | tuple) else _lines(Path(names))
        if len(words) != sizes.classes:
            raise ValueError(f"There are {len(words)} names of classes, but the ViT has {sizes.classes} classes.")
        cfg |= {"label_names": words, "label_descriptions": None}


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of class names {path}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8, which names of classes must be.") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def class_names(vit: nn.Module) -> list[str]:
    """Return a word for each class: `label_names` of `vit.pretrained_cfg`, ImageNet's for a head of timm's that has as many
    classes as timm's weights of ImageNet, else "class 0", "class 1", …
    """
    cfg, classes = getattr(vit, "pretrained_cfg", None) or {}, range(anatomy(vit).classes)
    names, words = cfg.get("label_names"), cfg.get("label_descriptions") or {}
    if isinstance(names, dict):  # from JSON, whose keys are strings
        names = [names[i] for i in sorted(names, key=int)]
    if names and len(names) == len(classes):
        return [words.get(name, name) for name in names]
    subset = timm.data.infer_imagenet_subset(cfg) if cfg.get("num_classes") == len(classes) else None
    return timm.data.ImageNetInfo(subset).label_descriptions() if subset else [f"class {i}" for i in classes]


def summary(vit: nn.Module) -> str:
    """Return in one line what a ViT is taken for: its classes, and the images that it gets."""
    names, sizes, used = class_names(vit), anatomy(vit), timm.data.resolve_data_config({}, model=vit)
    mean, std = (" ".join(f"{value:.4g}" for value in used[key]) for key in ("mean", "std"))
    kind = "labels" if sizes.multilabel else "classes"
    return (
        f"{vit.pretrained_cfg.get('architecture', type(vit).__name__)}: {len(names)} {kind} ({names[0]} … {names[-1]}); "
        f"images {sizes.channels} × {sizes.size[0]} × {sizes.size[1]}, crop {used['crop_pct']:g} ({used['crop_mode']}, "
        f"{used['interpolation']}), mean {mean}, std {std}"
    )
