"""Do gates that differ in their seed alone draw the same masks? Store the masks that they give the same images.

    python experiments/seed_agreement.py    half a minute of one core, the images included, where no gates have to be trained

Writes data/results/seed_masks.csv: for each task, seed and image the soft mask, two hexadecimal digits a patch (0 … 255 for a
probability of 0 … 1), row by row, and the fingerprint of the ViT. Notebook 05 reads it. The gates of "cifar10" ship in
three seeds. Of the grid's one seed ships, and the others are trained here as it was, some two minutes each; a training of the
same ViT that is in the file already is not made again. CIFAR-10 is needed under the data root.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from diffmask_lite import DiffMask, fit
from diffmask_lite.datasets import CIFAR10, ColourGrid, cat_photograph, preprocess
from diffmask_lite.vit import fingerprint
from diffmask_lite.vit.storage import write
from diffmask_lite.weights import folder, pretrained, seeds_of
from train_gates import GATE_RECIPES, GRID, autocast_for

IMAGES, SEEDS = 100, (0, 1, 2)  # of each task's test images


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--threads", type=int, default=1, help="cores to use (default: 1)")
    options.add_argument("--output", type=Path, default=folder() / "results" / "seed_masks.csv")
    options = options.parse_args()
    torch.set_num_threads(options.threads)

    rows, before = [], pd.DataFrame()
    if options.output.exists():
        before = pd.read_csv(options.output, dtype={"image": str, "mask": str})
    for (task, source, images), (build, settings) in ((grid(), GRID), (cifar10(), GATE_RECIPES["diffmask"])):
        settings = {"batch": 64, "autocast": autocast_for(task), **settings}
        vit, shipped = pretrained(task)
        for seed in SEEDS:
            key = about(shipped, task, source, seed, settings["steps"], settings["batch"])
            done = before[(before.reindex(columns=list(key)) == pd.Series(key)).all(axis=1)]
            if seed in seeds_of(task):
                explainer = pretrained(task, seed=seed)[1]
            elif len(done):
                rows += done.to_dict("records")
                continue
            else:
                start = time.perf_counter()
                explainer = DiffMask(vit, seed=seed, **build)
                past = fit(explainer, ColourGrid(10_000, seed=1), seed=seed, progress=False, **settings)
                ends = f"KL {sum(past.kl[-50:]) / 50:.3f}, kept {sum(past.kept[-50:]) / 50:.2f}"
                print(f"{task}, seed {seed}: {time.perf_counter() - start:.0f} s; last 50 steps: {ends}", flush=True)
            rows += store(explainer, images, key)
    write(options.output, pd.DataFrame(rows).to_csv(index=False))
    print(f"{options.output}: {len(rows)} masks, {options.output.stat().st_size} bytes")


def grid() -> tuple:
    return "grid", "generated", dict(enumerate(ColourGrid(IMAGES, seed=2024).images))


def cifar10() -> tuple:
    test = CIFAR10("test")
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:IMAGES].tolist()
    cat = preprocess(pretrained("cifar10")[0])(cat_photograph())  # by which the tests know the table, without CIFAR-10
    return "cifar10", test.source, {"cat": cat} | {i: test[i][0] for i in chosen}


def store(explainer: DiffMask, images: dict[int | str, Tensor], key: dict) -> list[dict]:
    masks = explainer.explain(torch.stack(list(images.values()))).mask.flatten(1)  # (images, N)
    levels = (masks * 255).round().to(torch.uint8).numpy()
    return [key | {"image": name, "mask": level.tobytes().hex()} for name, level in zip(images, levels, strict=True)]


def about(explainer: DiffMask, task: str, source: str, seed: int, steps: int, batch: int) -> dict:
    """What tells one training from another."""
    return {"task": task, "source": source, "vit": fingerprint(explainer.vit), "seed": seed, "steps": steps, "batch": batch}


if __name__ == "__main__":
    main()
