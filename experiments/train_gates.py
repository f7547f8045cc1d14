"""Train the gates that ship, score them on the test images, and enter them into the manifest.

    python experiments/train_gates.py grid --seed 0
    python experiments/train_gates.py cifar10 --seed 0               some 15 minutes of one core
    python experiments/train_gates.py cifar10 --seed 0 --plain       gates as published, for comparison

CIFAR-10 is needed under the data root. Ctrl-C stops after the step in hand, and the same command goes on from the checkpoint.
For a ViT of your own there is `python -m diffmask_lite train-gates`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from diffmask_lite import RANKED, DiffMask, calibrate, fit, weights
from diffmask_lite.course.results import read
from diffmask_lite.datasets import CIFAR10, ColourGrid, test_set
from diffmask_lite.diffmask import PLACEHOLDERS
from diffmask_lite.faithfulness import hard_mask_scores
from diffmask_lite.training import hold_out
from diffmask_lite.training.calibration import CUT_EPS
from diffmask_lite.training.distributed import fast_bfloat16
from manifest import command, register, rounded
from tables import merge
from validation import Validation

# What made the shipped gates: options of `DiffMask` and settings of `fit`; all others are the defaults. "plain" gates are those
# of the paper, mended: one output for all classes, and nothing that gives the order of the mask a meaning.
GATE_RECIPES = {
    "grid": ({"placeholder": "mean"}, {"steps": 800}),
    "cifar10": (RANKED["explainer"] | {"per_class": True, "hidden": 96}, RANKED["fit"] | {"steps": 4000}),
    "cifar10 plain": ({"placeholder": "mean"}, {"steps": 1000, "eps": 0.2, "decay": True}),
}
EVERY = 500  # steps between two checkpoints, and two looks at held-out images


def autocast_for(task: str) -> torch.dtype | None:
    """Return the dtype in which the ViT runs: bfloat16 for CIFAR-10, if the processor has AMX; else float32."""
    return torch.bfloat16 if task == "cifar10" and fast_bfloat16("cpu") else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=weights.NAMES, help="the task: colour grid, or CIFAR-10")
    parser.add_argument("--plain", action="store_true", help="one output for all classes, and no order (the grid's always are)")
    parser.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    parser.add_argument("--steps", type=int, help="gradient steps (default: as the shipped gates were trained)")
    parser.add_argument("--eps", type=float, help="KL divergence allowed, in nats (default: as shipped)")
    parser.add_argument("--placeholder", choices=PLACEHOLDERS, help="what stands for a removed patch (default: as shipped)")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    parser.add_argument("--out", type=Path, default=weights.folder(), help="for gates and manifest (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one in build/)")
    parser.add_argument("--vit", type=Path, help="weights of the ViT (default: those in --out)")
    options = parser.parse_args(arguments)

    name, test = options.name, test_set(options.name, options.data)
    train = ColourGrid(10_000, seed=1) if name == "grid" else CIFAR10("train", options.data)
    vit = weights.load_vit(options.vit or options.out / f"{name}_vit.safetensors", name)
    kind = "plain_gates" if options.plain and name == "cifar10" else "gates"  # the grid's are plain anyway
    build, settings = GATE_RECIPES["cifar10 plain" if kind == "plain_gates" else name]
    build = build | ({"placeholder": options.placeholder} if options.placeholder else {})
    settings = settings | {"autocast": autocast_for(name)} | ({} if options.steps is None else {"steps": options.steps})
    explainer, ranked = DiffMask(vit, seed=options.seed, **build), "objective" in settings
    checkpoint = options.checkpoint or Path("build") / f"{name}_{kind}_{options.seed}.checkpoint"
    if ranked:
        train, held_out = hold_out(train)
        images, log = torch.stack([image for image, *_ in held_out]), checkpoint.with_suffix(".csv")
        settings |= {"every": EVERY, "watch": Validation(explainer, images, options.eps or CUT_EPS, file=log)}
    elif options.eps is not None:
        settings |= {"eps": options.eps}
    history = fit(explainer, train, seed=options.seed, checkpoint=checkpoint, **settings)
    if history.interrupted:
        return 130
    path = options.out / weights.gates_file(name, kind, options.seed)
    if ranked:
        kl = calibrate(explainer, images, options.eps or CUT_EPS)
        print(f"Cut {explainer.cut:.2f} standard deviations above the mean: KL {kl:.3f} on {len(images)} held-out images.")
    explainer.save(path)
    if ranked:
        about = {"seed": options.seed, "steps": len(history)}
        merge(options.out / "results" / f"{name}_validation.csv", read(log), about)
    samples = [test[i] for i in range(len(test))]
    images = torch.stack([sample[0] for sample in samples])
    truth = torch.stack([sample[2] for sample in samples]) if name == "grid" else None
    scores = hard_mask_scores(explainer, images, truth) | {"test images": len(images), "source": test.source}
    words = command("train_gates.py", options, ("seed", "steps", "eps", "placeholder"), ("plain",))
    arithmetic = "bfloat16" if settings["autocast"] else "float32"
    register(path, words, options.seed, arithmetic, rounded(scores))
    print(f"{path}: {rounded(scores)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
