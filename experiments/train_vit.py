"""Train the two small ViTs that the course explains, so that no download stands between a reader and a result.

    python experiments/train_vit.py grid --seed 0
    python experiments/train_vit.py cifar10 --seed 0

While they learn to classify, patches are taken away at random. That makes them used to missing patches: later, an image with
half its patches gone is still an image they know, and what they say of it is about what is left, not about what is missing
(compare Jain et al., "Missingness Bias in Model Debugging", ICLR 2022).

CIFAR-10 is needed under the data root. Ctrl-C, or a kill, loses at most `EVERY` steps: the same command goes on. Weights and
their entry in the manifest go to --out.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from timm.optim import Muon
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from diffmask_lite import weights
from diffmask_lite.datasets import CIFAR10, ColourGrid, test_set
from diffmask_lite.training.checkpoint import load_checkpoint, save_checkpoint
from diffmask_lite.training.data import digest, epoch_order
from diffmask_lite.training.distributed import fast_bfloat16
from diffmask_lite.vit import anatomy, drop_tokens, explicit_attention, predict, to_pixels
from diffmask_lite.vit.randomness import stream
from manifest import command, register, rounded, save_vit

EVERY = 200  # steps between two checkpoints


@dataclass(frozen=True)
class Recipe:
    """How one of our ViTs is trained; its architecture is in `diffmask_lite.weights`."""

    steps: int
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 500
    decay: float = 1.0  # last share of the steps, over which the learning rate falls to 0 along a cosine
    muon: bool = False  # Muon for the matrices, AdamW for the rest; else AdamW for all
    bf16: bool = True  # where the processor has AMX
    removed: float = 0.8  # up to this share of the patches is taken away in a step
    mean_every: int = 8  # every so many steps the mean patch stands where patches are gone; else their tokens are dropped


RECIPES = {
    "grid": Recipe(steps=3000, warmup=100, bf16=False, removed=0.0),  # grey cells are missing patches already
    "cifar10": Recipe(steps=4000, batch=256, lr=6e-3, warmup=100, decay=0.4, muon=True),
}


def training_images(name: str, root: str | os.PathLike | None = None) -> tuple[Dataset, Callable]:
    """Return (training images, function (indices, generator) -> images, labels) for a recipe."""
    if name == "grid":
        data = ColourGrid(20_000, seed=1)
        images, labels = data.images, data.cells.flatten(1).sum(1)
        return data, lambda index, _draw: (images[index], labels[index])
    data = CIFAR10("train", root)
    return data, lambda index, draw: (data.normalise(_augment(data.images[index], draw)), data.labels[index])


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
        model = weights.build(name)
    recipe = RECIPES[name]
    data, batch_of = training_images(name, root)
    steps = recipe.steps if steps is None else steps
    if steps < 1:  # untrained weights would take the place of the shipped ones
        raise ValueError(f"steps must be at least 1, but it is {steps}.")
    optimizer, shape, bf16 = _optimizer(model, recipe), anatomy(model), uses_bfloat16(name)
    run = {
        "kind": "train-vit", "name": name, "steps": steps, "seed": seed, "bfloat16": bf16, "recipe": asdict(recipe),
        "data": digest(data, seed),
    }  # fmt: skip
    found, start = load_checkpoint(checkpoint, run, steps), 0
    if found:
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        start = found["step"]

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
        images, labels = batch_of(epoch_order(len(data), seed, step * recipe.batch, recipe.batch), draw)
        keep = torch.rand(recipe.batch, shape.patches, generator=draw).argsort(1)  # a random ranking of each image's patches
        rate = _rate(recipe, step, steps)
        # While the learning rate is high, steps may be rough if they are cheap: then at least half of `removed` is taken away.
        share = recipe.removed * (1 - (1 - rate / 2) * torch.rand((), generator=draw).item())
        left = shape.patches - int(share * shape.patches)
        mean = step % recipe.mean_every == 0
        model.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16), explicit_attention(model):
            if left == shape.patches:
                logits = model(images)
            elif mean:
                kept = (keep < left).view(-1, *shape.grid)
                logits = model(images * to_pixels(kept, shape.size))
            else:
                with drop_tokens(model, keep[:, :left].sort(1).values):
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
            save_checkpoint(checkpoint, run, step=step + 1, model=model.state_dict(), optimizer=optimizer.state_dict())
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


def uses_bfloat16(name: str) -> bool:
    """Return whether this machine trains the ViT in bfloat16: if the recipe says so, and the processor has AMX."""
    return RECIPES[name].bf16 and fast_bfloat16("cpu")


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset, share: float = 1.0, batch: int = 500) -> float:
    """Return the share of images whose label, the second item of each sample, the ViT predicts.

    share: of the patches that the ViT gets to see; the others' tokens are dropped, at random by a fixed seed.
    """
    shape = anatomy(model)
    right, draw = 0, stream(0, "accuracy")
    for start in range(0, len(dataset), batch):
        samples = [dataset[i] for i in range(start, min(start + batch, len(dataset)))]
        images, labels = torch.stack([s[0] for s in samples]), torch.tensor([s[1] for s in samples])
        rank = torch.rand(len(images), shape.patches, generator=draw).argsort(1)
        keep = (rank < round(share * shape.patches)).view(-1, *shape.grid)
        logits = predict(model, images, keep if share < 1 else None)
        right += int((logits.argmax(1) == labels).sum())
    return right / len(dataset)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=weights.NAMES, help="the task: colour grid, or CIFAR-10")
    parser.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    parser.add_argument("--out", type=Path, default=weights.folder(), help="for weights and manifest (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="gradient steps (default: as the shipped weights were trained)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    parser.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one in build/)")
    options = parser.parse_args(arguments)
    name, test = options.name, test_set(options.name, options.data)  # before the long part: missing data is found at once
    checkpoint = options.checkpoint or Path("build") / f"{name}_vit_{options.seed}.checkpoint"
    path = options.out / f"{name}_vit.safetensors"
    save_vit(train_vit(name, options.data, options.steps, options.seed, checkpoint), path, name)
    vit = weights.load_vit(path, name)  # what is scored is what is stored
    scores = {"test accuracy": accuracy(vit, test)}
    if RECIPES[name].removed:  # is it used to missing patches?
        scores["test accuracy with half the patches dropped"] = accuracy(vit, test, share=0.5)
    scores = rounded(scores | {"test images": len(test), "source": test.source})
    arithmetic = "bfloat16" if uses_bfloat16(name) else "float32"
    register(path, command("train_vit.py", options, ("seed", "steps")), options.seed, arithmetic, scores)
    print(f"{path}: {scores}")


if __name__ == "__main__":
    main()
