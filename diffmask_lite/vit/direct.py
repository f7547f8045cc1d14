"""What attention carries from each patch to the class, read off one forward pass, without a gradient.

A ViT's tokens are sums: of the embedding, and of what each attention and each MLP adds. The head reads some of them, through a
last norm that is linear once its scale is known. So, at that scale, the log-odds of a class are a sum of terms, one for each
block, head and patch, and of terms of the MLPs and the embedding: direct logit attribution (Elhage et al., "A Mathematical
Framework for Transformer Circuits", 2021; for ViTs Gandelsman, Efros and Steinhardt, "Interpreting CLIP's Image Representation
via Text-Based Decomposition", ICLR 2024, arXiv 2310.05916). Attention also carries what a patch tells another patch, which a
later block carries on; with the attention and the norms' scales as they are, these paths are linear too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from timm.layers import RmsNorm
from timm.models import beit, eva, vision_transformer
from torch import Tensor, nn
from torch.nn import functional as F

from .anatomy import UnfitViT, anatomy
from .hold import attached
from .hooks import observe_attention

BLOCKS = (vision_transformer.Block, eva.EvaBlock, beit.Block)  # what attention gives is added to the tokens as it is


@contextmanager
def observe_carried(model: nn.Module, last: int | None = None) -> Iterator[Carried]:
    """Collect in the next forward pass what attention carries; ask `Carried` for it once the logits are known.

    last: collect only the last so many blocks. Raises `UnfitViT` for a ViT whose blocks or head are not sums of this kind.
    """
    found = Carried(model, last)

    def keep_input(held: dict[int, Tensor], i: int, _module, args):
        held[i] = args[0]

    def keep_output(i: int, _module, _args, out):
        found.projected[i] = out

    hooks: list[tuple] = [(model.blocks[-1].register_forward_hook, lambda _m, _a, out: found.left(out))]
    for i in found.collected:
        block, attn = model.blocks[i], model.blocks[i].attn
        hooks.append((block.register_forward_pre_hook, partial(keep_input, found.tokens, i)))
        hooks.append((attn.register_forward_pre_hook, partial(keep_input, found.inputs, i)))
        if isinstance(getattr(attn, "qkv", None), nn.Module):  # some families call its weight instead
            hooks.append((attn.qkv.register_forward_hook, partial(keep_output, i)))
        if not _is_identity(getattr(attn, "norm", None)):
            hooks.append((attn.norm.register_forward_pre_hook, partial(keep_input, found.inner, i)))
    with observe_attention(model, found.attended), attached(model, hooks):
        yield found


class Carried:
    """What a forward pass leaves of its attention: of each collected block the maps, the values and the tokens before it."""

    def __init__(self, model: nn.Module, last: int | None = None):
        if odd := [block for block in model.blocks if not isinstance(block, BLOCKS)]:
            name = type(odd[0]).__name__
            raise UnfitViT(f"{type(model).__name__} has no direct terms: a {name} does more than add to the tokens.")
        if any(getattr(block.attn, "num_kv_heads", None) not in (None, block.attn.num_heads) for block in model.blocks):
            raise UnfitViT(f"{type(model).__name__} has no direct terms: its heads share their values.")
        self.model, self.shape = model, anatomy(model)
        if not isinstance(model.head, nn.Linear):
            raise UnfitViT(f"{type(model).__name__} has no direct terms: its head is not one linear layer.")
        if model.head.in_features != self.shape.width:
            raise UnfitViT(f"{type(model).__name__} has no direct terms: its head reads tokens of two kinds side by side.")
        pool, prefix_too = getattr(model, "global_pool", None), getattr(model, "pool_include_prefix", False)
        if not self.shape.class_tokens and (pool != "avg" or prefix_too):
            raise UnfitViT(f'Direct terms are known for heads that pool by "token" or "avg", and this one pools by {pool!r}.')
        # The tokens that the head reads: the class token, both such tokens of a distilled ViT, or all patches.
        self.read = slice(self.shape.class_tokens) if self.shape.class_tokens else slice(self.shape.prefix, None)
        depth = self.shape.depth
        self.collected = range(depth - min(last or depth, depth), depth)
        self.tokens: dict[int, Tensor] = {}
        self.inputs: dict[int, Tensor] = {}
        self.projected: dict[int, Tensor] = {}
        self.inner: dict[int, Tensor] = {}
        self.blocks: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def attended(self, i: int, maps: Tensor) -> None:
        """Keep block i's attention and values."""
        if i not in self.collected:
            return
        attn, x, qkv = self.model.blocks[i].attn, self.inputs.pop(i), self.projected.pop(i, None)
        value = _values(attn, x) if qkv is None else qkv[..., -attn.proj.in_features :]
        gate = getattr(attn, "gate", None)
        self.blocks[i] = maps, _heads(value, maps.shape[1]), None if gate is None else gate(x).sigmoid()

    def left(self, tokens: Tensor) -> None:
        self.last = tokens[:, self.read]

    def terms(self, wanted: Tensor) -> Tensor:
        """Return the direct terms S_lhj = Σ_i a_ij (W_O v_j) · u_i, (B, L, heads, P + N), for i over the tokens that are read.

        wanted: (B, classes), the slope along each logit, by `head.log_odds_slope`. a_ij is the attention of block l and
        head h that token i pays to token j, v_j the value of j, W_O the head's part of the output projection, u_i the direction
        of token i along which the sum over classes of wanted · logit rises.
        """
        towards, found = self.directions(wanted), []
        for i in self.collected:
            maps, value, _ = self.blocks[i]
            back = self._through_output(i, towards, self.read)
            found.append(((maps[:, :, self.read].transpose(-1, -2) @ back) * value).sum(-1))
        return torch.stack(found, 1)

    def paths(self, wanted: Tensor) -> Tensor:
        """Return what each collected block carries of each token towards the class, (B, blocks, P + N), later blocks included.

        S_lj = Σ_h Σ_i a_ij (v_j − Σ_k a_ik v_k) · W_O u_li: what the log-odds lose, to first order, if token j is dropped from
        block l, whose attention then goes to the others. For the last block u_li is the direction of `terms`; for those
        before, it is what later blocks' attention makes of token i, whose maps and norms' scales stay as they are. MLPs are
        passed by. Without MLPs and in ViTs without norms this is `gradient_drop` with its attention held fixed.
        """
        towards = wanted.new_zeros(len(wanted), self.shape.prefix + self.shape.patches, self.shape.width)
        towards[:, self.read] = self.directions(wanted).to(towards.dtype)
        found, rows = [], self.read  # at first nothing but what the head reads has a direction
        for i in reversed(self.collected):
            maps, value, _ = self.blocks[i]
            block, looked = self.model.blocks[i], maps[:, :, rows]
            back = self._through_output(i, towards[:, rows], rows)  # (B, heads, rows, d)
            each = looked.transpose(-1, -2) @ back  # (B, heads, P + N, d)
            lost = ((looked @ value) * back).sum(-1, keepdim=True)  # what the others would carry instead
            found.append(((each * value).sum(-1) - (looked.transpose(-1, -2) @ lost).squeeze(-1)).sum(1))
            if i > self.collected[0]:
                before = each.transpose(1, 2).flatten(2) @ _value_weight(block.attn)
                towards = towards + _through_norm(block.norm1, self.tokens[i], before)
                rows = slice(None)
        return torch.stack(found[::-1], 1)

    def directions(self, wanted: Tensor) -> Tensor:
        """Return u_i for the tokens that the head reads, (B, read, D), the scale of the last norm held fixed."""
        model, tokens = self.model, self.last
        if self.shape.class_tokens:
            heads = [model.head, getattr(model, "head_dist", None)][: self.shape.class_tokens]
            read = torch.stack([wanted @ head.weight for head in heads], 1) / len(heads)
            return _through_norm(model.norm, tokens, _through_norm(model.fc_norm, model.norm(tokens), read))
        pooled = model.norm(tokens).mean(1)
        read = _through_norm(model.fc_norm, pooled, wanted @ model.head.weight)[:, None] / self.shape.patches
        return _through_norm(model.norm, tokens, read.expand_as(tokens))

    def _through_output(self, i: int, towards: Tensor, rows: slice) -> Tensor:
        """Return the direction of each head's output in block i, (B, heads, rows, d), from that of its tokens (B, rows, D)."""
        block, (maps, _, gate) = self.model.blocks[i], self.blocks[i]
        scale = getattr(block, "gamma_1", None)  # LayerScale of Eva and Beit
        scale = getattr(getattr(block, "ls1", None), "gamma", None) if scale is None else scale
        back = (towards if scale is None else towards * scale) @ block.attn.proj.weight
        back = back if gate is None else back * gate[:, rows]
        if i in self.inner:
            back = _through_norm(block.attn.norm, self.inner[i][:, rows], back)
        return _heads(back, maps.shape[1])


