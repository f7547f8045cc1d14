"""State dicts of other people's trainings: read from a file, looked at for the sizes they mean, and filled into a ViT."""

from __future__ import annotations

import argparse
import math
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .inputs import reason

WRAPPED = re.compile(r"^((module|_orig_mod|model)\.)+")  # by DataParallel, torch.compile, Lightning and the like
HELD = ("state_dict_ema", "state_dict", "model", "model_state_dict")  # where a training's file keeps its state dict


def read_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Return the state dict in a file, with the prefixes that wrappers put before its names taken off.

    Nothing is unpickled but tensors, and the options that timm's own training script stores beside them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    with path.open("rb") as file:
        torchs = file.read(2).startswith((b"PK", b"\x80"))  # a zip file or a pickle, as `torch.save` writes
    try:
        if torchs:
            with torch.serialization.safe_globals([argparse.Namespace]):
                held = torch.load(path, map_location="cpu", weights_only=True)
        else:
            held = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({reason(error)}), nor one of `torch.save`; write it again."
        ) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, which is not loaded, since it could run code; "
            'save the numbers alone with torch.save(vit.state_dict(), "weights.pth").'
        ) from error
    except (RuntimeError, EOFError) as error:  # cut short, or a TorchScript archive
        raise ValueError(f"{path} is not a whole file of weights ({reason(error)}).") from error
    for key in HELD:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if isinstance(held, Mapping) and any("_packed_params" in str(key) for key in held):
        raise ValueError(f"{path} is quantised to int8; take the weights from before that.")
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise ValueError(f"{path} holds no state dict, neither bare nor under one of the keys {', '.join(HELD)}.")
    return {WRAPPED.sub("", key): value for key, value in held.items()}


def sizes_of(plain: nn.Module, state: dict[str, Tensor]) -> dict[str, Any]:
    """Return what timm must be told so that a model takes the tensors of a state dict; plain: the model as timm has it."""
    found, cfg = {}, plain.pretrained_cfg
    heads, convolution = cfg.get("classifier") or "head", cfg.get("first_conv")
    head = state.get(f"{heads if isinstance(heads, str) else heads[0]}.weight")
    if head is not None:
        found["num_classes"] = len(head)
    kernel = state.get(f"{convolution}.weight")
    embed = getattr(plain, "patch_embed", None)
    pixels, cells = getattr(embed, "img_size", None), getattr(embed, "grid_size", None)
    patch = ()  # a backbone in front makes a patch larger than its kernel
    if pixels and cells:
        patch = tuple(side // count for side, count in zip(pixels, cells, strict=True))
    if kernel is not None and kernel.ndim == 4:
        if kernel.shape[1] != 3:
            found["in_chans"] = kernel.shape[1]
        if convolution == "patch_embed.proj" and patch and tuple(kernel.shape[2:]) != patch:  # no backbone
            found["patch_size"] = patch = tuple(kernel.shape[2:])
    places, mine = state.get("pos_embed"), getattr(plain, "pos_embed", None)
    if places is not None and mine is not None and places.ndim == 3 and (places.shape != mine.shape or "patch_size" in found):
        patches = places.shape[1] - (mine.shape[1] - math.prod(embed.grid_size))  # without the prefix tokens
        side, timms = math.isqrt(max(patches, 0)), math.prod(side // cell for side, cell in zip(pixels, patch, strict=True))
        if side * side == patches and patches != timms:  # other grids cannot be told from a number, and wait for a size
            found["img_size"] = tuple(side * cell for cell in patch)
    return found


def fill(vit: nn.Module, state: dict[str, Tensor], path: str | os.PathLike, model: str) -> None:
    """Copy a state dict into a ViT if every tensor fits."""
    mine, start = vit.state_dict(), f"{path} does not hold the weights of {model}"
    lacks, more = [name for name in mine if name not in state], [name for name in state if name not in mine]
    if lacks or more:
        words = [f"it {verb} {names[0]}{_and_more(names)}" for verb, names in (("lacks", lacks), ("also holds", more)) if names]
        raise ValueError(f"{start}: {' and '.join(words)}; {_advice(state)}.")
    for name, value in mine.items():
        given = state[name]
        if given.shape != value.shape:
            raise ValueError(
                f"{start}: {name} is {tuple(given.shape)} in the file, but {tuple(value.shape)} in the ViT; "
                f"name another --model, or say the --size of its images; {_advice(state)}."
            )
        if value.is_floating_point() and given.element_size() == 1:
            raise ValueError(f"{path} is quantised ({name} is {given.dtype}); take the weights from before that.")
    vit.load_state_dict(state)


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _advice(state: dict[str, Tensor]) -> str:
    """Say where a file comes from whose names are not timm's."""
    if any("patch_embeddings.projection" in name for name in state):
        return "it is of transformers, so pass its folder as --model local-dir:FOLDER, or see models.from_transformers"
    if "conv_proj.weight" in state:
        return "it is of torchvision, so see models.from_torchvision"
    return "for a ViT with options of its own write a folder with timm.models.save_for_hf, and pass --model local-dir:FOLDER"
