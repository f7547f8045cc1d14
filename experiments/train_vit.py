"""Train the two small ViTs that the course explains, so that no download stands between a reader and a result.

    python experiments/train_vit.py grid --seed 0
    python experiments/train_vit.py cifar10 --seed 0            3 minutes of a data-centre GPU, hours of a CPU
    python experiments/train_vit.py cifar10_whole --seed 0      its twin, which never met a missing patch

While "cifar10" learns to classify, patches are taken away at random. That makes it used to missing patches: later, an image
with half its patches gone is still an image it knows, and what it says of it is about what is left, not about what is missing
(compare Jain et al., "Missingness Bias in Model Debugging", ICLR 2022). "cifar10_whole" always saw whole images, as most ViTs
that people explain did.

A GPU is used where there is one. CIFAR-10 is needed under the data root. Ctrl-C, or a kill, loses at most `EVERY` steps: the
same command goes on. Weights and their entry in the manifest go to --out.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from timm.optim import Muon
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from augmentation import augmented
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
    mixed: float = 0.0  # in this share of the steps each image is mixed with another: half the time blended, half in a box
    removed: float = 0.8  # up to this share of the patches is taken away in a step
    mean_every: int = 8  # every so many steps the mean patch stands where patches are gone; else their tokens are dropped


CIFAR = Recipe(steps=2800, batch=2048, lr=6e-3, weight_decay=0.1, warmup=200, decay=0.7, muon=True, mixed=0.7)
RECIPES = {
    "grid": Recipe(steps=3000, warmup=100, bf16=False, removed=0.0),  # grey cells are missing patches already
    "cifar10": CIFAR,
    "cifar10_whole": replace(CIFAR, removed=0.0),
}


def training_images(name: str, root: str | os.PathLike | None, device: torch.device) -> tuple[Dataset, Callable]:
    """Return (training images, function (indices, generator) -> images, labels on the device) for a recipe."""
    if name == "grid":
        data = ColourGrid(20_000, seed=1)
        images, labels = data.images.to(device), data.cells.flatten(1).sum(1).to(device)
        return data, lambda index, _draw: (images[index], labels[index])
    data = CIFAR10("train", root)
    pixels, labels = data.images.to(device), data.labels.to(device)
    return data, lambda index, draw: (augmented(CIFAR10.normalise(pixels[index]), draw), labels[index])


def mixed(images: Tensor, targets: Tensor, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image with the next of the batch: blended, or with a box of it; the targets (B, classes) are mixed alike.

    Without it a ViT of this size learns the training images by heart. Sources: mixup (Zhang et al. 2018, arXiv 1710.09412) and
    CutMix (Yun et al. 2019, arXiv 1905.04899), with a share drawn evenly.
    """
    share, kind, x, y = torch.rand(4, generator=chance).tolist()
    other, size = images.roll(1, 0), images.shape[-1]
    if kind < 0.5:
        images = share * images + (1 - share) * other
    else:
        half = math.sqrt(1 - share) * size / 2
        left, right = (round(min(max(x * size + shift, 0), size)) for shift in (-half, half))
        top, bottom = (round(min(max(y * size + shift, 0), size)) for shift in (-half, half))
        images, share = images.clone(), 1 - (right - left) * (bottom - top) / size**2
        images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return images, share * targets + (1 - share) * targets.roll(1, 0)


