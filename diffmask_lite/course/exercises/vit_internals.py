"""The checkers of the two notebooks that open a ViT: its block, its patches, its attention maps."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...vit import attention_maps
from .verdict import Wrong, checker, expect


@checker
def check_unpatchify(unpatchify: Callable[[Tensor, tuple[int, int]], Tensor]) -> None:
    """Check `unpatchify(patches, grid)`: patches (B, N, C, p, q), row by row → images (B, C, h·p, w·q)."""
    for (h, w), (p, q), channels in (((2, 2), (2, 2), 1), ((2, 3), (4, 4), 3), ((3, 2), (2, 5), 3)):
        images = torch.arange(2.0 * channels * h * p * w * q).view(2, channels, h * p, w * q)
        patches = [images[:, :, i : i + p, j : j + q] for i in range(0, h * p, p) for j in range(0, w * q, q)]
        found = unpatchify(torch.stack(patches, dim=1), (h, w))
        where = f"for a {h} × {w} grid of patches of {p} × {q} pixels"
        if isinstance(found, Tensor) and found.shape == images.shape and not torch.equal(found, images):
            raise Wrong(f"{where} {_misplaced(found, torch.stack(patches, dim=1), (h, w))}")
        expect(found, images, where)


def _misplaced(found: Tensor, patches: Tensor, grid: tuple[int, int]) -> str:
    (B, _, C, p, q), (h, w) = patches.shape, grid
    if sorted(found.flatten().tolist()) != sorted(patches.flatten().tolist()):
        return "other pixels come out than went in"
    places = "the right pixels stand in the wrong places: "
    if torch.equal(found, patches.reshape(B, w, h, C, p, q).permute(0, 3, 2, 4, 1, 5).reshape(found.shape)):
        return places + "the patches are laid out column by column, but they come row by row"
    if torch.equal(found, patches.reshape(found.shape)):
        return places + "a reshape alone keeps the order of the numbers, so `permute` the axes before it"
    return places + "after `permute`, h should stand right before p, and w right before q"


@checker
def check_block(by_hand: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Check `block_by_hand(block, x)`: timm's block and tokens (B, T, D) → what the block gives, (B, T, D)."""
    for index, options in ((0, {}), (1, {"embed_dim": 32, "num_heads": 2})):
        block = _small("vit_tiny_patch16_224", **options).blocks[index]
        x = torch.randn(2, 5, block.norm1.weight.numel(), generator=torch.Generator().manual_seed(0))
        for norm, shift in ((block.norm1, 0.4), (block.norm2, -0.4)):  # trained norms differ, and so must these
            nn.init.normal_(norm.weight, 1, 0.3, generator=torch.Generator().manual_seed(2))
            nn.init.constant_(norm.bias, shift)
        wanted = block(x)
        calls: list[object] = []
        handles = [module.register_forward_hook(lambda *_, seen=calls: seen.append(_)) for module in (block, block.attn)]
        try:
            found = by_hand(block, x)
        finally:
            for handle in handles:
                handle.remove()
        where = f"for {block.attn.num_heads} heads"
        if isinstance(found, Tensor) and found.shape == wanted.shape:
            for words, wrong in _spoilt_blocks(block, x):
                if _like(found, wrong):
                    raise Wrong(f"{where} {words}")
        _expect_close(found, wanted, where)
        if calls:
            raise Wrong("the numbers are right, but timm computed them: call neither `block(…)` nor `block.attn(…)`")


