"""timm's ViTs by name: with the hub's weights, with those of a file, or without any; and what their classes are called."""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import getproxies

import timm
import timm.data
from huggingface_hub import constants as hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .checks import reason


def make_vit(
    model: str, body: dict[str, Any], pretrained: bool = False, weights_file: str | os.PathLike | None = None
) -> nn.Module:
    """Return a timm model in eval mode, of the sizes in `body` (the entry of a file of gates; {} for its own).

    Raises `ValueError` or `FileNotFoundError`, one sentence, where timm or the weights file does not give it.
    """
    if pretrained and weights_file:
        raise ValueError("The ViT's weights can come from --pretrained or from --weights, not from both.")
    vit = _timm_model(model, body, pretrained)
    if weights_file:
        _load_weights(vit, weights_file, model)
    return vit.eval()


def _timm_model(model: str, body: dict[str, Any], pretrained: bool) -> nn.Module:
    if ":" not in model and not timm.is_model(model.split(".")[0]):  # a colon: "hf-hub:…" or "local-dir:…"
        near = difflib.get_close_matches(model, timm.list_models(), n=1)
        raise ValueError(f"timm has no model {model!r}" + (f"; the nearest name is {near[0]!r}." if near else "."))
    cfg = None if ":" in model else timm.get_pretrained_cfg(model)
    options = {}
    if body.get("size") and (cfg is None or tuple(body["size"]) != tuple(cfg.input_size[1:])):
        options["img_size"] = tuple(body["size"])
    if body.get("channels", 3) != 3:
        options["in_chans"] = body["channels"]
    if body.get("classes") and not pretrained:  # timm would put a new, untrained head on pretrained weights
        options["num_classes"] = body["classes"]
    try:
        with _no_waiting(pretrained):
            return timm.create_model(model, pretrained=pretrained, **options)
    except Exception as error:  # timm's models and its hub client raise whatever they meet
        raise ValueError(f"timm could not make {model} ({reason(error)}).") from error


@contextmanager
def _no_waiting(asking: bool) -> Iterator[None]:
    """Ask the hub's cache alone where the hub cannot be reached: its client would retry for most of a minute."""
    before = hub.HF_HUB_OFFLINE
    if asking and not before and not getproxies():  # behind a proxy, a direct connection says nothing
        try:
            socket.create_connection(("huggingface.co", 443), timeout=5).close()
        except OSError:
            hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _load_weights(vit: nn.Module, path: str | os.PathLike, model: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        vit.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({reason(error)}); write one with safetensors.torch.save_file, since "
            "nothing is ever unpickled here."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of {model} with the head that the gates are for.") from error


def class_names(vit: nn.Module) -> Sequence[str]:
    """Return a word for each class: ImageNet's where timm knows the subset by its number of classes, else "class 0", …"""
    subset = timm.data.infer_imagenet_subset(vit)
    return timm.data.ImageNetInfo(subset).label_descriptions() if subset else [f"class {i}" for i in range(vit.num_classes)]
