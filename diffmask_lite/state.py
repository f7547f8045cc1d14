"""Reproducible state: seeded streams of random numbers, and checkpoints that survive a kill at any moment.

Every random number in a training run is a function of (seed, purpose, step), never of what was drawn before. So a resumed run
draws what the uninterrupted one would have drawn, and two processes can each compute their part of one global batch.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer


def stream(seed: int, *where: int | str) -> torch.Generator:
    """Return a CPU generator that depends on (seed, where) alone, for example `stream(0, "noise", step)`."""
    digest = hashlib.blake2b(repr((seed, *where)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def epoch_order(length: int, seed: int, start: int, count: int) -> list[int]:
    """Return dataset indices for positions start … start + count − 1 of an endless run of epochs, each freshly shuffled."""
    indices: list[int] = []
    while len(indices) < count:
        epoch, offset = divmod(start + len(indices), length)
        order = torch.randperm(length, generator=stream(seed, "order", epoch))
        indices += order[offset : offset + count - len(indices)].tolist()
    return indices


def save_state(path: str | os.PathLike, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON-able `meta` to one safetensors file, replacing an older one in a single atomic step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    blob = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata={"meta": json.dumps(meta)})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_state(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote. Safetensors hold numbers only, so nothing is ever unpickled.

    Raises `FileNotFoundError` where there is no file, `ValueError` where it is not a whole safetensors file of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            meta = (file.metadata() or {}).get("meta")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); it may be truncated or a pickle, which is never loaded here."
        ) from error
    try:
        return tensors, json.loads(meta or "")
    except json.JSONDecodeError:
        raise ValueError(
            f"{path} is a safetensors file, but diffmask_lite did not write it: it has no 'meta' entry of ours."
        ) from None


def check_same_run(path: str | os.PathLike, found: dict[str, Any] | None, wanted: dict[str, Any]) -> None:
    """Raise `ValueError`, naming what differs, unless the checkpoint at `path` was written by the run that wants to go on."""
    wanted = json.loads(json.dumps(wanted))  # as a checkpoint would hold it: lists for tuples
    if found is None or found.get("kind") != wanted["kind"]:
        raise ValueError(f"{path} is not a checkpoint of this kind of training; name another file.")
    for key, value in wanted.items():
        if found.get(key) != value:
            raise ValueError(
                f"The checkpoint {path} is of another run: {key} was {found.get(key)!r} and is now {value!r}; "
                "use the old setting, remove the file, or name another."
            )


def pack_optimizer(optimizer: Optimizer, prefix: str = "optimizer") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors and JSON, for `save_state`."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}.{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def unpack_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], meta: dict[str, Any], prefix: str = "optimizer") -> None:
    """Put back what `pack_optimizer` took out."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith(f"{prefix}."):
            index, key = name[len(prefix) + 1 :].split(".", 1)
            state.setdefault(int(index), {})[key] = value
    for name, value in meta["numbers"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": meta["groups"]})
