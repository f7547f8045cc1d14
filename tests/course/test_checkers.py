"""The checkers of all exercises name the mistakes that readers make, and let right answers of any style pass."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffmask_lite import History, vit
from diffmask_lite.course import exercises
from diffmask_lite.course.exercises.gates import AT_ONE
from diffmask_lite.course.exercises.verdict import Wrong, expect
from diffmask_lite.gates import log_open, prob_open, sample
from diffmask_lite.training.history import COLUMNS

# For each checker, answers by words of its verdict: "passed", or the words in which a mistake is named. Where two answers get
# the same words, a blank more tells them apart.
ANSWERS = {}


# ---- Inside a ViT ----
def unpatchify(patches, grid, split=("h", "w"), order=(0, 3, 1, 4, 2, 5), flip=()):
    B, _, C, p, q = patches.shape
    sizes = dict(zip("hw", grid, strict=True))
    cut = patches.reshape(B, *(sizes[axis] for axis in split), C, p, q).flip(flip)
    return cut.permute(order).reshape(B, C, sizes["h"] * p, sizes["w"] * q)


def by_reshape(patches, grid):
    B, _, C, p, q = patches.shape
    return patches.reshape(B, C, grid[0] * p, grid[1] * q)


ANSWERS["unpatchify"] = {
    "passed": unpatchify,
    "column by column": lambda x, grid: unpatchify(x, grid, split=("w", "h"), order=(0, 3, 2, 4, 1, 5)),
    "reshape alone": by_reshape,
    "right before p": lambda x, grid: unpatchify(x, grid, flip=(2,)),
    "other pixels": lambda x, grid: by_reshape(x, grid) * 0,
}


def block_by_hand(
    root=None, axis=-1, turned=True, project=True, added=(1, 1), norms=("norm1", "norm2"), late=True, fused=False
):
    """The block by hand, or spoilt in one way."""

    def by_hand(block, x):
        B, T, D = x.shape
        heads = block.attn.num_heads
        seen = getattr(block, norms[0])(x) if norms[0] else x
        q, k, v = block.attn.qkv(seen).reshape(B, T, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) / (root(D) if root else (D / heads) ** 0.5)).softmax(axis) @ v
        mixed = (mixed.transpose(1, 2) if turned else mixed).reshape(B, T, D)
        attended = block.attn(seen) if fused else block.attn.proj(mixed) if project else mixed
        middle = added[0] * x + attended
        read = middle if late else x
        return added[1] * middle + block.mlp(getattr(block, norms[1])(read) if norms[1] else read)

    return by_hand


ANSWERS["block"] = {
    "passed": block_by_hand(),
    "timm computed them": block_by_hand(fused=True),
    "timm computed them ": lambda block, x: block(x),
    "attention's result is not added": block_by_hand(added=(0, 1)),
    "what the MLP makes is not added": block_by_hand(added=(1, 0)),
    "reads what entered": block_by_hand(late=False),
    "without `norm1`": block_by_hand(norms=("", "norm2")),
    "without `norm2`": block_by_hand(norms=("norm1", "")),
    "it should read `norm1`": block_by_hand(norms=("norm2", "norm2")),
    "not divided by √d": block_by_hand(root=lambda D: 1),
    "divided by √D": block_by_hand(root=lambda D: D**0.5),
    "over the queries": block_by_hand(axis=-2),
    "wrong places": block_by_hand(turned=False),
    "`block.attn.proj`, is missing": block_by_hand(project=False),
    "one is off by": lambda block, x: 2 * block_by_hand()(block, x),
}


def attend(scale=True, hide="keys", fill=-math.inf, turned=False, axis=-1):
    """Attention of the kept solved, or spoilt in one way."""

    def attention(q, k, v, keep):
        keep = ~keep if turned is True or (turned == "some" and not keep.all()) else keep
        scores = q @ k.transpose(-2, -1) / (q.shape[-1] ** 0.5 if scale else 1)
        seen = keep[:, None, :, None] if hide == "queries" else keep[:, None, None, :]
        if hide in ("keys", "queries"):
            scores = scores.masked_fill(~seen, fill)
        weights = (scores * seen if hide == "score of 0" else scores).softmax(axis)
        return (weights * seen if hide == "afterwards" else weights) @ v

    return attention


ANSWERS["attention"] = {
    "passed": attend(),
    "passed ": attend(fill=-1e9),
    "√d": attend(scale=False),
    "with some tokens hidden": attend(hide="nothing"),
    "with some tokens hidden ": lambda q, k, v, keep: F.scaled_dot_product_attention(q, k, v),
    "sum to 1": attend(hide="afterwards"),
    "−∞": attend(hide="score of 0"),
    "runs over the queries": attend(axis=-2),
    "mask the keys": attend(hide="queries"),
    "wrong way round": attend(turned=True),
    "wrong way round ": attend(turned=True, fill=-1e9),
    "others seen": attend(turned="some"),
    "are nan": lambda *inputs: attend()(*inputs).log(),
    "one is off by": lambda *inputs: 2 * attend()(*inputs),
}


def read_attention(fused=False, restore=True, clean=True, safely=True, after=False):
    """The reader of attention solved, or spoilt in one way."""

    def read(model, images):
        maps, handles = [], []
        flags = [block.attn.fused_attn for block in model.blocks]

        def undo():
            for handle in handles if clean else []:
                handle.remove()
            for block, flag in zip(model.blocks, flags if restore else [True] * len(flags), strict=True):
                block.attn.fused_attn = flag

        for block in model.blocks:
            block.attn.fused_attn = block.attn.fused_attn and fused
            drop = block.attn.attn_drop
            hook = drop.register_forward_hook if after else drop.register_forward_pre_hook
            handles.append(hook(lambda _module, args, out=None: maps.append(args[0] if out is None else out)))
        try:
            model(images)
        except RuntimeError:
            if safely:
                undo()
            raise
        undo()
        return torch.stack(maps, dim=1)

    return read


def swallow(model, images):
    try:
        return vit.attention_maps(model, images)
    except RuntimeError:
        return None


ANSWERS["read_attention"] = {
    "passed": read_attention(),
    "passed ": vit.attention_maps,
    "only 1 of 3 blocks": read_attention(fused=True),
    "take its input": read_attention(after=True),
    "another mode": lambda model, images: vit.attention_maps(model.eval(), images),
    "fused_attn": read_attention(restore=False),
    "hook was left": read_attention(clean=False),
    "failed a hook": read_attention(safely=False),
    "reach the caller": swallow,
    "shape": lambda model, images: vit.attention_maps(model, images)[..., 1:, 1:],
    "shape ": lambda model, images: vit.attention_maps(model, images).mean(2),
}


# ---- Notebook 03 ----
def masses(logits, temperature, left, right, log=math.log):
    shut = torch.sigmoid(temperature * math.log(-left / right) - logits)
    if right == 1 and log is math.log:
        return shut, torch.zeros_like(logits)
    return shut, torch.sigmoid(logits - temperature * log((1 - left) / (right - 1)))


def broken(logits, temperature, left, right):
    if right > 1:
        raise ValueError("of my own")
    return masses(logits, temperature, left, right)


ANSWERS["masses"] = {
    "passed": masses,
    # The same formula in torch, where log(1.2 / 0) is infinite and needs no special case.
    "passed ": lambda logits, temperature, left, right: masses(logits, temperature, left, torch.tensor(right), torch.log),
    "swapped": lambda *setting: masses(*setting)[::-1],
    "P(z > 0)": lambda *setting: (1 - masses(*setting)[0], masses(*setting)[1]),
    "two tensors": lambda *setting: masses(*setting)[0],
    AT_ONE: lambda *setting: masses(*setting, log=lambda x: math.log(x)),  # divides by r − 1 = 0
    AT_ONE + " ": lambda *setting: (masses(*setting)[0], masses(*setting)[1] / (setting[3] != 1)),  # 0 / 0
    "of my own": broken,
}


def optimise(damage, n_gates, price, start=2.0, steps=300, rate=0.1, n=64, draw=sample, cost=prob_open, signs=(1, 1)):
    logits = torch.full((n_gates,), start, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=rate)
    for _ in range(steps):
        z = draw(logits.expand(n, -1), torch.rand(n, n_gates))
        loss = signs[0] * price * cost(logits).sum() + signs[1] * damage(z).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return prob_open(logits)


ANSWERS["optimise"] = {
    "passed": optimise,
    "passed ": lambda *problem: optimise(*problem, start=4.0, steps=600).detach(),
    "not in [0, 1]": lambda *problem: torch.logit(optimise(*problem)),
    "a row for each sample": lambda damage, n_gates, price: optimise(lambda z: damage(z[0]), n_gates, price),
    "sample z from the logits": lambda *problem: optimise(*problem, draw=lambda logits, _: logits),
    "never called": lambda _, n_gates, price: torch.full((n_gates,), 0.5),
    "fresh uniform numbers": lambda *problem: optimise(*problem, draw=lambda logits, _: prob_open(logits)),
    "exactly 0": lambda *problem: optimise(*problem, draw=lambda logits, u: ((logits + torch.logit(u)) / 0.2).sigmoid()),
    "turned round": lambda *problem: optimise(*problem, signs=(-1, -1)),
    "all gates are shut": lambda *problem: optimise(*problem, start=-12.0),
    "A count": lambda *problem: optimise(*problem, signs=(0, 1)),
    "not shut yet": lambda *problem: optimise(*problem, steps=40),
}


# ---- Notebook 04 ----
def lagrangian(gates, kl, alpha, eps, cost=lambda logs: logs.sum(1).exp().mean(), excess=lambda gap: gap):
    return cost(log_open(gates)) + alpha * excess(kl.mean() - eps)


ANSWERS["lagrangian"] = {
    "passed": lagrangian,
    "multiply": lambda *inputs: lagrangian(*inputs, cost=lambda logs: logs.exp().mean()),
    "adds probabilities": lambda *inputs: lagrangian(*inputs, cost=lambda logs: logs.exp().sum(1).mean()),
    "mean logarithm": lambda *inputs: lagrangian(*inputs, cost=lambda logs: logs.sum(1).mean()),
    "not their sum": lambda *inputs: lagrangian(*inputs, cost=lambda logs: logs.sum(1).exp().sum(1).mean()),
    "wrong sign": lambda *inputs: lagrangian(*inputs, excess=lambda gap: -gap),
    "below ε": lambda *inputs: lagrangian(*inputs, excess=lambda gap: gap.clamp(min=0)),
    "no gradient": lambda gates, *inputs: lagrangian(gates.detach(), *inputs),
}


DIAGNOSES = {"A": "violated", "B": "settled", "C": "idle", "D": "collapsed"}
ANSWERS["slopes"] = {
    "passed": lambda p: (p * (1 - p), 1 - p),
    "passed ": lambda p: [p - p.square(), (1 - p).clone()],
    "wrong order": lambda p: (1 - p, p * (1 - p)),
    "multiply it": lambda p: (p * (1 - p), 1 / p),
    "two tensors": lambda p: p * (1 - p),
    "slope of P with": lambda p: (1 - p, 1 - p),
    "slope of log P with": lambda p: (p * (1 - p), p),
}
ANSWERS["diagnose"] = {
    "passed": lambda: DIAGNOSES,
    "the keys": lambda: {"A": "violated"},
    "its KL": lambda: DIAGNOSES | {"A": "moving"},
    "its end": lambda: DIAGNOSES | {"B": "moving"},
    "removed anything": lambda: DIAGNOSES | {"C": "settled"},
    "together": lambda: DIAGNOSES | {"D": "violated"},
}


def test_unlabelled_histories_have_the_diagnosis_that_the_exercise_asks_for():
    for name, rows in exercises.unlabelled_histories().items():
        past = History(0.1, **rows[list(COLUMNS)].to_dict("list"))
        assert past.diagnosis().split(":")[0] == DIAGNOSES[name]


# ---- Notebook 05 ----
def shuffled(images, order, size, across=lambda tiles: tiles):
    """Exercise 3 solved; `across`: what is done to the patches, (B, N, C, size, size), once they are in order."""
    h, w = images.shape[2] // size, images.shape[3] // size
    tiles = images.unflatten(2, (h, size)).unflatten(4, (w, size)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    tiles = across(tiles[:, order]).unflatten(1, (h, w))
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


ANSWERS["shuffle"] = {
    "passed": shuffled,
    "the image is as before": lambda x, order, size: x.clone(),
    "patch order[n] should come to place n": lambda x, order, size: shuffled(x, order.argsort(), size),
    "torn apart": lambda x, order, size: shuffled(x, order, size, lambda tiles: tiles.mT),
    "torn apart: cut": lambda x, order, size: x.reshape(len(x), x.shape[1], len(order), -1)[:, :, order].reshape(x.shape),
    "row by row": lambda x, order, size: shuffled(x, order.flip(0), size),
    "into another image": lambda x, order, size: shuffled(x, order, size).flip(0),
    "changed `images` itself": lambda x, order, size: x.copy_(shuffled(x, order, size)),
    "the shape should be": lambda x, order, size: shuffled(x, order, size).flatten(2),
}


def grow(cost, n, m, start=False, alone=False):
    """Exercise 2 solved; `start`: from all patches, one fewer a round; `alone`: one call for each trial."""
    keep = torch.full((n,), start)
    while keep.sum() != m:
        left = (keep == start).nonzero().flatten()
        trials = keep.repeat(len(left), 1)
        trials[torch.arange(len(left)), left] = not start
        costs = torch.cat([cost(trial[None]) for trial in trials]) if alone else cost(trials)
        keep = trials[costs.argmin()]
    return keep


ANSWERS["grow"] = {
    "passed": grow,
    "do not start from all": lambda cost, n, m: grow(cost, n, m, start=True),
    "called 9 times": lambda cost, n, m: grow(cost, n, m, alone=True),
    "once patch 1 is kept": lambda cost, n, m: torch.isin(torch.arange(n), cost(torch.eye(n).bool()).argsort()[:m]),
    "never called": lambda cost, n, m: torch.isin(torch.arange(n), torch.tensor([1, 3, 2, 4, 0])[:m]),
}


# ---- Notebooks 06 and 07: faithfulness ----
def srg(p_of, relevance, steps=6, area=lambda p: torch.trapezoid(p, dx=1 / 5), batch=True, signs=(1, -1)):
    def curve(order):
        keep = order.argsort() >= torch.arange(steps)[:, None]
        return area(p_of(keep) if batch else torch.cat([p_of(row[None]) for row in keep]))

    return sum(sign * curve((sign * relevance).argsort()) for sign in signs if sign).item()


ANSWERS["srg"] = {
    "passed": srg,
    "the sign is turned": lambda p, r: -srg(p, r),
    "a mean over the points": lambda p, r: srg(p, r, area=torch.mean),
    "divide by n": lambda p, r: srg(p, r, area=torch.trapezoid),
    "called 12 times": lambda p, r: srg(p, r, batch=False),
    "about none": lambda p, r: srg(p, r, steps=5, area=lambda p: torch.trapezoid(F.pad(p, (0, 1)), dx=1 / 5)),
    "LeRF alone": lambda p, r: srg(p, r, signs=(1,)),
    "MoRF alone": lambda p, r: -srg(p, r, signs=(-1,)),
    "negative score": lambda p, r: abs(srg(p, r)),
    "should be": lambda p, r: srg(p, r.roll(1)),
}


def paired(a, b, draws, rng, tails=(2.5, 97.5)):
    pick = rng.integers(len(a), size=(draws, len(a)))
    return tuple(np.percentile((a - b)[pick].mean(1), tails))


def unpaired(a, b, draws, rng):
    first, second = (rng.integers(len(a), size=(draws, len(a))) for _ in "ab")
    return tuple(np.percentile(a[first].mean(1) - b[second].mean(1), (2.5, 97.5)))


def by_weights(a, b, draws, rng):
    weights = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), size=draws) / len(a)
    return np.quantile(weights @ (a - b), [0.025, 0.975])


ANSWERS["paired"] = {
    "passed": paired,
    "passed ": by_weights,
    "different images": unpaired,
    "spread of single images": lambda a, b, draws, rng: np.percentile((a - b)[rng.integers(len(a), size=draws)], (2.5, 97.5)),
    "a − b": lambda a, b, draws, rng: paired(b, a, draws, rng),
    "one standard error": lambda *inputs: paired(*inputs, (16, 84)),
    "take every random number from `rng`": lambda a, b, draws, rng: paired(a, b, draws, np.random.default_rng()),
    "draw the images with `rng`": lambda a, b, draws, rng: paired(a, b, draws, np.random.default_rng(0)),
    "should be about": lambda *inputs: paired(*inputs, (0.005, 99.995)),
    "below high": lambda *inputs: paired(*inputs)[::-1],
    "two numbers": lambda a, b, draws, rng: (a - b).mean(),
}


def auroc(values, truth, tie=0.5):
    inside, outside = values[truth][:, None], values[~truth]
    return (inside > outside).float().mean() + tie * (inside == outside).float().mean()


ANSWERS["auroc"] = {
    "passed": auroc,
    "not a win": lambda *inputs: auroc(*inputs, tie=1.0),
    "not a loss": lambda *inputs: auroc(*inputs, tie=0.0),
    "it should be": lambda v, t: 0.5 + (v[t].mean() - v[~t].mean()) / 2,  # of values, not of ranks
}


def winner(blue=(7, 6, 5, 4, 3, 1), other=(9, 8, 2)):
    """A map of grids with six blue cells: the values of blue cells, and of the others, in reading order."""

    def maps(truth):
        values = torch.empty(truth.shape)
        values[truth] = torch.tensor(blue, dtype=torch.float).repeat(len(truth))
        values[~truth] = torch.tensor(other, dtype=torch.float).repeat(len(truth))
        return values

    return maps


ANSWERS["winner"] = {
    "passed": winner(),
    "the AUROC is 1.00": winner((9, 8, 7, 6, 5, 4), (3, 2, 1)),
    "the AUROC is 0.67": winner((9, 8, 7, 5, 3, 1), (6, 4, 2)),
    "each once": lambda truth: -truth.float(),
    "(LeRF) is only": winner((6, 5, 4, 3, 2, 1), (9, 8, 7)),
    "at once": winner((8, 7, 6, 4, 2, 1), (9, 5, 3)),
    "for each grid": lambda truth: truth.flatten(1).float(),
}


def twin(keep, generator):
    place = torch.rand(keep.flatten(1).shape, generator=generator).argsort(1).argsort(1)
    return (place < keep.flatten(1).sum(1, keepdim=True)).view(keep.shape)


def shifted(keep, generator):
    by = torch.randint(1, keep[0].numel(), (len(keep),), generator=generator).tolist()
    return torch.stack([mask.roll(n) for mask, n in zip(keep.flatten(1), by, strict=True)]).view(keep.shape)


ANSWERS["twin"] = {
    "passed": twin,
    "as it was given": lambda keep, generator: twin(keep, generator).float(),
    "wander": lambda keep, generator: keep.flatten()[torch.randperm(keep.numel(), generator=generator)].view(keep.shape),
    "the size": lambda keep, generator: torch.rand(keep.shape, generator=generator) < 0.3,
    "the mask itself": lambda keep, generator: keep,
    "for each image": lambda keep, generator: keep.flatten(1)[:, torch.randperm(20, generator=generator)].view(keep.shape),
    "equally often": lambda keep, generator: torch.where(
        torch.rand(900, 1, 1, generator=generator) < 0.5, keep, keep.flip(1, 2)
    ),
    "do not shift": shifted,
    "from `generator`": lambda keep, generator: twin(keep, None),
    "with `generator`": lambda keep, generator: twin(keep, torch.Generator().manual_seed(3)),
}


# ---- Notebook 08 ----
def spearman(a, b, rank=lambda x: (x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) / 2):
    return torch.corrcoef(torch.stack([rank(a).double(), rank(b).double()]))[0, 1].item()


ANSWERS["spearman"] = {
    "passed": spearman,
    "the scores themselves": lambda a, b: spearman(a, b, lambda x: x),
    "sort once more": lambda a, b: spearman(a, b, torch.argsort),
    "for a score and its negative": lambda a, b: abs(spearman(a, b)),
    "three methods tie": lambda a, b: spearman(a, b, lambda x: x.argsort(stable=True).argsort()),
    "the same order": lambda a, b: -spearman(a, b),
}


def torn(heat, patch, gone, whole=False, descending=True):
    lost = torch.zeros(heat.numel())
    lost[heat.flatten().argsort(descending=descending, stable=True)[:gone]] = 1
    share = F.avg_pool2d(lost.view(1, 1, *heat.shape), patch)
    return int(((share > 0) & ((share < 1) | whole)).sum())


ANSWERS["torn"] = {
    "passed": torn,
    "is not torn": lambda *inputs: torn(*inputs, whole=True),
    "highest": lambda *inputs: torn(*inputs, descending=False),
    "one number": lambda *inputs: torch.zeros(4),
    "it says 0": lambda *inputs: 0,
    "nothing goes": lambda heat, patch, gone: torn(heat, patch, gone) if gone else 1,
}


def mosaic(tiles, labels, counted, side):
    b, g, _, c, s, _ = tiles.shape
    pictures = tiles.permute(0, 3, 1, 4, 2, 5).reshape(b, c, g * s, g * s)
    there = labels == counted
    return pictures, there.sum((1, 2)), there.repeat_interleave(side, 1).repeat_interleave(side, 2)


def by_hand(tiles, labels, counted, side):
    rows = [torch.cat(list(row.unbind(1)), dim=3) for row in tiles.unbind(1)]
    truth = torch.zeros(len(labels), *(side * n for n in labels.shape[1:])).bool()
    for b, i, j in (labels == counted).nonzero().tolist():
        truth[b, side * i : side * (i + 1), side * j : side * (j + 1)] = True
    return torch.cat(rows, dim=2), torch.tensor([int((one == counted).sum()) for one in labels]), truth


def changed(place, how):
    """`mosaic` with one of its three answers made from the right one and the arguments."""
    return lambda *inputs: tuple(how(x, *inputs) if i == place else x for i, x in enumerate(mosaic(*inputs)))


ANSWERS["mosaic"] = {
    "passed": mosaic,
    "passed ": by_hand,
    "scrambled": changed(0, lambda right, tiles, *_: tiles.reshape(right.shape)),
    "scrambled: before": changed(0, lambda right, tiles, *_: tiles.permute(0, 3, 1, 2, 4, 5).reshape(right.shape)),
    "exchanged": changed(0, lambda right, tiles, *rest: mosaic(tiles.transpose(1, 2), *rest)[0]),
    "not in row": changed(0, lambda right, *_: right.flip(2)),
    "counts, of class 3": changed(1, lambda right, tiles, labels, counted, side: (labels != counted).sum((1, 2))),
    "one entry a tile": changed(2, lambda right, tiles, labels, counted, side: labels == counted),
    "tiled, not spread": changed(2, lambda right, tiles, labels, counted, side: (labels == counted).repeat(1, side, side)),
    "dtype": changed(2, lambda right, *_: right.int()),
    "three tensors": lambda *inputs: mosaic(*inputs)[0],
    "2 × 2 tiles, counts": changed(1, lambda right, tiles, labels, counted, side: (labels == 3).sum((1, 2))),
}


# ---- Notebook 09 ----
def share(step, batch, rank, size):
    part = batch // size
    return list(range(step * batch + rank * part, step * batch + (rank + 1) * part))


ANSWERS["share"] = {
    "passed": share,
    "take the same image": lambda step, batch, rank, size: share(step, batch, 0, size),
    "each takes 2, but process 0 takes 4": lambda step, batch, rank, size: share(step, batch, 0, 1),
    "step 3 of 12 images is places": lambda step, *inputs: share(0, *inputs),
    "in one piece": lambda step, batch, rank, size: share(step, batch, 0, 1)[rank::size],
    "a list of whole numbers": lambda *inputs: torch.tensor(share(*inputs)),
}
ANSWERS["mask_at"] = {
    "passed": lambda layers, k: layers[:, : k + 2].log().sum(1).exp(),
    "h_0 … h_k:": lambda layers, k: layers[:, : k + 1].prod(1),
    "h_0 … h_{k+2}": lambda layers, k: layers[:, : k + 3].prod(1),
    "one gate alone": lambda layers, k: layers[:, k + 1] if k else layers[:, :2].prod(1),
    "it should be": lambda layers, k: layers[:, : k + 2].mean(1),
    "the shape should be": lambda layers, k: layers[:, : k + 2].prod(),
    "changed `layers` itself": lambda layers, k: layers[:, : k + 2].prod(1).add_(0 * layers.mul_(1 if k < 4 else 0.5).sum()),
}


@pytest.mark.parametrize(("name", "words"), [(name, words) for name, answers in ANSWERS.items() for words in answers])
def test_a_right_answer_passes_and_a_mistake_is_named(name, words):
    verdict = getattr(exercises, f"check_{name}")(ANSWERS[name][words])
    assert words.strip() in repr(verdict) and verdict.status == ("passed" if "passed" in words else "failed")
    if name in ("unpatchify", "block", "attention", "read_attention", "shuffle"):
        assert "[[" not in verdict.hint and len(verdict.hint) < 260  # a sentence, not tables of numbers


def test_numbers_in_hints_have_four_digits_unless_these_are_equal():
    with pytest.raises(Wrong, match=r"should be \[0\.3333, 2\.0\], but it is \[0\.6667, 2\.0\]"):
        expect(torch.tensor([2 / 3, 2.0]), torch.tensor([1 / 3, 2.0]), "here")
    with pytest.raises(Wrong, match=r"should be 0\.33331, but it is 0\.33334"):
        expect(torch.tensor(0.33334, dtype=torch.float64), torch.tensor(0.33331, dtype=torch.float64), "here", 1e-9)