def _spoilt_blocks(block: nn.Module, x: Tensor) -> list[tuple[str, Tensor]]:
    def attend(tokens: Tensor, root: float | None = None, axis: int = -1, turned: bool = True, project: bool = True) -> Tensor:
        heads, (B, T, D) = block.attn.num_heads, tokens.shape
        q, k, v = block.attn.qkv(tokens).reshape(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (root or (D // heads) ** 0.5)
        mixed = scores.softmax(axis) @ v  # B × heads × T × d
        mixed = (mixed.transpose(1, 2) if turned else mixed).reshape(B, T, D)
        return block.attn.proj(mixed) if project else mixed

    def whole(attended: Tensor) -> Tensor:
        return x + attended + block.mlp(block.norm2(x + attended))

    seen = block.norm1(x)
    right = attend(seen)
    return [
        ("attention's result is not added to what entered (the residual stream)", right + block.mlp(block.norm2(right))),
        ("what the MLP makes is not added to the stream", block.mlp(block.norm2(x + right))),
        (
            "the MLP reads what entered the block, not the stream after attention was added",
            x + right + block.mlp(block.norm2(x)),
        ),
        ("attention reads the stream without `norm1`", whole(attend(x))),
        ("the MLP reads the stream without `norm2`", x + right + block.mlp(x + right)),
        ("attention reads `norm2`; it should read `norm1`", whole(attend(block.norm2(x)))),
        ("the scores are not divided by √d", whole(attend(seen, root=1))),
        (
            "the scores are divided by √D; d = D / heads is how many numbers one head has",
            whole(attend(seen, root=x.shape[-1] ** 0.5)),
        ),
        ("the softmax runs over the queries; the weights of one query sum to 1 over the keys", whole(attend(seen, axis=-2))),
        (
            "the heads stand in the wrong places: bring them behind the tokens before `reshape`",
            whole(attend(seen, turned=False)),
        ),
        ("the last linear layer of attention, `block.attn.proj`, is missing", whole(attend(seen, project=False))),
    ]


@checker
def check_attention(attention: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check `attention(q, k, v, keep)`: (B, heads, T, d) each, keep bool (B, T) → (B, heads, T, d), dropped keys unseen."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=draw) for _ in range(3))
    everything = torch.ones(2, 5, dtype=torch.bool)
    wanted = F.scaled_dot_product_attention(q, k, v)
    found = attention(q, k, v, everything)
    if _like(found, F.scaled_dot_product_attention(q, k, v, scale=1.0)):
        raise Wrong("the scores are not divided by √d")
    if _like(found, (q @ k.transpose(-2, -1) / 2).softmax(-2) @ v):
        raise Wrong("the softmax runs over the queries: the weights of one query sum to 1 over the keys, the last axis")
    # all hidden where all should be kept: rows of nan, of zeros (PyTorch's own) or, with a large number for −∞, of the mean
    if _hollow(found, wanted) or _like(found, v.mean(2, keepdim=True).expand_as(v)):
        raise Wrong("with every token kept nothing is seen: `keep` is the wrong way round, True is a token that stays")
    _expect_close(found, wanted, "with every token kept")
    keep = torch.tensor([[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]]).bool()
    wanted = torch.stack([F.scaled_dot_product_attention(q[i], k[i, :, m], v[i, :, m]) for i, m in enumerate(keep)])
    found = attention(q, k, v, keep)
    weights = (q @ k.transpose(-2, -1) / 2).softmax(-1) * keep[:, None, None]
    if _like(found, weights @ v):
        raise Wrong("the weights of the tokens that are left no longer sum to 1: hide the others before the softmax, with −∞")
    scores = (q @ k.transpose(-2, -1) / 2) * keep[:, None, None]
    if _like(found, scores.softmax(-1) @ v):
        raise Wrong("a score of 0 still gets weight, for exp(0) = 1: the score of a hidden token is −∞")
    if _like(found, torch.stack([F.scaled_dot_product_attention(q[i], k[i, :, ~m], v[i, :, ~m]) for i, m in enumerate(keep)])):
        raise Wrong("the tokens to keep are hidden, and the others seen: `keep` is True for a token that stays")
    if isinstance(found, Tensor) and found.shape == wanted.shape:
        rows = found.transpose(1, 2)[~keep]  # of the hidden tokens, which ask like all others
        if _hollow(rows, rows):
            raise Wrong("the rows of hidden tokens are nan or 0: mask the keys (last axis), not the queries")
    _expect_close(found, wanted, "with some tokens hidden", 1e-4)


@checker
def check_read_attention(read: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Check `read_attention(vit, images)` → (B, L, heads, P + N, P + N) on small ViTs, and that it leaves them as they were."""
    for name, options in (("vit_tiny_patch16_224", {}), ("deit_tiny_distilled_patch16_224", {})):
        vit = _small(name, **options)
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        wanted = attention_maps(vit, images)
        vit.blocks[1].attn.fused_attn = False  # one block differs, as a reader's own ViT may
        before = _traces(vit)
        found = read(vit, images)
        if not torch.is_tensor(found) or not found.numel():
            raise Wrong("no maps came back; fused attention never forms them, so switch `fused_attn` off in every block")
        if found.shape[2:] == wanted.shape[2:] and found.shape[1] < len(vit.blocks):
            others = "the others probably still use fused attention (trap 2)"
            raise Wrong(f"only {found.shape[1]} of {len(vit.blocks)} blocks reported their maps: {others}")
        _expect_close(found, wanted, f"for {name} with {vit.num_prefix_tokens} prefix token(s)")
        _expect_untouched(vit, before, "after it returned")
        vit.blocks[2].mlp.register_forward_pre_hook(_break)
        before = _traces(vit)
        try:
            read(vit, images)
        except _Broken:
            pass
        else:
            raise Wrong("an error in the ViT's forward pass should reach the caller")
        _expect_untouched(vit, before, "after a forward pass that failed")
    _check_in_training(read)


def _check_in_training(read: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Dropout makes later blocks random, so compare the first, which comes before it, and sum the rows of the others."""
    vit = _small("vit_tiny_patch16_224", attn_drop_rate=0.5)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = attention_maps(vit, images)
    before = _traces(vit.train())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = read(vit, images)
    sums = found.sum(-1)
    if not _like(found[:, 0], wanted[:, 0]) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise Wrong(
            "in training mode the maps have holes: the output of `attn_drop` has gone through dropout, so take its input"
        )
    _expect_untouched(vit, before, "in training mode, after it returned,")


class _Broken(RuntimeError):
    pass


def _break(*_: object) -> None:
    raise _Broken


def _small(name: str, **options: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = {"img_size": 32, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 4}
        vit = timm.create_model(name, **shape | options)
    for key, weight in vit.named_parameters():  # timm's initial values give nearly uniform attention, which hides mistakes
        if key.endswith("qkv.weight"):
            nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    return vit.eval()


def _traces(vit: nn.Module) -> list[tuple]:
    """What a reader may leave behind: hooks, flags of attention, training mode."""
    return [
        (name, len(m._forward_hooks), len(m._forward_pre_hooks), getattr(m, "fused_attn", None), m.training)
        for name, m in vit.named_modules()
    ]


def _expect_untouched(vit: nn.Module, before: list[tuple], when: str) -> None:
    pairs = list(zip(before, _traces(vit), strict=True))
    for old, new in pairs:
        if new[1:3] != old[1:3]:
            raise Wrong(f"{when} a hook was left on `{new[0]}`: remove it in a `finally`")
    for old, new in pairs:
        if new[3] != old[3]:
            raise Wrong(f"{when} `{new[0]}` has another `fused_attn` than before: note each one, and put it back")
        if new[4] != old[4]:
            raise Wrong(f"{when} `{new[0] or 'the ViT'}` has another mode (training or eval) than before: put it back")


def _like(found: object, wrong: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == wrong.shape and torch.allclose(found, wrong, atol=1e-5)


def _hollow(found: object, like: Tensor) -> bool:
    """Whether every number is nan or 0, as PyTorch fills a row in which nothing is seen."""
    return isinstance(found, Tensor) and found.shape == like.shape and not found.nan_to_num(0).any()


def _expect_close(found: object, wanted: Tensor, where: str, tolerance: float = 1e-5) -> None:
    """`expect`, but in a sentence: nobody reads lists of a hundred numbers."""
    if isinstance(found, Tensor) and found.shape == wanted.shape:
        if found.isnan().any():
            raise Wrong(f"{where} some numbers are nan: a softmax over nothing but −∞ makes them")
        if not torch.allclose(found, wanted, atol=tolerance):
            gap = (found - wanted).abs().max().item()
            raise Wrong(f"{where} the shape is right but the numbers are not: one is off by {gap:.2g}")
    else:
        expect(found, wanted, where, tolerance)
