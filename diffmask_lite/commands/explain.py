"""Explain photographs from a terminal: for each a figure and its numbers, without a notebook.

    python -m diffmask_lite explain photo.jpg holiday/
    python -m diffmask_lite explain photo.jpg --model vit_small_patch16_224 --pretrained --gates gates.safetensors

One photograph that cannot be read is named, and the others go on. Memory is that of one batch, however large a folder is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm.data
import torch
from PIL import Image
from torch import Tensor

from .. import plots, weights
from ..datasets import CIFAR10, IMAGE_ENDINGS, find_images, load_image, preprocess
from ..diffmask import DiffMask
from ..plots.canvas import short
from ..training.distributed import own_device
from ..vit import models
from ..vit.inputs import reason
from ..vit.storage import load_tensors, write
from .options import add_model_options, model_settings

OURS = "cifar10"
FINE = 224  # pixels along the shorter side from which a photograph is sharp enough for a figure
Failed = Callable[[str], None]


# The ViT and its gates


def load_explainer(
    model: str = OURS,
    gates: str | os.PathLike | None = None,
    weights_file: str | os.PathLike | None = None,
    pretrained: bool = False,
    **settings: Any,
) -> tuple[DiffMask, Sequence[str]]:
    """Return an explainer on the CPU and a word for each class of its ViT.

    model: "cifar10" for the ViT that comes with the package, else as for `models.load`. gates: what `DiffMask.save` wrote.
    weights_file: the ViT's weights; pretrained: take timm's instead, which needs a network once.
    settings: `size`, `mean`, `std` and `names` of `models.load`, for a ViT that is not ours.
    Raises `ValueError` or `FileNotFoundError`, one sentence, for whatever does not fit together.
    """
    if pretrained and weights_file:
        raise ValueError("The ViT's weights can come from --pretrained or from --weights, not from both.")
    if model == OURS:
        if pretrained:
            raise ValueError(f"The weights of {OURS} come with the package; leave --pretrained out.")
        if given := [key for key, value in settings.items() if value is not None]:
            raise ValueError(f"What {OURS} takes and says is known; leave --{given[0]} out, or name another --model.")
        if gates is None and weights_file is None:
            return weights.pretrained(OURS)[1], CIFAR10.classes
        try:
            vit = weights.load_vit(weights_file or weights.folder() / f"{OURS}_vit.safetensors", OURS)
        except ValueError as error:
            raise ValueError(f"{str(error).rstrip('.')}; name a ViT of your own with --model.") from error
        return DiffMask.load(gates or weights.folder() / f"{OURS}_gates.safetensors", vit).eval(), CIFAR10.classes
    if gates is None:
        raise ValueError(f"There are no gates for {model}; train them with `fit`, save them, and pass --gates FILE.")
    if not (pretrained or weights_file or model.startswith(models.FOLDER)):
        raise ValueError(f"{model} needs the weights that its gates were trained for; add --pretrained, or --weights FILE.")
    shape = load_tensors(gates)[1].get("shape", {})  # what the gates were trained for
    vit = models.load(model, weights_file, pretrained, shape=shape, **settings)
    return DiffMask.load(gates, vit).eval(), models.class_names(vit)


# Which photographs, and where their figures go


def collect(inputs: Sequence[str | os.PathLike], out: Path, failed: Failed) -> dict[Path, Path]:
    """Return photograph -> figure for files and all pictures under folders; `failed` hears of each that is not there.

    The figures lie under `out` as the photographs lie under the folder that holds them all, each with ".png" added to its
    whole name, so no two share one. Figures of an earlier run are not explained again. Raises `ValueError` where a figure
    would lie beside a photograph.
    """
    found: list[Path] = []
    roots: list[Path] = []
    for item in map(Path, inputs):
        if item.is_dir():
            within = find_images(item, lambda error: failed(f"{error.filename} cannot be opened ({reason(error)})."))
            within = [path for path in within if item.resolve() == out.resolve() or not _inside(path, out)]
            if not within:
                failed(f"There is no picture ({', '.join(IMAGE_ENDINGS)}) under {item}.")
                continue
            roots.append(item)
        elif os.path.lexists(item):
            within = [item]
            roots.append(item.parent)
        else:
            failed(f"There is no file or folder {item}.")
            continue
        found += within
    absolute = {os.path.abspath(path): path for path in reversed(found)}  # a file named twice is explained once
    once = [path for path in dict.fromkeys(found) if absolute[os.path.abspath(path)] is path]
    base = _common([os.path.abspath(root) for root in roots])
    planned = {}
    for path in once:
        part = os.path.relpath(os.path.abspath(path), base) if base else os.path.abspath(path).replace(":", "").lstrip(os.sep)
        planned[path] = out / f"{part}.png"
    theirs = {path.parent.resolve() for path in planned}
    for figure in planned.values():
        if figure.parent.resolve() in theirs:
            raise ValueError(f"The figure {figure} would lie beside a photograph; name another folder with --out.")
    return planned


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _common(paths: list[str]) -> str | None:
    try:
        return os.path.commonpath(paths) if paths else None
    except ValueError:  # on Windows, paths on several drives share nothing
        return None


# The work


def explain_files(
    explainer: DiffMask,
    names: Sequence[str],
    planned: dict[Path, Path],
    failed: Failed,
    threshold: float = 0.5,
    batch: int = 32,
) -> Iterator[dict[str, Any]]:
    """Explain each photograph, write its figure, and yield its numbers as a row that JSON can hold.

    `failed` hears one sentence for each photograph that cannot be read, or whose figure cannot be written.
    """
    vit = explainer.vit
    weight, cfg = next(vit.parameters()), timm.data.resolve_data_config({}, model=vit)
    finer = max(1, math.ceil(FINE / min(explainer.shape.size)))
    to_input, to_view = preprocess(vit), preprocess(vit, finer)
    for group in _groups(planned, to_input, to_view, finer, batch, failed):
        images = torch.stack([image for _, image, _ in group])
        pictures = plots.displayable(images, cfg["mean"], cfg["std"])
        images = images.to(weight)
        result = explainer.explain(images, threshold)
        check = explainer.verify(images, result.keep, result.logits)
        before, after = result.logits.float().softmax(1), check.logits.float().softmax(1)
        for i, (path, _, view) in enumerate(group):
            if not (before[i].isfinite().all() and after[i].isfinite().all()):
                failed(f"The ViT's answer to {path} is not a finite number; look at its weights.")
                continue
            photograph = plots.displayable(view, cfg["mean"], cfg["std"])[0]
            figure = plots.explained(photograph, pictures[i], result, check, names, i, _printable(path.name))
            try:
                _write(figure, planned[path])
            except OSError as error:
                failed(f"The figure of {path} cannot be written to {planned[path]} ({reason(error)}).")
                continue
            old, new = int(before[i].argmax()), int(after[i].argmax())
            yield {
                "image": str(path), "figure": str(planned[path]),
                "class": names[old], "index": old, "p": before[i, old].item(),
                "class_after": names[new], "index_after": new, "p_after": after[i, new].item(),
                "kl": check.kl[i].item(), "kept": check.kept[i].item(), "agree": bool(check.agree[i]),
                "threshold": threshold, "keep": result.keep[i].int().tolist(),
            }  # fmt: skip


def _groups(
    paths: Sequence[Path] | dict[Path, Path], to_input: Callable, to_view: Callable, finer: int, batch: int, failed: Failed
) -> Iterator[list[tuple[Path, Tensor, Tensor]]]:
    """Yield batches of (path, image for the ViT, image to look at); only one batch is in memory at a time."""
    group: list[tuple[Path, Tensor, Tensor]] = []
    for path in paths:
        try:
            picture = load_image(path)
            _check_shape(picture, path)
            image = to_input(picture)
            group.append((path, image, image if finer == 1 else to_view(picture)))
        except (ValueError, MemoryError) as error:
            failed(str(error) or f"{path} does not fit into memory.")
        if len(group) == batch:
            yield group
            group = []
    if group:
        yield group


def _check_shape(picture: Image.Image, path: Path) -> None:
    """Refuse a strip that resizing by its shorter side would blow up: 1 × 10,000,000 pixels are few, until then."""
    short_side, long_side = sorted(picture.size)
    if long_side > 1000 * short_side:
        raise ValueError(f"{path} is {picture.width} × {picture.height} pixels, too narrow a strip to be a photograph.")


def _write(figure: plots.Drawing, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file's name may hold characters that the font lacks
        write(path, plots.png(figure))


def _printable(text: Any) -> str:
    """A file's name need not be text at all; show bytes that are none as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode()


