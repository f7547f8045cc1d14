"""How many blocks does an explanation need? The masks of `explain(images, depth=k)` for each k, and what they cost.

    python experiments/depth.py                  200 images of each task, about five minutes of one core
    python experiments/depth.py --images 1000    more

The colour grid with its gates, and CIFAR-10's test images with the plain gates (`weights.pretrained("cifar10", plain=True)`),
since gates with an output per class need the whole prediction. Writes data/results/depth.csv, a row an image and depth, and
depth.json beside it: command, versions, and the hashes of the weights. Columns:

    kept, kl, agree       of the hard mask, removed patches being replaced by the placeholder; kl in nats
    srg_drop, srg_mean    SRG of the soft mask, tokens dropped or replaced by the mean patch
    iou                   of the hard mask with the truth in this image, where it is known (1 if both are empty)
    cost                  an explanation in plain forward passes (processor's seconds, median), the same for all images

Printed is each depth's mean, and the first depth from which on nothing is worse than at full depth: by more than 0.01, with
the 95 % interval of the paired difference on the bad side of 0 (`diffmask_lite.course.depth`). CIFAR-10 is needed under the
data root.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cache import versions
from diffmask_lite import DiffMask, faithfulness
from diffmask_lite.course import results
from diffmask_lite.course.depth import as_good_from
from diffmask_lite.datasets import test_set
from diffmask_lite.vit.randomness import stream
from diffmask_lite.vit.storage import write
from diffmask_lite.weights import gates_file, pretrained, sha256, shipped
from tables import sidecar, text
from timing import ratios

BATCH = 50


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=200, help="test images of each task (default: 200)")
    options.add_argument("--rounds", type=int, default=15, help="timings of each depth (default: 15)")
    options.add_argument("--out", type=Path, default=results.folder(), help="folder for the table (default: %(default)s)")
    options = options.parse_args()
    torch.set_num_threads(1)
    tables, weights = [], {}
    for task, kind in (("grid", "gates"), ("cifar10", "plain_gates")):
        files = [f"{task}_vit.safetensors", gates_file(task, kind)]
        weights |= {file: sha256(shipped(file)) for file in files}
        vit, explainer = pretrained(task, plain=True)
        test = test_set(task)
        chosen = torch.randperm(len(test), generator=stream(0, "test images"))[: options.images].sort().values.tolist()
        samples = [test[i] for i in chosen]
        images = torch.stack([sample[0] for sample in samples])
        truth = torch.stack([sample[2] for sample in samples]) if task == "grid" else None
        for depth in range(explainer.shape.depth + 1):
            table = measure(explainer, images, truth, depth)
            part = images[:BATCH]
            cost = ratios(
                torch.no_grad()(lambda vit=vit, part=part: vit(part)),
                lambda explainer=explainer, part=part, depth=depth: explainer.explain(part, depth=depth),
                options.rounds, clock=time.process_time,
            )  # fmt: skip
            about = {"task": task, "source": test.source, "depth": depth, "image": chosen}
            tables.append(table.assign(**about, cost=statistics.median(cost)))
            print(f"{task}, depth {depth}: {table.mean().round(3).to_dict()}, cost {statistics.median(cost):.2f}", flush=True)
        table = pd.concat([t for t in tables if t.task.iloc[0] == task])
        print(f"{task}: as good as full depth from depth {as_good_from(table)} of {explainer.shape.depth} on")
    keys = ["task", "source", "depth", "image"]
    table = pd.concat(tables, ignore_index=True)
    table = table[[*keys, *[column for column in table if column not in keys]]]
    write(options.out / "depth.csv", text(table))
    about = {"command": f"python experiments/depth.py --images {options.images}", "weights": weights, "versions": versions()}
    write(options.out / "depth.json", sidecar(about))


def measure(explainer: DiffMask, images: Tensor, truth: Tensor | None, depth: int) -> pd.DataFrame:
    """Return one row an image."""
    parts = [explainer.explain(part, depth=depth) for part in images.split(BATCH)]
    keep, score = (torch.cat([getattr(part, name) for part in parts]) for name in ("keep", "score"))
    checks = [explainer.verify(*pair) for pair in zip(images.split(BATCH), keep.split(BATCH), strict=True)]
    found = {name: torch.cat([getattr(check, name) for check in checks]).float() for name in ("kept", "kl", "agree")}
    scores = faithfulness.evaluate(explainer.vit, images, {"mask": score}, ("drop", "mean"), progress=False).scores
    for removal in ("drop", "mean"):
        rows = scores[(scores.metric == "srg") & (scores.removal == removal)].sort_values("image")
        found[f"srg_{removal}"] = torch.tensor(rows.value.to_numpy())
    if truth is not None:
        both, either = ((keep & truth).flatten(1).sum(1), (keep | truth).flatten(1).sum(1))
        found["iou"] = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return pd.DataFrame({name: value.numpy() for name, value in found.items()})


if __name__ == "__main__":
    main()
