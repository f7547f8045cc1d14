"""Tensors in files: written in one step, read without unpickling; and a fingerprint that tells one ViT from another."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file to write that takes the place of `path` in one step at the end, or never: a kill leaves the old file.

    An `OSError`, of a full disk say, names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        os.replace(partial, path)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file in one step, text as UTF-8; see `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON-able `meta` to one safetensors file, with a checksum of both, in a single atomic step."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    meta = {"checksum": checksum(tensors, json.dumps(meta)), **meta}
    blob = save(tensors, metadata={"meta": json.dumps(meta)})  # one entry: safetensors writes several in any order
    write(path, blob)


def load_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote. Safetensors hold numbers only, so nothing is ever unpickled.

    Raises `FileNotFoundError` where there is no file, `ValueError` where it is not a whole and unaltered file of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("meta")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); it may be truncated or a pickle, which is never loaded here."
        ) from error
    try:
        meta = json.loads(written or "")
        found = meta.pop("checksum")
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):  # no JSON, no dictionary, too deep
        raise ValueError(f"{path} was not written by this version of diffmask_lite; make it again.") from None
    if found != checksum(tensors, json.dumps(meta)):
        raise ValueError(f"{path} is damaged: what it holds does not have the checksum that it was saved with; make it again.")
    return tensors, meta


def checksum(tensors: Mapping[str, Tensor], words: str = "", dtype: torch.dtype | None = None) -> str:
    """Return a hash of the names, kinds, shapes and numbers of tensors, and of words; dtype: with floats rounded to it."""
    digest = hashlib.blake2b(words.encode(), digest_size=8)
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        tensor = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(vit: nn.Module) -> str:
    """Return two short hashes of all weights of a ViT, rounded to float16 and to bfloat16; see `same_weights`."""
    state = vit.state_dict()
    return "-".join(checksum(state, dtype=dtype) for dtype in (torch.float16, torch.bfloat16))


def same_weights(one: str, other: str) -> bool:
    """Return whether two fingerprints are of the same weights, whatever precision each ViT holds them in.

    They are if either half agrees. A float32 ViT shares the float16 half with its `.half()` and the bfloat16 half with its
    `.bfloat16()`; those two share neither. A training step moves some of a ViT's many weights beyond the rounding of either.
    """
    return any(a == b for a, b in zip(one.split("-"), other.split("-"), strict=False))
