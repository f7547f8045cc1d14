"""Take patches away inside a ViT by dropping their tokens: sharply, which saves work, or by degrees, which has a gradient.

Both agree where every patch is either kept or gone, and one at least is kept (`tests/test_vit.py` compares them on every
family). Everything is done by hooks that come off again; shapes are written as in `vit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from weakref import WeakKeyDictionary

import torch
from timm.layers import AttentionPoolLatent
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .anatomy import Anatomy, UnfitViT, anatomy
from .hold import attached, guest
from .hooks import attention_places, explicit_attention


@contextmanager
def drop_tokens(model: nn.Module, index: Tensor) -> Iterator[None]:
    """Let only the patches `index` (B, n), ascending, into the blocks; positions stay with their patches.

    Prefix tokens are always kept. The forward gets shorter with n. Raises `UnfitViT` for families where nobody has shown
    that dropping is exact.
    """
    require_droppable(model)
    prefix = model.num_prefix_tokens
    front = torch.arange(prefix, device=index.device).expand(len(index), -1)
    tokens = torch.cat([front, index + prefix], dim=1)  # (B, P + n)

    def select(x: Tensor) -> Tensor:  # (B, P + N, D) -> (B, P + n, D)
        return x.gather(1, tokens[..., None].expand(-1, -1, x.shape[-1]))

    def enter(_module, args):
        return (select(args[0]), *args[1:])

    def hide(_module, args, kwargs):
        bias = args[0].new_full((len(tokens), args[0].shape[1]), float("-inf")).scatter(1, tokens, 0.0)
        shared = kwargs.get("shared_rel_pos_bias")
        bias = bias[:, None, None, :]  # (B, 1, 1, P + N): no query may look at a dropped key
        return args, {**kwargs, "shared_rel_pos_bias": bias if shared is None else shared + bias}

    hooks: list[tuple] = []
    if isinstance(model, Beit):
        # Its relative positions are a bias for the full grid, so dropped tokens are hidden from attention by −∞ and taken out
        # before pooling. The result is that of dropping, at full length.
        hooks = [(partial(block.register_forward_pre_hook, with_kwargs=True), hide) for block in model.blocks]
        hooks.append((model.blocks[-1].register_forward_hook, lambda _m, _a, out: select(out)))
    elif not isinstance(model, Eva):
        hooks = [(model.blocks[0].register_forward_pre_hook, enter)]
    with attached(model, hooks), ExitStack() as stack:
        if isinstance(model, Eva):
            # Rotary positions enter every block, so the kept indices must reach them: timm does that behind `patch_drop`.
            # An instance attribute hides the module of that name without touching it.
            if "patch_drop" in vars(model):
                stack.callback(vars(model).__setitem__, "patch_drop", vars(model)["patch_drop"])
            else:
                stack.callback(vars(model).pop, "patch_drop", None)
            vars(model)["patch_drop"] = lambda x: (select(x), index)
        yield


@contextmanager
def weigh_tokens(model: nn.Module, keep: Tensor) -> Iterator[None]:
    """Drop tokens by degrees: every attention to patch j is multiplied by keep_j, and each row scaled to sum 1 again.

    keep: (B, N) in [0, 1], with a gradient if you like. At 1 nothing changes; at 0 nobody sees the patch, which is what
    `drop_tokens` does, at full length. In between softmax(s)_j becomes softmax(s + log keep)_j. A head that pools patches
    weighs them alike. Raises `UnfitViT` for families whose attention or pooling cannot be reached.
    """
    require_droppable(model)
    _require_agreement(model)
    prefix, least = model.num_prefix_tokens, torch.finfo(keep.dtype).tiny
    weight = torch.cat([keep.new_ones(len(keep), prefix), keep], dim=1)  # (B, P + N): one for each key

    def weigh(_module, args):
        maps = args[0] * weight[:, None, None].to(args[0].dtype)
        return (maps / maps.sum(-1, keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny), *args[1:])

    def attend(_module, args, kwargs):  # the pool's attention adds its mask to the logits
        pooled = keep if args[0].shape[1] == keep.shape[1] else weight
        return args, {**kwargs, "attn_mask": pooled.clamp(min=least).log()[:, None, None].to(args[0].dtype)}

    def average(_module, _args, out):  # so that the plain mean over the patches that follows is the weighted one
        scale = keep / keep.mean(1, keepdim=True).clamp(min=least)
        return torch.cat([out[:, :prefix], out[:, prefix:] * scale[..., None].to(out.dtype)], dim=1)

    hooks = [(place.register_forward_pre_hook, weigh) for place in attention_places(model)]
    if isinstance(getattr(model, "attn_pool", None), AttentionPoolLatent):
        hooks.append((partial(model.attn_pool.register_forward_pre_hook, with_kwargs=True), attend))
    elif model.global_pool == "avg" and not getattr(model, "pool_include_prefix", False):
        hooks.append((model.norm.register_forward_hook, average))
    elif not anatomy(model).class_tokens:
        raise UnfitViT(
            f"{type(model).__name__} pools its tokens by {model.global_pool!r}, and how to drop them by degrees is known "
            'only for "token", "avg" and "map"; use a bool mask, or the mean patch as removal.'
        )
    with explicit_attention(model), attached(model, hooks):
        yield


_agreeing: WeakKeyDictionary[nn.Module, Anatomy] = WeakKeyDictionary()


def _require_agreement(model: nn.Module) -> None:
    """Drop three quarters of an image's patches sharply and by degrees, once a model: the two must be one.

    A subclass of a known family may read its tokens in another way, such as the class token beside the mean over all patches.
    """
    shape = anatomy(model)
    if _agreeing.get(model) is shape:
        return
    _agreeing[model] = shape  # now, since what follows comes here again
    weight, generator = next(model.parameters()), torch.Generator().manual_seed(0)
    image = torch.rand(1, shape.channels, *shape.size, generator=generator).to(weight)
    kept = torch.arange(0, shape.patches, 4, device=weight.device)[None]
    keep = torch.zeros(1, shape.patches, device=weight.device).scatter(1, kept, 1.0)
    with torch.no_grad(), guest(model), torch.autocast(weight.device.type, enabled=False):
        with drop_tokens(model, kept):
            sharp = model(image).float()
        with weigh_tokens(model, keep):
            soft = model(image).float()
    if (sharp - soft).abs().max() > (0.01 if weight.dtype == torch.float32 else 0.1) * sharp.abs().max():
        del _agreeing[model]
        raise UnfitViT(
            f"{type(model).__name__} reads its tokens in a way of its own: dropping them by degrees gives other logits than "
            "dropping them; use a bool mask, or the mean patch as removal and placeholder."
        )


def require_droppable(model: nn.Module) -> None:
    if not isinstance(model, VisionTransformer | Eva | Beit):
        raise UnfitViT(
            f'Removal "drop" is not available for {type(model).__name__}: dropping tokens is exact only in timm\'s '
            f'VisionTransformer, Eva and Beit classes; use removal="mean" or "noise".'
        )