def train_vit(
    name: str,
    root: str | os.PathLike | None = None,
    steps: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train the ViT of a recipe and return it in eval mode, on the CPU.

    steps: gradient steps, by default the recipe's; the learning rate has fallen to 0 at their end.
    checkpoint: a file that is rewritten every `EVERY` steps and continued from if it is there.
    Raises `FileNotFoundError` where the data is missing, `ValueError` where the checkpoint is of another run.
    """
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(seed)
        model = weights.build(name)
    recipe, device = RECIPES[name], torch.device(device)
    model = model.to(device)
    data, batch_of = training_images(name, root, device)
    steps = recipe.steps if steps is None else steps
    if steps < 1:  # untrained weights would take the place of the shipped ones
        raise ValueError(f"steps must be at least 1, but it is {steps}.")
    optimizer, shape, bf16 = _optimizer(model, recipe), anatomy(model), uses_bfloat16(name, device)
    run = {
        "kind": "train-vit", "name": name, "steps": steps, "seed": seed, "bfloat16": bf16, "recipe": asdict(recipe),
        "data": digest(data, seed),
    }  # fmt: skip
    found, start = load_checkpoint(checkpoint, run, steps, ("model", "optimizer")), 0
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
    unfused = explicit_attention(model) if device.type == "cpu" else nullcontext()  # faster backward
    with unfused:
        for step in bar:
            chance, draw = stream(seed, "vit", step), stream(seed, "vit", step, device=device)
            order = torch.tensor(epoch_order(len(data), seed, step * recipe.batch, recipe.batch)).to(device)
            images, labels = batch_of(order, draw)
            if torch.rand((), generator=chance) < recipe.mixed:
                images, labels = mixed(images, F.one_hot(labels, model.num_classes).float(), chance)
            # a random ranking of each image's patches
            keep = torch.rand(recipe.batch, shape.patches, generator=draw, device=device).argsort(1)
            rate = _rate(recipe, step, steps)
            share = recipe.removed * (1 - torch.rand((), generator=chance).item())
            left = shape.patches - int(share * shape.patches)
            mean = step % recipe.mean_every == 0
            model.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                if left == shape.patches:
                    logits = model(images)
                elif mean:
                    kept = (keep < left).view(-1, *shape.grid)
                    logits = model(images * to_pixels(kept, shape.size))
                else:
                    with drop_tokens(model, keep[:, :left].sort(1).values):
                        logits = model(images)
            loss = F.cross_entropy(logits.float(), labels)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            if step % 20 == 0:  # not each step, since a GPU is waited for
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"The loss is {loss.item()} at step {step}; start again with a smaller learning rate."
                    )
                accuracy = (logits.argmax(1) == (labels if labels.ndim == 1 else labels.argmax(1))).float().mean()
                bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{accuracy.item():.2f}", refresh=False)
            if checkpoint and ((step + 1) % EVERY == 0 or step + 1 == steps):
                save_checkpoint(checkpoint, run, step=step + 1, model=model.state_dict(), optimizer=optimizer.state_dict())
    return model.cpu().eval()


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.muon:  # timm sorts by shape: matrices get Muon, vectors and embeddings AdamW
        return Muon(model.named_parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, nesterov=True)
    return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def _rate(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step as a share of the recipe's."""
    begin = (1 - recipe.decay) * steps
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, step - begin) / (steps - begin)))
    return min((step + 1) / recipe.warmup, fall)


def uses_bfloat16(name: str, device: torch.device | str) -> bool:
    """Return whether a device trains the ViT in bfloat16: if the recipe says so, and the device is made for it."""
    return RECIPES[name].bf16 and fast_bfloat16(device)


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
    parser.add_argument("name", choices=list(weights.ARCHITECTURES), help="the task: colour grid, or CIFAR-10")
    parser.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    parser.add_argument("--out", type=Path, default=weights.folder(), help="for weights and manifest (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="gradient steps (default: as the shipped weights were trained)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    parser.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one in build/)")
    options = parser.parse_args(arguments)
    name, test = options.name, test_set(options.name, options.data)  # before the long part: missing data is found at once
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = options.checkpoint or Path("build") / f"{name}_vit_{options.seed}.checkpoint"
    path = options.out / f"{name}_vit.safetensors"
    save_vit(train_vit(name, options.data, options.steps, options.seed, checkpoint, device=device), path, name)
    vit = weights.load_vit(path, name)  # what is scored is what is stored
    scores = {"test accuracy": accuracy(vit, test)}
    if name != "grid":  # is it used to missing patches?
        scores["test accuracy with half the patches dropped"] = accuracy(vit, test, share=0.5)
    scores = rounded(scores | {"test images": len(test), "source": test.source})
    arithmetic = "bfloat16" if uses_bfloat16(name, device) else "float32"
    register(path, command("train_vit.py", options, ("seed", "steps")), options.seed, arithmetic, scores)
    print(f"{path}: {scores}")


if __name__ == "__main__":
    main()
