"""Does a model fit, and what are its sizes? One probe forward pass answers both.

Shapes are written B (batch), N (patches), D (width), L (blocks) and P (prefix tokens: class, distillation, registers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from .hold import attached, guest, walk


class UnfitViT(ValueError):
    """The model is not a ViT whose patches can be followed from `patch_embed` through every block."""


@dataclass(frozen=True)
class Anatomy:
    """What one probe forward showed of a ViT."""

    channels: int
    size: tuple[int, int]  # H, W of the images it takes, in pixels
    grid: tuple[int, int]  # h, w of its patch grid
    prefix: int  # P: tokens in front of the patches
    width: int  # D
    depth: int  # L
    classes: int
    patch: tuple[int, int]  # pixels of one patch; patches start at the top left, and pixels beyond h or w of them are not seen
    class_tokens: int  # how many prefix tokens the head reads; 0 where it pools the patches
    multilabel: bool = False  # whether each logit is of a label on its own, present or absent; see `vit.head`

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def states(self) -> int:
        """Number of hidden states: h_0 (patch embedding), h_1 … h_L (block inputs), h_{L+1} (last output)."""
        return self.depth + 2


PROBLEMS = {None: False, "single_label_classification": False, "multi_label_classification": True}  # Hugging Face's words
_known: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Anatomy]] = WeakKeyDictionary()


def anatomy(model: nn.Module, refresh: bool = False) -> Anatomy:
    """Probe a ViT with one forward pass and return its sizes.

    The answer is remembered until the ViT gets another head, image size or list of blocks; pass `refresh=True` after any other
    surgery. Raises `UnfitViT` with the reason where the model does not fit: patches must come out of `patch_embed` as
    (B, N, D) or (B, h, w, D), every block of `blocks` must take (B, P + N, D) with P = `num_prefix_tokens`, and the head must
    have at least two classes.

    A head is taken to predict one class. Of a multi-label ViT, whose head was trained with a sigmoid for each label, say so:
    `vit.pretrained_cfg["problem_type"] = "multi_label_classification"`. "regression" is refused.
    """
    if not isinstance(model, nn.Module):
        raise _unfit(model, "it is not a torch module")
    # Not remembered: compiling in place can come later, and hooks then stop firing without an error.
    if any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in walk(model)):
        raise _unfit(model, "it is compiled, and hooks do not fire in compiled code (pass the model from before torch.compile)")
    state = _state(model)
    if refresh or model not in _known or _known[model][0] != state:
        _known[model] = state, _probe(model)
    return _known[model][1]


def _state(model: nn.Module) -> tuple[Any, ...]:
    """Return what timm's `set_input_size` and `reset_classifier` change, and what people replace by hand."""
    embed, blocks = getattr(model, "patch_embed", None), getattr(model, "blocks", ())
    parts = (ref(part) for part in (embed, blocks, getattr(model, "head", None)) if isinstance(part, nn.Module))
    flags = (getattr(embed, "img_size", None), getattr(model, "global_pool", None), _problem(model))
    return *parts, *flags, len(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else 0


def _problem(model: nn.Module) -> str | None:
    return (getattr(model, "pretrained_cfg", None) or {}).get("problem_type")


def _unfit(model: object, reason: str) -> UnfitViT:
    name = type(model).__name__
    return UnfitViT(f"{name} does not fit: {reason}; pass a plain timm ViT such as vit_tiny_patch16_224.")


def _probe(model: nn.Module) -> Anatomy:
    def unfit(reason: str) -> UnfitViT:
        return _unfit(model, reason)

    if hasattr(model, "module"):
        raise unfit("it is a wrapper (pass the ViT inside it, its `.module`)")
    if small := [m for m in walk(model) if ".quantized" in type(m).__module__]:
        raise unfit(f"it is quantised to int8 (a {type(small[0]).__name__} of torch.ao), so it has no gradients")
    embed, blocks = getattr(model, "patch_embed", None), getattr(model, "blocks", None)
    if not isinstance(embed, nn.Module) or not isinstance(blocks, nn.Sequential | nn.ModuleList):
        raise unfit("it has no `patch_embed` followed by a list of `blocks`")
    prefix, problem = getattr(model, "num_prefix_tokens", None), _problem(model)
    if prefix is None:
        raise unfit("it does not say how many prefix tokens it has (`num_prefix_tokens`)")
    if problem not in PROBLEMS:
        raise unfit(f'its pretrained_cfg["problem_type"] is {problem!r}, and a head must predict one class or several labels')

    cfg = getattr(model, "pretrained_cfg", None) or {}
    size = getattr(embed, "img_size", None) or cfg.get("input_size", (3, 224, 224))[1:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    # The first convolution sees the pixels; in a hybrid ViT that is not `proj`, but the stem of a CNN.
    channels = next((m.in_channels for m in embed.modules() if isinstance(m, nn.Conv2d)), cfg.get("input_size", (3,))[0])
    weight = next(model.parameters())
    image = torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(0)).to(weight)

    seen: dict[str, tuple[int, ...]] = {}
    hooks = [(embed.register_forward_hook, lambda _m, _a, out: _note(seen, "embed", out))]
    for i, block in enumerate(blocks):
        hooks.append((block.register_forward_pre_hook, lambda _m, a, i=i: _note(seen, f"block {i}", *a[:1])))
    hooks.append((blocks[-1].register_forward_hook, lambda _m, _a, out: _note(seen, "last", out)))
    with guest(model), torch.no_grad(), attached(model, hooks):
        try:
            logits = model(image)
        except Exception as error:
            raise unfit(f"one forward pass on a {channels} × {size[0]} × {size[1]} image failed ({error})") from error

    shape = seen.get("embed")
    if shape is None or len(shape) not in (3, 4) or shape[0] != 1:
        raise unfit(f"`patch_embed` gave {_words(shape)}, not (B, N, D) or (B, h, w, D)")
    grid = shape[1:3] if len(shape) == 4 else tuple(getattr(embed, "grid_size", None) or ())
    width, patches = shape[-1], torch.Size(shape[1:-1]).numel()
    if len(grid) != 2 or grid[0] * grid[1] != patches:
        raise unfit(f"its {patches} patches do not lie on the grid {grid} that `patch_embed.grid_size` gives")
    expected = (1, prefix + patches, width)
    for place in [f"block {i}" for i in range(len(blocks))] + ["last"]:
        if seen.get(place) != expected:
            where = "the last block gave" if place == "last" else f"{place} takes"
            raise unfit(f"{where} {_words(seen.get(place))}, not {expected} (prefix tokens + patches)")
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise unfit("it does not return logits of shape (B, classes)")
    classes, multilabel = logits.shape[1], PROBLEMS[problem]
    if isinstance(getattr(model, "head", None), nn.Identity | None) and classes != getattr(model, "num_classes", 0):
        classes = 0  # these are features
    if classes == 1 and not multilabel:
        raise UnfitViT(
            f"{type(model).__name__} has a head of one logit, and a class distribution needs two; models.two_class(vit) gives "
            "a ViT with the logits [0, x], for which softmax says what the sigmoid of x does."
        )
    if classes == 0:
        raise unfit("its head has 0 outputs, and a class distribution needs at least two")
    if hasattr(embed, "feat_ratio"):
        patch = embed.feat_ratio(as_scalar=False)
    else:
        patch = (size[0] // grid[0], size[1] // grid[1])
    class_tokens = 0
    if prefix and getattr(model, "global_pool", "token") == "token":
        class_tokens = 2 if hasattr(model, "head_dist") else 1  # a distilled ViT has a second token with a head of its own
    return Anatomy(channels, size, tuple(grid), prefix, width, len(blocks), classes, tuple(patch), class_tokens, multilabel)


def _note(seen: dict[str, tuple[int, ...]], key: str, value: object = None) -> None:
    seen[key] = tuple(value.shape) if isinstance(value, Tensor) else ()


def _words(shape: tuple[int, ...] | None) -> str:
    return "nothing (its hook never fired)" if shape is None else "no tensor" if shape == () else f"the shape {shape}"
