"""Small ViTs without weights, one for each family that fits, and what the tests ask of them all."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import timm
import torch
from torch import Tensor, nn

from diffmask_lite.vit import anatomy, predict

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}
CLASSES = 10


@dataclass(frozen=True)
class Family:
    """How to make a small model of a family, and what must be found in it."""

    architecture: str
    grid: tuple[int, int] = (4, 4)
    size: tuple[int, int] = (64, 64)
    prefix: int = 1
    options: dict = field(default_factory=dict)


FAMILIES = {
    "vit": Family("vit_tiny_patch16_224"),
    "distilled": Family("deit_tiny_distilled_patch16_224", prefix=2),
    "dinov2_registers": Family("vit_small_patch14_reg4_dinov2", size=(56, 56), prefix=5),
    "dinov3": Family("vit_small_patch16_dinov3", prefix=5),
    "siglip": Family("vit_base_patch16_siglip_224", prefix=0),
    "average_pooling": Family("vit_tiny_patch16_224", options={"global_pool": "avg"}),
    "no_class_token": Family("vit_tiny_patch16_224", prefix=0, options={"global_pool": "avg", "class_token": False}),
    "not_square": Family("vit_tiny_patch16_224", size=(48, 80), grid=(3, 5)),
    "dynamic_size": Family("vit_tiny_patch16_224", options={"dynamic_img_size": True}),
    "eva02": Family("eva02_tiny_patch14_224", size=(56, 56)),
    "mixed_rotary": Family("vit_small_patch16_rope_mixed_224"),
    "beit": Family("beit_base_patch16_224"),
    "beit_shared_bias": Family("beit_base_patch16_224", options={"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}),
    "beit_class_token": Family("beit_base_patch16_224", options={"global_pool": "token"}),
    "flexivit": Family("flexivit_small"),
    "clip": Family("vit_base_patch16_clip_224"),
    "deit3": Family("deit3_small_patch16_224"),
    "hybrid": Family("vit_tiny_r_s16_p8_224", grid=(2, 2)),
    "pixels_left_over": Family("vit_small_patch14_reg4_dinov2", prefix=5),  # 64 = 4 · 14 + 8
    "one_channel": Family("vit_tiny_patch16_224", options={"in_chans": 1}),
}
# Their heads read patches alone, so without any there is nothing to read.
POOLED = {
    "dinov3", "siglip", "average_pooling", "no_class_token", "eva02", "beit", "beit_shared_bias",
}  # fmt: skip
# What tests of slow formulas run on: a plain ViT whose grid is not square, two heads, rotary positions with registers,
# attention pooling, position biases, and patches that are pooled behind a class token.
REPRESENTATIVES = ("not_square", "distilled", "dinov3", "siglip", "beit", "average_pooling")


def build(name: str) -> nn.Module:
    """Make a new model of a family, lively enough that its logits depend on its patches.

    With timm's initial values a broken hook would go unnoticed: LayerScale is 1e-5, the head nearly 0, BEiT's position bias
    exactly 0. So LayerScale becomes 1, and everything else but the biases is drawn at the scale that keeps variance.
    Two models of a family have the same weights.
    """
    family = FAMILIES[name]
    size = {"img_size": family.size if family.size[0] != family.size[1] else family.size[0]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(family.architecture, num_classes=CLASSES, **size, **SMALL, **family.options)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith(("gamma", "gamma_1", "gamma_2")):
                weight.fill_(1)
            elif key.endswith(("pos_embed", "_token", "bias_table")):
                weight.normal_(0, 0.5, generator=draw)
            elif weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5, generator=draw)
    return model.eval()


@cache
def shared(name: str) -> nn.Module:
    """The model of a family that all tests read and none may change."""
    return build(name)


def odd(name: str) -> nn.Module:
    """A new model whose flags differ from module to module, with a hook and a gradient of its owner: a blanket reset shows."""
    model = build(name).train()
    model.blocks[1].eval()
    model.head.requires_grad_(False)
    model.blocks[0].attn.fused_attn = False
    model.blocks[2].register_forward_hook(lambda *_: None)
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    return model


def double(name: str) -> nn.Module:
    """A copy in double precision, for gradients by finite differences."""
    return copy.deepcopy(shared(name)).double()


def some_images(model: nn.Module, batch: int = 3, seed: int = 0) -> Tensor:
    shape = anatomy(model)
    pixels = (batch, shape.channels, *shape.size)
    return torch.randn(pixels, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()).dtype)


def some_keep(model: nn.Module, counts: list[int], seed: int = 0) -> Tensor:
    """A mask for each count, bool (len(counts), h, w), with that many patches kept."""
    shape = anatomy(model)
    rank = torch.rand(len(counts), shape.patches, generator=torch.Generator().manual_seed(seed)).argsort(1).argsort(1)
    return (rank < torch.tensor(counts)[:, None]).view(-1, *shape.grid)


def some_placeholder(model: nn.Module, per_patch: bool = False) -> Tensor:
    shape = anatomy(model)
    size = (shape.patches, shape.width) if per_patch else (shape.width,)
    return torch.randn(size, generator=torch.Generator().manual_seed(5)).to(next(model.parameters()).dtype)


# All ways to take patches away; `diffmask_lite.vit.inputs.REMOVALS` are only those that have a name.
WAYS = ("drop", "mean", "noise", "placeholder", "placeholder_per_patch")


def removal_of(model: nn.Module, name: str) -> str | Tensor:
    return some_placeholder(model, "per_patch" in name) if name.startswith("placeholder") else name


def assert_patches_can_be_taken_away(model: nn.Module, removal: str | Tensor) -> None:
    """Keeping all patches changes nothing; keeping none makes all images alike, and that is not what they were."""
    images = some_images(model)
    every = torch.ones(len(images), *anatomy(model).grid, dtype=torch.bool)
    with torch.no_grad():
        whole = model(images)
        kept, wiped = predict(model, images, every, removal), predict(model, images, ~every, removal)
    assert whole.isfinite().all() and wiped.isfinite().all()
    torch.testing.assert_close(kept, whole, rtol=0, atol=1e-4, msg="keeping all patches changed the logits")
    torch.testing.assert_close(wiped, wiped[:1].expand_as(wiped), rtol=0, atol=1e-4, msg="a wiped image still shows")
    moved = (wiped - whole).abs().amax(1)
    assert (moved > 0.1).all(), f"taking all patches away moved the logits by {moved.tolist()} only"


def _numbers(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _traces(model: nn.Module) -> dict[str, object]:
    """Everything that a visitor could change: flags, hooks and other attributes, modules, weights, buffers, gradients."""
    traces = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            entries = value.items() if isinstance(value, dict) else ()  # of hooks, weights, buffers, modules
            traces |= {f"{name}.{key}": value} | {f"{name}.{key}[{entry}]": held for entry, held in entries}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        traces |= {f"numbers of {name}": _numbers(tensor), f"requires_grad of {name}": tensor.requires_grad}
        traces[f"gradient of {name}"] = None if tensor.grad is None else _numbers(tensor.grad)
    return traces


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[nn.Module]:
    """Fail if anything on a model is not what it was before the context, also where an exception leaves it.

    Numbers must be equal, bit by bit; everything else must be the very same object.
    """
    before = _traces(model)
    try:
        yield model
    finally:
        after = _traces(model)
        assert before.keys() == after.keys(), f"came or went: {sorted(before.keys() ^ after.keys())}"
        changed = [
            name for name, was in before.items() if was is not after[name] and not (type(was) is bytes and was == after[name])
        ]
        assert not changed, f"changed: {changed}"


def assert_one_sentence(error: Exception) -> str:
    """Errors that a user meets are one sentence. Return it."""
    message = str(error)
    assert message.endswith(".") and "\n" not in message and ". " not in message, message
    return message
