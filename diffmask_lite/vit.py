"""See inside any timm Vision Transformer, and ask it about an image with patches missing.

A ViT is a guest here: nothing in this module changes its weights or leaves a hook, a flag or an attribute on it, not even
after an exception. Everything is done through forward hooks, so the model's own code runs and no architecture is rewritten.

Shapes are written B (batch), N (patches), D (width), L (blocks), P (prefix tokens: class, distillation, registers),
h × w (patch grid, N = h·w) and C × H × W (pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .anatomy import Anatomy, UnfitViT, anatomy, guest
from .checks import check_images, check_keep
from .tokens import attention_places, check_droppable, drop_tokens, explicit_attention, weigh_tokens

__all__ = [
    "Anatomy", "UnfitViT", "anatomy", "attention_maps", "drop_tokens", "explicit_attention", "guest",
    "hidden_states", "observe", "observe_attention", "pixel_range", "predict", "replace_embedding", "to_pixels",
    "weigh_tokens",
]  # fmt: skip


@contextmanager
def observe(model: nn.Module, callback: Callable[[int, Tensor], None], prefix_too: bool = False) -> Iterator[None]:
    """Call `callback(i, h_i)` for every hidden state of each forward pass, patches only: h_i is (B, N, D).

    h_0 is the patch embedding before positions are added, h_1 … h_L are the inputs of the blocks, h_{L+1} is the output of
    the last. Nothing is kept: a callback that only computes from h_i lets it go at once.
    prefix_too: leave the prefix tokens in front of the patches, (B, P + N, D); h_0 has none yet.
    """
    prefix, blocks = 0 if prefix_too else model.num_prefix_tokens, model.blocks
    with ExitStack() as stack:

        def embedded(_module, _args, out):
            callback(0, out.flatten(1, -2))  # (B, N, D) or (B, h, w, D) -> (B, N, D)

        stack.callback(model.patch_embed.register_forward_hook(embedded).remove)
        for i, block in enumerate(blocks, start=1):

            def entered(_module, args, i=i):
                callback(i, args[0][:, prefix:])

            stack.callback(block.register_forward_pre_hook(entered).remove)

        def left(_module, _args, out):
            callback(len(blocks) + 1, out[:, prefix:])

        stack.callback(blocks[-1].register_forward_hook(left).remove)
        yield


def hidden_states(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return [h_0, …, h_{L+1}], each (B, N, D), of one forward pass on images (B, C, H, W); see `observe`."""
    check_images(images, anatomy(model), model)
    states: list[Tensor] = []
    with guest(model), observe(model, lambda _i, state: states.append(state)):
        model(images)
    return states


