"""The paper's experiment on CIFAR-10, with our ViT: patches give way to uniform noise at 29 points, from both ends of a map.

    python experiments/paper_curves.py
    python experiments/paper_curves.py cifar10

"Positive" removal takes the most relevant patches away first (MoRF), "negative" the least relevant (LeRF). Writes, beside the
other comparisons, `cifar10_paper.csv`, a row a method, seed and image with both areas and their difference;
`cifar10_paper_curves.csv`, the curves, mean over images and seeds; and `cifar10_paper.json`, what was measured. Notebook 08
reads them. CIFAR-10 is needed under the data root. A stopped run goes on where it was, and new gates leave the other methods'
measurements as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from compare import Comparison, Task, prepare
from diffmask_lite.course import results
from diffmask_lite.vit.storage import write
from tables import sidecar, text

NAME = "cifar10_paper"
REMOVAL, STEPS = "noise", 28  # 29 points, both end points included
SEED = 0
METRICS = ["morf", "lerf", "srg"]


def measure(task: Task, cache: Path, steps: int = STEPS) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """Return the scores, a row an image, the mean curves, and the sidecar."""
    run = Comparison(task, steps=steps, seed=SEED, removals=[REMOVAL], cache=cache, report=report)
    tables = [run.curves(method, REMOVAL) for method in run.methods]
    scores = pd.concat([table["scores"] for table in tables], ignore_index=True)[[*results.KEYS[1:], *METRICS]]
    curves = pd.concat([table["curves"] for table in tables], ignore_index=True)
    about = run.run | {
        "command": f"python experiments/paper_curves.py {task.name} --images {len(task.images)}",
        "commit": run.cache.commits,
        "methods": run.methods,
        "removals": [REMOVAL],
    }
    for table in (scores, curves):
        table.insert(0, "source", task.source)
    return scores, curves, about


def report(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("name", nargs="?", default="cifar10", help="whose ViT and gates (default: %(default)s)")
    options.add_argument("--images", type=int, default=100, help="test images, drawn once by the seed (default: 100)")
    options.add_argument("--threads", type=int, help="cores to use (default: all)")
    options.add_argument("--cache", type=Path, default=Path("build") / "compare", help="folder of finished pieces")
    options.add_argument("--out", type=Path, default=results.folder(), help="folder for the tables (default: %(default)s)")
    options = options.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    scores, curves, about = measure(prepare(options.name, options.images, seed=SEED), options.cache)
    texts = {".csv": text(scores), "_curves.csv": text(curves), ".json": sidecar(about)}
    for ending, content in texts.items():
        path = options.out / f"{options.name}_paper{ending}"
        write(path, content)
        report(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