def class_direction(model: nn.Module, wanted: Tensor) -> Tensor:
    """Return where the head wants what it reads to go, (B, D), of mean square 1; wanted: (B, classes)."""
    weight = model.head.weight.detach().to(wanted.dtype)
    return F.normalize(wanted @ weight, dim=-1) * weight.shape[1] ** 0.5


def _is_identity(norm: nn.Module | None) -> bool:
    return norm is None or isinstance(norm, nn.Identity)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, n, heads · d) -> (B, heads, n, d)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _value_weight(attn: nn.Module) -> Tensor:
    return attn.qkv.weight[-attn.proj.in_features :] if getattr(attn, "v_proj", None) is None else attn.v_proj.weight


def _values(attn: nn.Module, x: Tensor) -> Tensor:
    """Return the values of an attention's input, (B, P + N, heads · d)."""
    if getattr(attn, "v_proj", None) is not None:
        return attn.v_proj(x)
    bias = getattr(attn, "v_bias", None) if attn.qkv.bias is None else attn.qkv.bias[-attn.proj.in_features :]
    return F.linear(x, _value_weight(attn), bias)


def _through_norm(norm: nn.Module, x: Tensor, direction: Tensor) -> Tensor:
    """Return the direction before a norm that becomes `direction` after it, the scale of x held fixed; both (…, D)."""
    if _is_identity(norm):
        return direction
    scaled = direction if norm.weight is None else direction * norm.weight
    if isinstance(norm, nn.LayerNorm):
        spread = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return (scaled - scaled.mean(-1, keepdim=True)) / spread
    if isinstance(norm, RmsNorm):
        return scaled / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    raise UnfitViT(f"How to see through a {type(norm).__name__} is not known; direct terms need LayerNorm or RmsNorm.")
