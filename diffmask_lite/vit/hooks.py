"""Read what a ViT computes, and replace its patch embedding, by forward hooks that come off again.

Shapes are written as in `diffmask_lite.vit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from .anatomy import UnfitViT
from .hold import attached, change, guest, hold, walk
from .inputs import require_images


@contextmanager
def observe(model: nn.Module, callback: Callable[[int, Tensor], None], prefix_too: bool = False) -> Iterator[None]:
    """Call `callback(i, h_i)` for every hidden state of each forward pass, patches only: h_i is (B, N, D).

    h_0 is the patch embedding before positions are added, h_1 … h_L are the inputs of the blocks, h_{L+1} is the output of
    the last. Nothing is kept: a callback that only computes from h_i lets it go at once.
    prefix_too: leave the prefix tokens in front of the patches, (B, P + N, D); h_0 has none yet.
    """
    prefix, blocks = 0 if prefix_too else model.num_prefix_tokens, model.blocks

    def embedded(_module, _args, out):
        callback(0, out.flatten(1, -2))  # (B, N, D) or (B, h, w, D) -> (B, N, D)

    def entered(i, _module, args):
        callback(i, args[0][:, prefix:])

    def left(_module, _args, out):
        callback(len(blocks) + 1, out[:, prefix:])

    hooks = [(model.patch_embed.register_forward_hook, embedded)]
    hooks += [(block.register_forward_pre_hook, partial(entered, i)) for i, block in enumerate(blocks, start=1)]
    with attached(model, [*hooks, (blocks[-1].register_forward_hook, left)]):
        yield


def hidden_states(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return [h_0, …, h_{L+1}], each (B, N, D), of one forward pass on images (B, C, H, W); see `observe`."""
    require_images(model, images)
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

    def passed(i, _module, args):
        maps, heads = args[0], model.blocks[i].attn.num_heads
        if maps.shape[1] != heads:  # differential attention: half of the maps are subtracted after this
            raise UnfitViT(
                f"{type(model).__name__} has no attention maps to read: block {i} combines {maps.shape[1]} of them into those "
                f"of its {heads} heads."
            )
        callback(i, maps)

    hooks = [(place.register_forward_pre_hook, partial(passed, i)) for i, place in enumerate(attention_places(model))]
    with explicit_attention(model), attached(model, hooks):
        yield


def attention_maps(model: nn.Module, images: Tensor) -> Tensor:
    """Return the attention of every block, (B, L, heads, P + N, P + N); each row sums to 1. See `observe_attention`."""
    require_images(model, images)
    maps: list[Tensor] = []
    with guest(model), observe_attention(model, lambda _i, attention: maps.append(attention)):
        model(images)
    return torch.stack(maps, dim=1)


@contextmanager
def replace_embedding(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the patch embedding h_0 (B, N, D), before positions, by `change(h_0)` in every forward pass."""

    def embedded(_module, _args, out):
        return change(out.flatten(1, -2)).view_as(out)

    with attached(model, [(model.patch_embed.register_forward_hook, embedded)]):
        yield


@contextmanager
def explicit_attention(model: nn.Module) -> Iterator[None]:
    """Switch timm's fused attention off inside the context, block by block, and back to what it was after it.

    Fused attention never forms the attention maps. On a CPU its backward pass is slow, too (`experiments/fused_attention.py`).
    """
    with hold(model), ExitStack() as stack:
        for part in walk(model):
            if vars(part).get("fused_attn"):
                change(stack, part, "fused_attn", False)
        yield


def attention_places(model: nn.Module) -> list[nn.Module]:
    """Return the module of each block through which its attention maps pass, or raise `UnfitViT`."""
    places = []
    for i, block in enumerate(model.blocks):
        attention = getattr(block, "attn", None)
        if not isinstance(getattr(attention, "attn_drop", None), nn.Module) or not hasattr(attention, "fused_attn"):
            raise UnfitViT(f"{type(model).__name__} has no attention maps to read: block {i} has no `attn.attn_drop`.")
        places.append(attention.attn_drop)
    return places