# The command


def add_explain(commands: Any) -> None:
    """Add `explain` to the command line's parser."""
    command = commands.add_parser(
        "explain", help="explain photographs: a figure for each, and what the ViT says before and after"
    )
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of them at any depth")
    command.add_argument(
        "--out", type=Path, default=Path("explanations"), help="folder for the figures, PNG (default: %(default)s)"
    )
    command.add_argument("--gates", type=Path, help="what `explainer.save` wrote (default: ours, which fit our ViT alone)")
    command.add_argument("--threshold", type=float, default=0.5, help="keep patches whose mask is above this (default: 0.5)")
    command.add_argument("--batch", type=int, default=32, help="images at once, which bounds memory (default: 32)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    command.add_argument("--json", action="store_true", help="print a line of JSON for each image; all else goes to stderr")
    add_model_options(command, OURS)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command says; 0 if every photograph was explained, 1 if one was not, 130 after Ctrl-C."""
    if not 0 <= options.threshold < 1:
        raise ValueError(f"--threshold is a probability in [0, 1), but it is {options.threshold}.")
    if options.batch < 1:
        raise ValueError(f"--batch must be at least 1, but it is {options.batch}.")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"{options.out} is a file, but --out must name a folder.")
    explained = missed = 0
    stopped = False

    def failed(sentence: str) -> None:
        nonlocal missed
        missed += 1
        print(f"diffmask_lite: {_printable(sentence)}", file=sys.stderr, flush=True)

    planned = collect(options.images, options.out, failed)
    if planned:
        explainer, names = load_explainer(
            options.model, options.gates, options.weights, options.pretrained, **model_settings(options)
        )
        if options.model != OURS:
            print(models.summary(explainer.vit), file=sys.stderr if options.json else sys.stdout)
        move(explainer, options.device)
        try:
            for row in explain_files(explainer, names, planned, failed, options.threshold, options.batch):
                explained += 1
                print(json.dumps(row) if options.json else _printable(_line(row)), flush=True)
        except KeyboardInterrupt:
            stopped = True
        except torch.OutOfMemoryError as error:
            raise ValueError(f"{options.batch} images at once do not fit into memory; pass a smaller --batch.") from error
    verdict = f"{explained} explained, {missed} not" + (", stopped before the end" if stopped else "") + "."
    print(verdict, file=sys.stderr if options.json else sys.stdout)
    return 130 if stopped else int(missed > 0)


def move(explainer: DiffMask, device: str | None = None) -> None:
    """Put an explainer and its ViT on a device: by default this process's own among several, else cuda if there is one."""
    device = device or own_device() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        explainer.vit.to(device)
        explainer.to(device)
    except (RuntimeError, AssertionError) as error:  # a name that torch does not know, or a device that is not there
        raise ValueError(f"--device {device} cannot be used ({reason(error)}).") from error


def _line(row: dict[str, Any]) -> str:
    keep = np.asarray(row["keep"])
    return (
        f"{row['image']}: {short(row['class'])} ({row['p']:.2f}); {keep.sum()} of {keep.size} patches alone: "
        f"{short(row['class_after'])} ({row['p_after']:.2f}){'' if row['agree'] else ', changed'}, KL {row['kl']:.2f} nats: "
        f"{row['figure']}"
    )
