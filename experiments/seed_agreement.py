"""Do gates that differ in their seed alone draw the same masks? Train some, and store the masks of the same images.

    python experiments/seed_agreement.py                            the shipped gates and two fresh seeds for each task
    python experiments/seed_agreement.py --steps 1000 --batch 64    the photographs' gates trained in full

Writes data/results/seed_masks.csv: for each task, seed and image the soft mask, two hexadecimal digits a patch (0 … 255 for a
probability of 0 … 1), row by row, and the fingerprint of the ViT. Notebook 04 reads it. The photographs' gates are plain ones
(see `weights.pretrained`). The grid's fresh gates are trained as the shipped ones were. CIFAR-10's are trained with the
shipped recipe but for fewer images, which keeps the whole within some ten minutes on one core: they are comparable with each
other, and only with care with the shipped ones. CIFAR-10 is needed under the data root. A training of the same ViT that is in
the file already is not made again, so that new shipped gates cost seconds; remove the file to start afresh.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from skimage import data as photographs
from torch import Tensor

from diffmask_lite import DiffMask, fit
from diffmask_lite.datasets import CIFAR10, ColourGrid, cat_photograph, preprocess
from diffmask_lite.vit import fingerprint
from diffmask_lite.vit.storage import write
from diffmask_lite.weights import folder, pretrained
from train_gates import GATE_RECIPES, autocast_for

IMAGES = 100  # of each task's test images


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="fresh seeds (default: 1 2)")
    options.add_argument("--steps", type=int, default=600, help="training steps on CIFAR-10 (default: 600)")
    options.add_argument("--batch", type=int, default=32, help="images a step on CIFAR-10 (default: 32)")
    options.add_argument("--threads", type=int, default=1, help="cores to use (default: 1)")
    options.add_argument("--output", type=Path, default=folder() / "results" / "seed_masks.csv")
    options = options.parse_args()
    torch.set_num_threads(options.threads)

    rows, before = [], pd.DataFrame()
    if options.output.exists():
        before = pd.read_csv(options.output, dtype={"image": str, "mask": str})
    shorter = {"steps": options.steps, "batch": options.batch}
    for task, source, images, train, recipe, changed in ((*grid(), "grid", {}), (*cifar10(), "cifar10 plain", shorter)):
        build, settings = GATE_RECIPES[recipe]
        full = {"batch": 64, "autocast": autocast_for(task), **settings}  # what the shipped gates had
        vit, shipped = pretrained(task, plain=True)
        rows += store(shipped, images, task, source, 0, full["steps"], full["batch"])
        settings = full | changed
        for seed in options.seeds:
            key = about(shipped, task, source, seed, settings["steps"], settings["batch"])
            done = before[(before.reindex(columns=list(key)) == pd.Series(key)).all(axis=1)]
            if len(done):
                rows += done.to_dict("records")
                continue
            start = time.perf_counter()
            explainer = DiffMask(vit, seed=seed, **build)
            past = fit(explainer, train, seed=seed, progress=False, **settings)
            rows += store(explainer, images, task, source, seed, settings["steps"], settings["batch"])
            ends = f"KL {sum(past.kl[-50:]) / 50:.3f}, kept {sum(past.kept[-50:]) / 50:.2f}"
            print(f"{task}, seed {seed}: {time.perf_counter() - start:.0f} s; last 50 steps: {ends}", flush=True)
    write(options.output, pd.DataFrame(rows).to_csv(index=False))
    print(f"{options.output}: {len(rows)} masks, {options.output.stat().st_size} bytes")


def grid() -> tuple:
    fresh = ColourGrid(IMAGES, seed=2024)
    return "grid", "generated", dict(enumerate(fresh.images)), ColourGrid(10_000, seed=1)


def cifar10() -> tuple:
    test, to_input = CIFAR10("test"), preprocess(pretrained("cifar10")[0])
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:IMAGES].tolist()
    shown = {"cat": cat_photograph().crop((50, 10, 290, 250))}
    shown |= {name: Image.fromarray(getattr(photographs, name)()) for name in ("astronaut", "coffee", "rocket")}
    images = {name: to_input(picture) for name, picture in shown.items()} | {i: test[i][0] for i in chosen}
    return "cifar10", test.source, images, CIFAR10("train")


def store(
    explainer: DiffMask, images: dict[int | str, Tensor], task: str, source: str, seed: int, steps: int, batch: int
) -> list[dict]:
    masks = explainer.explain(torch.stack(list(images.values()))).mask.flatten(1)  # (images, N)
    levels = (masks * 255).round().to(torch.uint8).numpy()
    key = about(explainer, task, source, seed, steps, batch)
    return [key | {"image": name, "mask": level.tobytes().hex()} for name, level in zip(images, levels, strict=True)]


def about(explainer: DiffMask, task: str, source: str, seed: int, steps: int, batch: int) -> dict:
    """What tells one training from another."""
    return {"task": task, "source": source, "vit": fingerprint(explainer.vit), "seed": seed, "steps": steps, "batch": batch}


if __name__ == "__main__":
    main()
