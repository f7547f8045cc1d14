"""Train the gates that ship, score them on the test images, and enter them into the manifest.

    python experiments/train_gates.py grid --seed 0
    python experiments/train_gates.py cifar10 --seed 0               an order, then the constraint: 20 minutes of one core
    python experiments/train_gates.py cifar10 --plain --seed 0       the constraint alone, from scratch: 10 minutes of one core
    python experiments/train_gates.py cifar10 --published --seed 0   the authors' recipe, more than two hours of one core

A GPU is used where there is one. CIFAR-10 is needed under the data root. Ctrl-C stops after the step in hand, and the same
command goes on from the checkpoint. For a ViT of your own there is `python -m diffmask_lite train-gates`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from diffmask_lite import PUBLISHED, RANKED, DiffMask, fit, fit_with_teacher, weights
from diffmask_lite.datasets import CIFAR10, ColourGrid, test_set
from diffmask_lite.faithfulness import hard_mask_scores
from diffmask_lite.training import hold_out
from diffmask_lite.training.distributed import fast_bfloat16
from manifest import command, register, rounded

# What made the shipped gates: options of `DiffMask` and settings of `fit`; all others are the defaults. "plain" gates are those
# of the paper, mended. "diffmask" learns an order before: `fit_with_teacher`.
GRID = ({"placeholder": "mean"}, {"steps": 800})
GATE_RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "diffmask": (RANKED["explainer"], {"steps": 800}),
    "plain": ({"placeholder": "mean"}, {"steps": 1000, "eps": 0.2, "decay": True}),
    "published": (PUBLISHED["explainer"], PUBLISHED["fit"] | {"steps": 28_000}),
}
EVERY = 500  # steps between two checkpoints


def autocast_for(task: str) -> torch.dtype | None:
    """Return the dtype in which the ViT runs: bfloat16 for CIFAR-10, if the processor has AMX; else float32."""
    return torch.bfloat16 if task.startswith("cifar10") and fast_bfloat16("cpu") else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(weights.ARCHITECTURES), help="the task: colour grid, or CIFAR-10")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--plain", action="store_true", help="the constraint alone, from scratch, as the grid's gates")
    kinds.add_argument("--published", action="store_true", help="the authors' gates and settings, with a price that rises")
    parser.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    parser.add_argument("--steps", type=int, help="gradient steps (default: as the shipped gates were trained)")
    parser.add_argument("--eps", type=float, help="KL divergence allowed, in nats (default: as shipped)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    parser.add_argument("--out", type=Path, default=weights.folder(), help="for gates and manifest (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one in build/)")
    parser.add_argument("--vit", type=Path, help="weights of the ViT (default: those in --out)")
    options = parser.parse_args(arguments)

    name, test = options.name, test_set(options.name, options.data)
    kind = "plain" if options.plain else "published" if options.published else "diffmask"
    build, settings = GRID if name == "grid" else GATE_RECIPES[kind]
    vit = weights.load_vit(options.vit or options.out / f"{name}_vit.safetensors", name)
    vit = vit.to("cuda" if torch.cuda.is_available() else "cpu")
    explainer = DiffMask(vit, seed=options.seed, **build)
    train = ColourGrid(10_000, seed=1) if name == "grid" else CIFAR10("train", options.data)
    path = options.out / weights.gates_file(name, kind, options.seed)
    checkpoint = options.checkpoint or Path("build") / f"{path.stem}.checkpoint"
    given = {key: getattr(options, key) for key in ("steps", "eps") if getattr(options, key) is not None}
    common = {"seed": options.seed, "every": EVERY, "autocast": autocast_for(name)}
    learn = fit
    if kind == "diffmask" and name != "grid":
        learn, (train, _) = fit_with_teacher, hold_out(train)  # on the rest settings were chosen
    if learn(explainer, train, checkpoint=checkpoint, **common, **settings | given).interrupted:
        return 130
    explainer.save(path)
    samples = [test[i] for i in range(len(test))]
    images = torch.stack([sample[0] for sample in samples]).to(next(vit.parameters()))
    truth = torch.stack([sample[2] for sample in samples]).to(images.device) if name == "grid" else None
    scores = hard_mask_scores(explainer, images, truth) | {"test images": len(images), "source": test.source}
    words = command("train_gates.py", options, ("seed", "steps", "eps"), ("plain", "published"))
    register(path, words, options.seed, "bfloat16" if common["autocast"] else "float32", rounded(scores))
    print(f"{path}: {rounded(scores)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
