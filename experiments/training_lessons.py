"""The trainings that notebook 04 draws: four traps and their mending, what ε buys, how many steps and images it takes.

    python experiments/training_lessons.py                    everything, and writes data/results/training_*.csv
    python experiments/training_lessons.py --only grid        without CIFAR-10 (needs no data)
    python experiments/training_lessons.py --seeds 0          one seed

Each training is scored as a user would score it: hard masks on 2,000 images that no training saw. A result that is in the files
already is not computed again, so an interrupted run goes on; remove the files to start afresh.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from diffmask_lite import PUBLISHED, DiffMask, fit
from diffmask_lite.datasets import CIFAR10, ColourGrid
from diffmask_lite.faithfulness import hard_mask_scores, pooled_iou
from diffmask_lite.training.history import COLUMNS
from diffmask_lite.vit import fingerprint
from diffmask_lite.vit.storage import write
from diffmask_lite.weights import folder, load_vit
from tables import locked
from train_gates import autocast_for

BLUE = "blue"  # a placeholder that looks like what is counted
DESCENT = {"alpha_lr": -0.3, "alpha_bounds": (0.0, 200.0)}  # the multiplier goes down where the constraint is violated
FREE = {"alpha_bounds": (0.0, 200.0)}  # the multiplier may reach 0
AUTHORS = PUBLISHED | {"steps": 28_000}
SWEEPS = ("eps", "steps", "images")  # of their trainings only the end is drawn


@dataclass(frozen=True)
class Run:
    """One training: the lesson it is for, its name there, and what differs from the defaults."""

    lesson: str
    name: str
    task: str = "grid"
    steps: int = 400
    images: int = 10_000
    explainer: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        if self.task == "cifar10":  # minutes each
            return (0,)
        return (0, 1) if self.lesson in SWEEPS else (0, 1, 2)

    @property
    def every(self) -> int:
        """Steps between two stored rows of a history: some hundred rows of each are enough to draw."""
        return max(5, self.steps // 400)


CIFAR = {"eps": 0.2, "autocast": autocast_for("cifar10")}
SLOW = {"lr": 1e-3}  # a third of the default
RUNS = [
    Run("reference", "sound"),
    Run("sign", "α ascends", **AUTHORS),
    Run("sign", "α descends", **AUTHORS | {"fit": PUBLISHED["fit"] | DESCENT}),
    Run("sign, our settings", "α descends", fit=DESCENT),
    Run("placeholder", "blue placeholder", explainer={"placeholder": BLUE}),
    Run("placeholder", "learned placeholder", explainer={"placeholder": "learned"}),
    Run("raw states", "normalised", fit=SLOW),
    Run("raw states", "as they are", explainer={"normalise": False}, fit=SLOW),
    Run("sparsity", "mean log P", fit={"sparsity": "log"}),
    Run("floor", "α may reach 0", fit=FREE),
    *(Run("eps", f"ε = {eps:g}", fit={"eps": eps}) for eps in (0.05, 0.2, 0.8)),
    *(Run("eps", f"ε = {eps:g}", "cifar10", 400, 50_000, fit=CIFAR | {"eps": eps}) for eps in (0.05, 0.2, 0.8)),
    *(Run("steps", f"{steps} steps", steps=steps) for steps in (50, 100, 200, 800)),
    *(Run("images", f"{images} images", images=images) for images in (10, 100, 1000)),
]


def train(run: Run, seed: int, root: Path | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the history of one training, and the scores of its hard masks."""
    model = load_vit(folder() / f"{run.task}_vit.safetensors", run.task)
    settings = dict(run.explainer)
    if settings.get("placeholder") == BLUE:
        settings["placeholder"] = blue_embedding(model)
    if run.task == "grid":
        data, test = ColourGrid(run.images, seed=seed), ColourGrid(2000, seed=123_456_789)
        images, truth = test.images, test.cells
    else:
        data, test = CIFAR10("train", root), CIFAR10("test", root)
        some = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:2000].tolist()
        images, truth = torch.stack([test[i][0] for i in some]), None
    start = time.perf_counter()
    explainer = DiffMask(model, seed=seed, **settings)
    history = fit(explainer, data, run.steps, seed=seed, progress=False, **run.fit)
    seconds = time.perf_counter() - start
    scores = hard_mask_scores(explainer, images, truth)
    if truth is not None:
        keep = torch.cat([explainer.explain(part).keep for part in images.split(500)])
        scores["inverse iou"] = pooled_iou(keep, ~truth)
    return history.frame(), scores | {"seconds": round(seconds, 1), "vit": fingerprint(model)}


def blue_embedding(model: torch.nn.Module) -> torch.Tensor:
    """The embedding (D,) of a patch in the counted colour."""
    grid = ColourGrid(100, seed=0)
    blue = grid.shades[grid.cells].mean(0)  # over all blue cells: no jitter
    pixels = (2 * blue - 1).view(1, 3, 1, 1).expand(1, 3, *model.patch_embed.img_size)
    with torch.no_grad():
        return model.patch_embed(pixels)[0, 0]


def stored(paths: Iterable[Path]) -> list[pd.DataFrame]:
    return [pd.read_csv(path) if path.exists() else pd.DataFrame() for path in paths]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of those that a training is run with")
    options.add_argument("--only", choices=("grid", "cifar10"), help="the runs of one task")
    options.add_argument("--lessons", nargs="+", help="the runs of these lessons")
    options.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA)")
    options.add_argument("--out", type=Path, default=folder() / "results", help="default: %(default)s")
    options = options.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    paths = options.out / "training_histories.csv", options.out / "training_scores.csv"
    for seed in options.seeds:
        for run in RUNS:
            key = {"lesson": run.lesson, "run": run.name, "task": run.task, "seed": seed}
            _, scores = stored(paths)
            done = not scores.empty and (scores[list(key)] == pd.Series(key)).all(axis=1).any()
            wanted = options.only in (None, run.task) and (not options.lessons or run.lesson in options.lessons)
            if done or not wanted or seed not in run.seeds:
                continue
            history, score = train(run, seed, options.data)
            with locked(paths[1]):
                histories, scores = stored(paths)  # again, for a second process may have added to them meanwhile
                settings = {"steps": run.steps, "images": run.images, "eps": run.fit.get("eps", 0.1)}
                scores = pd.concat([scores, pd.DataFrame([key | settings | score])], ignore_index=True)
                if run.lesson not in SWEEPS:
                    rows = history.iloc[:: run.every][list(COLUMNS)].round(4)
                    histories = pd.concat([histories, rows.assign(**key)], ignore_index=True)
                write(paths[0], histories.to_csv(index=False))
                write(paths[1], scores.round(4).to_csv(index=False))
            shown = {name: round(value, 3) for name, value in score.items() if isinstance(value, float)}
            print(f"{run.lesson:<14}{run.name:<20}{run.task:<9}seed {seed}  {shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
