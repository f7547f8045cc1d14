"""Train the two small ViTs that the course explains, so that no download stands between a reader and a result.

While they learn to classify, patches are taken away at random. That makes them used to missing patches: later, an image with
half its patches gone is still an image they know, and what they say of it is about what is left, not about the hole
(compare Jain et al., "Missingness Bias in Model Debugging", ICLR 2022).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from timm.optim import Muon
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from . import vit as see
from .datasets import CIFAR10, ColourGrid
from .state import check_same_run, epoch_order, load_state, pack_optimizer, save_state, stream, unpack_optimizer

EVERY = 200  # steps between two checkpoints


@dataclass(frozen=True)
class Recipe:
    """An architecture of ours and how it is trained."""

    architecture: dict
    steps: int
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 500
    decay: float = 1.0  # last share of the steps, over which the learning rate falls to 0 along a cosine
    muon: bool = False  # Muon for the matrices, AdamW for the rest; else AdamW for all
    bf16: bool = True
    removed: float = 0.8  # up to this share of the patches is taken away in a step
    mean_every: int = 8  # every so many steps the mean patch stands where patches are gone; else their tokens are dropped


def _plain(size: int, patch: int, width: int, depth: int, heads: int, classes: int, mean: tuple, std: tuple) -> dict:
    cfg = {"input_size": (3, size, size), "mean": mean, "std": std, "crop_pct": 1.0, "interpolation": "bicubic"}
    shape = {"img_size": size, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
    return {"model_name": "vit_tiny_patch16_224", **shape, "num_classes": classes, "pretrained_cfg_overlay": cfg}


RECIPES = {
    "grid": Recipe(
        _plain(48, 16, width=64, depth=4, heads=4, classes=10, mean=(0.5,) * 3, std=(0.5,) * 3),
        steps=3000, warmup=100, bf16=False, removed=0.0,  # grey cells are missing patches already
    ),
    "cifar10": Recipe(
        _plain(32, 4, width=128, depth=6, heads=4, classes=10, mean=CIFAR10.mean, std=CIFAR10.std),
        steps=4000, batch=256, lr=6e-3, warmup=100, decay=0.4, muon=True,
    ),
}  # fmt: skip


def build(name: str) -> nn.Module:
    """Return the untrained ViT of a recipe, "grid" or "cifar10", with its normalisation in `pretrained_cfg`."""
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return timm.create_model(**RECIPES[name].architecture)


def batches(name: str, root: str | os.PathLike | None = None) -> tuple[int, Callable]:
    """Return (number of training images, function (indices, generator) -> images, labels) for a recipe."""
    if name == "grid":
        data = ColourGrid(20_000, seed=1)
        images, labels = data.images, data.cells.flatten(1).sum(1)
        return len(data), lambda index, _draw: (images[index], labels[index])
    data = CIFAR10("train", root)
    return len(data), lambda index, draw: (data.normalise(_augment(data.images[index], draw)), data.labels[index])


def _augment(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels and mirror half of them; (B, 3, S, S) -> the same."""
    count, size = len(pixels), pixels.shape[-1]
    wide = F.pad(pixels.float(), (4, 4, 4, 4), mode="reflect").to(pixels.dtype)
    shift = torch.randint(0, 9, (2, count, 1), generator=draw) + torch.arange(size)  # (2, B, S): rows, columns
    mirror = torch.rand(count, 1, generator=draw) < 0.5
    columns = torch.where(mirror, shift[1].flip(1), shift[1])
    image, channel = torch.arange(count).view(-1, 1, 1, 1), torch.arange(3).view(1, -1, 1, 1)
    return wide[image, channel, shift[0][:, None, :, None], columns[:, None, None, :]]