@contextmanager
def observe_attention(model: nn.Module, callback: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `callback(i, maps)` with the attention (B, heads, P + N, P + N) of block i, i = 0 … L − 1, after its softmax.

    Raises `UnfitViT` for a family whose blocks have no `attn.attn_drop`, the place where the maps pass, or, in the forward
    pass, one that combines several maps into a head's, as differential attention does.
    """
    with explicit_attention(model), ExitStack() as stack:
        for i, place in enumerate(attention_places(model)):

            def passed(_module, args, i=i, heads=model.blocks[i].attn.num_heads):
                if args[0].shape[1] != heads:  # differential attention: half of the maps are subtracted after this
                    raise UnfitViT(
                        f"{type(model).__name__} has no attention maps to read: block {i} combines {args[0].shape[1]} of them "
                        f"into those of its {heads} heads."
                    )
                callback(i, args[0])

            stack.callback(place.register_forward_pre_hook(passed).remove)
        yield


def attention_maps(model: nn.Module, images: Tensor) -> Tensor:
    """Return the attention of every block, (B, L, heads, P + N, P + N); each row sums to 1. See `observe_attention`."""
    check_images(images, anatomy(model), model)
    maps: list[Tensor] = []
    with guest(model), observe_attention(model, lambda _i, attention: maps.append(attention)):
        model(images)
    return torch.stack(maps, dim=1)


@contextmanager
def replace_embedding(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the patch embedding h_0 (B, N, D), before positions, by `change(h_0)` in every forward pass."""

    def embedded(_module, _args, out):
        return change(out.flatten(1, -2)).view_as(out)

    handle = model.patch_embed.register_forward_hook(embedded)
    try:
        yield
    finally:
        handle.remove()


def predict(
    model: nn.Module,
    images: Tensor,
    keep: Tensor | None = None,
    removal: str | Tensor = "drop",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the ViT's logits (B, classes) for images (B, C, H, W) of which only the patches in `keep` (B, h, w) are left.

    removal: what stands where a patch was taken away.
        "drop": nothing, its token is left out. With no patch left and no class token to read the head has no input; the
            prediction is then defined as uniform (all logits 0). Here `keep` may be a float in [0, 1] with a gradient, see
            `weigh_tokens`.
        "mean": pixels of value 0 after normalisation, that is the mean colour of the training data.
        "noise": one picture of uniform noise over the range of normalised pixels, the same for the whole batch, drawn
            from `generator` (on the CPU; by default seeded with 0).
        a tensor (D,) or (N, D): this embedding instead of the patch's, before positions; here, too, `keep` may be a float in
            [0, 1] with a gradient, and mixes the two: keep · h_0 + (1 − keep) · placeholder (VISION DIFFMASK, eq. 4).

    This is the one place in the package where patches are taken away. Raises `ValueError` on input that does not fit.
    """
    body = anatomy(model)
    check_images(images, body, model)
    if keep is None:
        with guest(model):
            return model(images)
    check_keep(keep, body, images, removal)
    with guest(model):
        if isinstance(removal, Tensor):
            z = keep.flatten(1)[..., None].to(images.dtype)  # (B, N, 1)
            placeholder = removal.to(images.dtype)
            with replace_embedding(model, lambda state: z * state + (1 - z) * placeholder):
                return model(images)
        if removal == "drop" and keep.is_floating_point():
            with weigh_tokens(model, keep.flatten(1)):
                return model(images)
        if removal == "drop":
            return _predict_dropped(model, images, keep.flatten(1))
        if removal == "mean":
            fill = images.new_zeros(())
        else:
            low, high = pixel_range(model)
            draw = torch.rand(images.shape[1:], generator=generator or torch.Generator().manual_seed(0))
            fill = (low + (high - low) * draw).to(images)
        return model(torch.where(to_pixels(keep, body.size, body.patch), images, fill))


def _predict_dropped(model: nn.Module, images: Tensor, keep: Tensor) -> Tensor:
    """Group a batch by how many patches each image keeps, since a batch needs one length; keep is (B, N)."""
    check_droppable(model)
    counts = keep.sum(1)
    logits, order = [], []
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().squeeze(1)
        if count == 0 and model.global_pool != "token":
            logits.append(images.new_zeros(len(rows), model.num_classes))  # nothing to pool: uniform by definition
        else:
            index = keep[rows].nonzero()[:, 1].view(len(rows), count)
            with drop_tokens(model, index):
                logits.append(model(images[rows]))
        order.append(rows)
    return torch.cat(logits)[torch.cat(order).argsort()]


def to_pixels(keep: Tensor, size: tuple[int, int], patch: tuple[int, int] | None = None) -> Tensor:
    """Spread keep (B, h, w) over the pixels it covers: (B, 1, H, W), bool.

    `patch` is the size of a patch in pixels, by default H // h × W // w. Pixels beyond the last whole patch belong to none,
    and stay (a 384 × 384 image has 27 × 27 patches of 14 × 14 pixels and 6 left over).
    """
    tall, wide = patch or (size[0] // keep.shape[1], size[1] // keep.shape[2])
    pixels = keep.bool().repeat_interleave(tall, dim=1).repeat_interleave(wide, dim=2)[:, None, : size[0], : size[1]]
    return F.pad(pixels, (0, size[1] - pixels.shape[3], 0, size[0] - pixels.shape[2]), value=True)


def pixel_range(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the values that black and white have after the ViT's own normalisation, each (C, 1, 1).

    They are (1, 1, 1), the mean over colours, where the ViT takes another number of channels than its normalisation has.
    Raises `ValueError` for a ViT without `pretrained_cfg`, that is one that `timm.create_model` did not make.
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if "mean" not in cfg or "std" not in cfg:
        raise ValueError('This ViT does not say how its pixels are normalised; set vit.pretrained_cfg["mean"] and ["std"].')
    mean, std = (torch.tensor(cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    if len(mean) != anatomy(model).channels:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return (0 - mean) / std, (1 - mean) / std
