"""What the options of a command name: a ViT and its gates, a class, a device."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .. import weights
from ..attribution import METHODS
from ..datasets import CIFAR10
from ..diffmask import DiffMask, read_gates
from ..training.distributed import own_device
from ..vit import UnfitViT, anatomy, models
from ..vit.inputs import reason

OURS = "cifar10"  # the ViT that comes with the package
UNTRAINED = ("integrated_drop", "gradient_attention", "leave_one_out")  # one of these any ViT can have; the best first


def load_explainer(
    model: str = OURS,
    gates: str | os.PathLike | None = None,
    weights_file: str | os.PathLike | None = None,
    pretrained: bool = False,
    **settings: Any,
) -> tuple[DiffMask, Sequence[str]]:
    """Return an explainer on the CPU and a word for each class of its ViT.

    model: "cifar10" for the ViT that comes with the package, else as for `models.load`. gates: what `DiffMask.save`
    wrote. weights_file: the ViT's weights; pretrained: take timm's instead, which needs a network once.
    settings: `size`, `mean`, `std`, `names`, `multilabel` and `crop` of `models.load`, for a ViT that is not ours.
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
            if weights_file is None:
                raise
            why = str(error).rstrip(".")
            raise ValueError(
                f"{weights_file} does not hold the ViT that comes with us ({why}); name yours with --model."
            ) from error
        return DiffMask.load(gates or weights.folder() / f"{OURS}_gates.safetensors", vit).eval(), CIFAR10.classes
    models.require_known(model)
    if not (pretrained or weights_file or model.startswith(models.FOLDER)):
        raise ValueError(f"{model} without weights knows nothing to explain; add --pretrained, or --weights FILE.")
    shape = read_gates(gates)[1].get("shape") if gates else None  # what the gates were trained for
    vit = models.load(model, weights_file, pretrained, shape=shape, **settings)
    return DiffMask.load(gates, vit).eval() if gates else by_removal(vit), models.class_names(vit)


def by_removal(vit: nn.Module) -> DiffMask:
    """Return untrained gates, to verify the masks of other methods: tokens are dropped, or become the mean patch."""
    try:
        return DiffMask(vit, "drop").eval()
    except UnfitViT:
        return DiffMask(vit, "mean").eval()


def untrained_method(vit: nn.Module) -> str:
    """Return the best method that needs no gates and that this ViT can have."""
    shape, weight = anatomy(vit), next(vit.parameters())
    for name in UNTRAINED[:-1]:
        try:
            METHODS[name](vit, weight.new_zeros(1, shape.channels, *shape.size))
            return name
        except UnfitViT:
            pass
    return UNTRAINED[-1]


def find_class(text: str, names: Sequence[str]) -> int:
    """Return the class that a name or an index stands for; a name comes first, where a class is called like a number.

    A name is one of `names`, or one of the synonyms between its commas. Raises `ValueError` with the nearest name.
    """
    found = [i for i, name in enumerate(names) if text in (name, *name.split(", "))]
    if len(found) > 1:
        raise ValueError(f"{text!r} names the classes {', '.join(map(str, found))}; pass --target with one of these numbers.")
    if found:
        return found[0]
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    if text.lstrip("-").isdecimal():
        raise ValueError(f"There is no class {text}: this ViT has classes 0 to {len(names) - 1}.")
    words = {part.lower(): part for name in names for part in (name, *name.split(", "))}
    near = difflib.get_close_matches(text.lower(), words, 1)
    advice = f"the nearest name is {words[near[0]]!r}" if near else "give its number, or the classes' names with --names"
    raise ValueError(f"No class is named {text!r}; {advice}.")


def move(explainer: DiffMask, device: str | None = None) -> None:
    """Put an explainer and its ViT on a device: by default this process's own among several, else cuda if there is one."""
    device = device or own_device() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        explainer.vit.to(device)
        explainer.to(device)
    except (RuntimeError, AssertionError) as error:  # a name that torch does not know, or a device that is not there
        raise ValueError(f"--device {device} cannot be used ({reason(error)}).") from error