def train_vit(
    name: str,
    root: str | os.PathLike | None = None,
    steps: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
) -> nn.Module:
    """Train the ViT of a recipe and return it in eval mode.

    steps: gradient steps, by default the recipe's; the learning rate has fallen to 0 at their end.
    checkpoint: a file that is rewritten every `EVERY` steps and continued from if it is there.
    Raises `FileNotFoundError` where the data is missing, `ValueError` where the checkpoint is of another run.
    """
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(seed)
        model = build(name)
    recipe = RECIPES[name]
    length, batch_of = batches(name, root)
    steps = steps or recipe.steps
    optimizer = _optimizer(model, recipe)
    run = {"kind": "train-vit", "name": name, "steps": steps, "seed": seed, "recipe": asdict(recipe)}
    start = _resume(checkpoint, model, optimizer, run)
    body = see.anatomy(model)

    bar = tqdm(
        range(start, steps),
        initial=start,
        total=steps,
        desc=f"{name} ViT",
        disable=not progress,
        mininterval=2,
        file=sys.stdout,
    )
    for step in bar:
        draw = stream(seed, "vit", step)
        images, labels = batch_of(epoch_order(length, seed, step * recipe.batch, recipe.batch), draw)
        keep = torch.rand(recipe.batch, body.patches, generator=draw).argsort(1)  # a random ranking of each image's patches
        rate = _rate(recipe, step, steps)
        # While the learning rate is high, steps may be rough if they are cheap: then at least half of `removed` is taken away.
        share = recipe.removed * (1 - (1 - rate / 2) * torch.rand((), generator=draw).item())
        left = body.patches - int(share * body.patches)
        mean = step % recipe.mean_every == 0
        model.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bf16), see.explicit_attention(model):
            if left == body.patches:
                logits = model(images)
            elif mean:
                kept = (keep < left).view(-1, *body.grid)
                logits = model(images * see.to_pixels(kept, body.size))
            else:
                with see.drop_tokens(model, keep[:, :left].sort(1).values):
                    logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        if not loss.isfinite():
            raise FloatingPointError(f"The loss became {loss.item()} at step {step}; start again with a smaller learning rate.")
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            accuracy = (logits.argmax(1) == labels).float().mean()
            bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{accuracy.item():.2f}", refresh=False)
        if checkpoint and ((step + 1) % EVERY == 0 or step + 1 == steps):
            tensors, meta = pack_optimizer(optimizer)
            weights = {f"model.{key}": value for key, value in model.state_dict().items()}
            save_state(checkpoint, weights | tensors, {"run": run, "step": step + 1, "optimizer": meta})
    return model.eval()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.muon:  # timm sorts by shape: matrices get Muon, vectors and embeddings AdamW
        return Muon(model.named_parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, nesterov=True)
    return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def _rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the recipe's."""
    begin = (1 - recipe.decay) * steps
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, step - begin) / (steps - begin)))
    return min((step + 1) / recipe.warmup, fall)


def _resume(checkpoint: str | os.PathLike | None, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict) -> int:
    if not checkpoint or not Path(checkpoint).exists():
        return 0
    tensors, meta = load_state(checkpoint)
    check_same_run(checkpoint, meta.get("run"), run)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    unpack_optimizer(optimizer, tensors, meta["optimizer"])
    return meta["step"]


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, share: float = 1.0, batch: int = 500) -> float:
    """Return the share of images whose label, the second item of each sample, the ViT predicts.

    share: of the patches that the ViT gets to see; the others' tokens are dropped, at random by a fixed seed.
    """
    body = see.anatomy(model)
    right, draw = 0, stream(0, "accuracy")
    for start in range(0, len(dataset), batch):
        samples = [dataset[i] for i in range(start, min(start + batch, len(dataset)))]
        images, labels = torch.stack([s[0] for s in samples]), torch.tensor([s[1] for s in samples])
        rank = torch.rand(len(images), body.patches, generator=draw).argsort(1)
        keep = (rank < round(share * body.patches)).view(-1, *body.grid)
        logits = see.predict(model, images, keep if share < 1 else None)
        right += int((logits.argmax(1) == labels).sum())
    return right / len(dataset)
