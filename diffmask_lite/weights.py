"""Our own trained weights: `pretrained("grid")` gives a ViT and its explainer, without a network.

They lie in `data/` as safetensors, beside a manifest that says for each file its hash, size, seed, measured scores and the
command that makes it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import torch
from torch import nn

from . import classifier
from .diffmask import DiffMask
from .state import load_state, save_state

NAMES = tuple(classifier.RECIPES)


def folder() -> Path:
    """Return where the weights lie: inside an installed package, else `data/` of the repository."""
    packed = Path(__file__).parent / "_data"
    return packed if packed.is_dir() else Path(__file__).parents[1] / "data"


def pretrained(name: str, root: str | os.PathLike | None = None) -> tuple[nn.Module, DiffMask]:
    """Return (vit, explainer) trained on "grid" or "cifar10", on the CPU and in eval mode.

    root: a folder with the files and a manifest, by default the one that comes with the package.
    Raises `FileNotFoundError` or `ValueError` naming the file and the command that makes it, where it is missing or altered.
    """
    if name not in NAMES:
        raise ValueError(f"There are no weights {name!r}; there are {', '.join(NAMES)}.")
    vit = load_vit(checked(f"{name}_vit.safetensors", root), name)
    return vit, DiffMask.load(checked(f"{name}_gates.safetensors", root), vit).eval()


def gate_files(name: str, root: str | os.PathLike | None = None) -> list[Path]:
    """Return the files with the gates of every seed, checked: "NAME_gates.safetensors", "NAME_gates_1.safetensors", …"""
    found = {file: re.fullmatch(rf"{name}_gates(?:_(\d+))?\.safetensors", file) for file in manifest(root)}
    seeds = {file: int(match[1] or 0) for file, match in found.items() if match}
    return [checked(file, root) for file in sorted(seeds, key=seeds.get)]


def load_vit(path: str | os.PathLike, name: str) -> nn.Module:
    """Return the ViT of recipe `name` with the weights that `save_vit` wrote, or those of a `train-vit` checkpoint."""
    tensors, meta = load_state(path)
    found = meta.get("name") or meta.get("run", {}).get("name")
    if found != name:
        raise ValueError(f"{path} holds a ViT for {found!r}, not for {name!r}.")
    tensors = {key.removeprefix("model."): value for key, value in tensors.items() if not key.startswith("optimizer.")}
    vit = classifier.build(name)
    try:
        vit.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of the {name!r} ViT; make it again with train-vit.") from error
    return vit.eval()


def save_vit(vit: nn.Module, path: str | os.PathLike, name: str) -> None:
    """Write a ViT's weights in half precision: half the size, and a relative error of at most 2⁻¹¹ in each."""
    save_state(path, {key: value.to(torch.float16) for key, value in vit.state_dict().items()}, {"kind": "vit", "name": name})


def manifest(root: str | os.PathLike | None = None) -> dict[str, dict]:
    """Return the manifest: file name -> sha256, bytes, command, seed and measured scores."""
    path = Path(root or folder()) / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no manifest {path}; it belongs to the repository's data folder.")
    return json.loads(path.read_text(encoding="utf-8"))


def register(path: str | os.PathLike, command: str, seed: int, scores: dict[str, float | str]) -> None:
    """Enter a weights file into the manifest of its folder."""
    path = Path(path)
    listed = manifest(path.parent) if (path.parent / "manifest.json").is_file() else {}
    listed[path.name] = {
        "sha256": sha256(path), "bytes": path.stat().st_size, "command": command, "seed": seed, "scores": scores
    }  # fmt: skip
    text = json.dumps(dict(sorted(listed.items())), indent=2, ensure_ascii=False) + "\n"
    (path.parent / "manifest.json").write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the hash of a file, as the manifest holds it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked(file: str, root: str | os.PathLike | None = None) -> Path:
    """Return the path of a weights file, or raise as `pretrained` does where it is missing or altered."""
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
