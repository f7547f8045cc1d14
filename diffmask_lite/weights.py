"""Our own trained ViTs and gates, which need no network.

`pretrained("grid")` gives a ViT and its explainer. Our files lie in `data/` as safetensors, beside a manifest that says for
each its hash, size, seed, arithmetic, measured scores and the command that makes it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from .datasets import CIFAR10
from .diffmask import DiffMask
from .vit.storage import load_tensors


def _plain(
    size: int, patch: int, width: int, depth: int, heads: int, mean: tuple, std: tuple, names: Sequence[str]
) -> dict[str, Any]:
    cfg = {"input_size": (3, size, size), "mean": mean, "std": std, "crop_pct": 1.0, "interpolation": "bicubic"}
    cfg["label_names"] = list(names)
    shape = {"img_size": size, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    return {"model_name": "vit_tiny_patch16_224", **shape, "num_classes": 10, "pretrained_cfg_overlay": cfg}


# Our ViTs, as arguments of `timm.create_model`; `experiments/train_vit.py` trains them. The last two differ in one thing: the
# first met missing patches in its training, and the second did not. The second does not ship.
_CIFAR10 = _plain(32, 4, width=160, depth=6, heads=5, mean=CIFAR10.mean, std=CIFAR10.std, names=CIFAR10.classes)
ARCHITECTURES = {
    "grid": _plain(48, 16, width=64, depth=4, heads=4, mean=(0.5,) * 3, std=(0.5,) * 3, names=[f"{n} blue" for n in range(10)]),
    "cifar10": _CIFAR10,
    "cifar10_whole": _CIFAR10,
}
NAMES = ("grid", "cifar10")  # those that ship
# Kinds of gates -> what their files are named. All learned the constraint: on photographs "diffmask" after an order of the
# patches, "plain" from scratch, and "published" from scratch with the settings of the authors' code.
KINDS = {"diffmask": "gates", "plain": "plain_gates", "published": "published_gates"}


# Our own files


def folder() -> Path:
    """Return where our files lie: inside an installed package, else `data/` of the repository."""
    packed = Path(__file__).parent / "_data"
    return packed if packed.is_dir() else Path(__file__).parents[1] / "data"


def pretrained(
    name: str, root: str | os.PathLike | None = None, *, kind: str = "diffmask", seed: int = 0
) -> tuple[nn.Module, DiffMask]:
    """Return (vit, explainer) of a name in `NAMES`, on the CPU and in eval mode.

    kind: which gates, one of `KINDS`; the grid has "diffmask" alone. seed: of their training; there are 0, 1 and 2 for
        CIFAR-10, and 0 for the grid.
    root: a folder with the files and a manifest, by default the one that comes with the package.
    Raises `FileNotFoundError` or `ValueError` naming the file and the command that makes it, where it is missing or altered.
    """
    if name not in NAMES:
        raise ValueError(f"There are no weights {name!r}; there are {', '.join(NAMES)}.")
    vit = load_vit(shipped(f"{name}_vit.safetensors", root), name)
    return vit, DiffMask.load(shipped(gates_file(name, kind, seed), root), vit).eval()


def gates_file(name: str, kind: str = "diffmask", seed: int = 0) -> str:
    """Return the name of a file of gates of a kind in `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"There are no gates of kind {kind!r}; there are {', '.join(KINDS)}.")
    return f"{name}_{KINDS[kind]}{f'_{seed}' if seed else ''}.safetensors"


def seeds_of(name: str, kind: str = "diffmask", root: str | os.PathLike | None = None) -> list[int]:
    """Return the seeds of which the manifest has gates, ascending."""
    found = (re.fullmatch(rf"{name}_{KINDS[kind]}(?:_(\d+))?\.safetensors", file) for file in manifest(root))
    return sorted(int(match[1] or 0) for match in found if match)


def load_vit(path: str | os.PathLike, name: str) -> nn.Module:
    """Return one of our ViTs, in eval mode, with the weights of a file that `experiments/train_vit.py` wrote."""
    tensors, meta = load_tensors(path)
    if meta.get("name") != name:
        raise ValueError(f"{path} holds a ViT for {meta.get('name')!r}, not for {name!r}.")
    vit = build(name)
    try:
        vit.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of the {name!r} ViT; make it again with train_vit.py.") from error
    return vit.eval()


def build(name: str) -> nn.Module:
    """Return one of our ViTs, a name in `ARCHITECTURES`, untrained, with its normalisation in `pretrained_cfg`."""
    if name not in ARCHITECTURES:
        raise ValueError(f"There is no ViT of ours named {name!r}; there are {', '.join(ARCHITECTURES)}.")
    return timm.create_model(**ARCHITECTURES[name])


def manifest(root: str | os.PathLike | None = None) -> dict[str, dict]:
    """Return the manifest: file name -> sha256, bytes, command, seed, arithmetic and measured scores."""
    path = Path(root or folder()) / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no manifest {path}; it belongs to the repository's data folder.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if all({"sha256", "command"} <= entry.keys() for entry in entries.values()):
            return entries
    except (ValueError, AttributeError, RecursionError):  # no JSON, a list where entries belong, too deep
        pass
    raise ValueError(f"{path} is not a whole manifest; fetch it again, or remove it and make the weights again.")


def shipped(file: str, root: str | os.PathLike | None = None) -> Path:
    """Return the path of one of our files, or raise as `pretrained` does where it is missing or altered."""
    root = Path(root or folder())
    entry = manifest(root).get(file)
    if entry is None:
        raise ValueError(f"{file} is not in the manifest {root / 'manifest.json'}.")
    path = root / file
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}; make it with `{entry['command']}`.")
    if sha256(path) != entry["sha256"]:
        raise ValueError(
            f"{path} is not the file in the manifest (its sha256 differs): it is truncated or altered; fetch it again, or "
            f"make it with `{entry['command']}`."
        )
    return path


def sha256(path: Path) -> str:
    """Return the hash of a file, as the manifest holds it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
