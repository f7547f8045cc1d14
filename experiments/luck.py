"""Are hard masks better than luck? Every kind of gates, and its strongest rivals, beside random and moved masks of their size.

    python experiments/luck.py cifar10        some 30 minutes of one core
    python experiments/luck.py grid

Writes data/results/NAME_luck.csv, a row a method, twin and metric (`faithfulness.luck`; test images, all seeds that ship), and
NAME_sizes.csv, a row an image: how many patches the gates of seed 0 keep, and the fewest that greedy elimination leaves at no
more than the gates' mean KL, and at no more than their KL on this image. Rivals keep as many patches of each image as the first
gates. Removed patches are dropped; on the grid, the mean patch stands there. NAME_luck_own.csv asks gates that learned with
another removal by that one, a row a training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from compare import DIFFMASK, Task, prepare
from diffmask_lite import attribution, faithfulness, weights
from diffmask_lite.course import results
from diffmask_lite.course.game import greedy_subset
from diffmask_lite.vit import fingerprint
from diffmask_lite.vit.randomness import stream
from diffmask_lite.vit.storage import write
from tables import text

RIVALS = ("direct", "direct_paths", "gradient_attention", "gradient_drop", "integrated_drop", "leave_one_out")
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(weights.ARCHITECTURES), help="the task")
    parser.add_argument("--images", type=int, default=500, help="test images, drawn once by a seed (default: 500)")
    parser.add_argument("--greedy", type=int, default=50, help="images for the greedy bound (default: 50)")
    parser.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    parser.add_argument("--weights", type=Path, default=weights.folder(), help="folder of weights (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=results.folder(), help="folder for the tables (default: %(default)s)")
    options = parser.parse_args()
    task = prepare(options.name, options.images, root=options.weights, data=options.data)
    vit, images = task.vit, task.images

    with torch.no_grad():
        kept = {
            method: torch.stack([torch.cat([e.explain(part).keep for part in images.split(BATCH)]) for e in explainers])
            for method, explainers in task.explainers.items()
        }
    sizes = kept[DIFFMASK][0].flatten(1).sum(1)
    for name in RIVALS:
        maps = torch.cat([attribution.METHODS[name](vit, part) for part in images.split(BATCH)])
        kept[name] = faithfulness.best(maps, sizes)[None]
    removal = "mean" if options.name == "grid" else "drop"
    table = faithfulness.luck(vit, images, kept, removal, logits=task.logits)
    save(table.assign(removal=removal, vit=fingerprint(vit)), options.out / f"{options.name}_luck.csv")
    print(table.round(3).to_string(index=False))

    by_own = by_own_removal(task, kept, removal)
    if len(by_own):
        save(by_own.assign(vit=fingerprint(vit)), options.out / f"{options.name}_luck_own.csv")
        print(by_own.round(3).to_string(index=False))

    explainer = task.explainers[DIFFMASK][0]
    check = explainer.verify(images, kept[DIFFMASK][0], task.logits, removal)
    allowed, rows = check.kl.mean().item(), []
    some = torch.randperm(len(images), generator=stream(0, "greedy"))[: options.greedy].sort().values.tolist()
    for i in some:
        path, kl = greedy_subset(explainer, images[i])
        fits = path.flatten(1).sum(1)[kl <= allowed]
        own = path.flatten(1).sum(1)[kl <= max(check.kl[i].item(), kl.min().item())]
        rows.append(
            {
                "image": task.index[i].item(), "kept": int(sizes[i]), "kl": check.kl[i].item(),
                "greedy": int(fits.min()), "greedy at the mask's KL": int(own.min()),
            }
        )  # fmt: skip
    bound = pd.DataFrame(rows)
    save(bound.assign(vit=fingerprint(vit)), options.out / f"{options.name}_sizes.csv")
    print(bound.describe().round(2).to_string())
    print("Spearman, kept and greedy:", round(bound["kept"].corr(bound["greedy"], "spearman"), 3))


def by_own_removal(task: Task, kept: dict[str, Tensor], common: str) -> pd.DataFrame:
    """Compare masks with their twins by the removal that their gates learned with, where that is not the common one."""
    found = []
    for method, explainers in task.explainers.items():
        for seed, explainer in enumerate(explainers):
            if explainer.kind != common:
                masks, asked = {method: kept[method][seed]}, {"explainer": explainer, "logits": task.logits}
                table = faithfulness.luck(task.vit, task.images, masks, "placeholder", **asked)
                found.append(table.assign(seed=seed, removal=explainer.kind))
    return pd.concat(found) if found else pd.DataFrame()


def save(table: pd.DataFrame, path: Path) -> None:
    write(path, text(table))


if __name__ == "__main__":
    main()
