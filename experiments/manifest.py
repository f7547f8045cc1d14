"""Enter what was trained into the manifest of `data/`, and write ViTs as they ship."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from diffmask_lite import weights
from diffmask_lite.vit.storage import save_tensors, write
from tables import locked


def save_vit(vit: nn.Module, path: Path, name: str) -> None:
    """Write a ViT's weights in half precision: half the size, and a relative error of at most 2⁻¹¹ in each."""
    save_tensors(path, {key: value.to(torch.float16) for key, value in vit.state_dict().items()}, {"kind": "vit", "name": name})


def register(path: Path, command: str, seed: int, arithmetic: str, scores: dict[str, float | str]) -> None:
    """Enter a weights file into the manifest of its folder; arithmetic: the dtype in which the ViT ran."""
    entry = {
        "sha256": weights.sha256(path), "bytes": path.stat().st_size, "command": command, "seed": seed,
        "arithmetic": arithmetic, "scores": scores,
    }  # fmt: skip
    manifest = path.parent / "manifest.json"
    with locked(manifest):  # several trainings may end at once
        listed = (weights.manifest(path.parent) if manifest.is_file() else {}) | {path.name: entry}
        write(manifest, json.dumps(dict(sorted(listed.items())), indent=2, ensure_ascii=False) + "\n")


def command(script: str, options: argparse.Namespace, keys: tuple[str, ...], switches: tuple[str, ...] = ()) -> str:
    """Return what to type to make the same again; without the folders, which differ from machine to machine."""
    words = [f"python experiments/{script}", options.name]
    for key in keys:
        value = getattr(options, key)
        if value is not None:
            parts = [getattr(part, "name", str(part)) for part in (value if isinstance(value, list) else [value])]
            words += [f"--{key}", *(f'"{part}"' if " " in part else part for part in parts)]
    return " ".join(words + [f"--{key}" for key in switches if getattr(options, key)])


def rounded(scores: dict[str, float | int | str]) -> dict[str, float | int | str]:
    """Return scores as the manifest holds them."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in scores.items()}
