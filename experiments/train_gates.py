"""Train the gates that ship, score them on the test images, and enter them into the manifest.

    python experiments/train_gates.py grid --seed 0
    python experiments/train_gates.py cifar10 --seed 0               some 15 minutes of one core
    python experiments/train_gates.py cifar10 --seed 0 --plain       the constraint alone, for comparison
    python experiments/train_gates.py cifar10_masked --seed 0        the recipe for any ViT, some 12 minutes of one core
    python experiments/train_gates.py cifar10_masked --published     the authors' recipe, more than two hours of one core

CIFAR-10 is needed under the data root. Ctrl-C stops after the step in hand, and the same command goes on from the checkpoint.
For a ViT of your own there is `python -m diffmask_lite train-gates`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset

from diffmask_lite import PUBLISHED, RANKED, DiffMask, Ranking, calibrate, fit, teach, weights
from diffmask_lite.course.results import read
from diffmask_lite.datasets import CIFAR10, ColourGrid, test_set
from diffmask_lite.diffmask import PLACEHOLDERS
from diffmask_lite.faithfulness import hard_mask_scores
from diffmask_lite.training import hold_out
from diffmask_lite.training.calibration import CUT_EPS
from diffmask_lite.training.distributed import fast_bfloat16
from diffmask_lite.training.objective import Step, by_slope
from manifest import command, register, rounded
from tables import merge
from validation import Validation


def by_even_slope(step: Step, score: Tensor) -> Tensor:
    """`by_slope` at degrees that are drawn evenly, as the gates of "cifar10" learned."""
    return by_slope(step, score, power=1.0)


# What made the shipped gates: options of `DiffMask` and settings of `fit`; all others are the defaults. "plain" gates are those
# of the paper, mended: one output for all classes, and nothing that gives the order of the mask a meaning. "cifar10" has gates
# of an earlier form, cut at one level for all images.
EARLIER = {"placeholder": "drop", "context": True, "per_class": True, "hidden": 96}
GATE_RECIPES = {
    "grid": ({"placeholder": "mean"}, {"steps": 800}),
    "cifar10": (EARLIER, RANKED["fit"] | {"objective": Ranking(by_even_slope), "steps": 4000}),
    "cifar10_masked": (RANKED["explainer"], RANKED["fit"] | {"steps": 400}),
    "cifar10_whole": (RANKED["explainer"], RANKED["fit"] | {"steps": 400}),
    "plain": ({"placeholder": "mean"}, {"steps": 1000, "eps": 0.2, "decay": True}),
    "published": (PUBLISHED["explainer"], PUBLISHED["fit"] | {"steps": 28_000}),
}
TAUGHT = 6000  # training images of which gates learn the maps of `integrated_drop`
EVERY = 500  # steps between two checkpoints, and two looks at held-out images


def autocast_for(task: str) -> torch.dtype | None:
    """Return the dtype in which the ViT runs: bfloat16 for CIFAR-10, if the processor has AMX; else float32."""
    return torch.bfloat16 if task.startswith("cifar10") and fast_bfloat16("cpu") else None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(weights.ARCHITECTURES), help="the task: colour grid, or CIFAR-10")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--plain", action="store_true", help="one output for all classes, and no order (the grid's always are)")
    which.add_argument("--published", action="store_true", help="the authors' gates and settings, with a price that rises")
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
    recipe = "published" if options.published else "plain" if options.plain and name != "grid" else name
    kind = "gates" if recipe == name else f"{recipe}_gates"
    build, settings = GATE_RECIPES[recipe]
    build = build | ({"placeholder": options.placeholder} if options.placeholder else {})
    settings = settings | {"autocast": autocast_for(name)} | ({} if options.steps is None else {"steps": options.steps})
    explainer, ranked = DiffMask(vit, seed=options.seed, **build), "objective" in settings
    checkpoint = options.checkpoint or Path("build") / f"{name}_{kind}_{options.seed}.checkpoint"
    if ranked:
        train, held_out = hold_out(train)
        images, log = torch.stack([image for image, *_ in held_out]), checkpoint.with_suffix(".csv")
        per_image, shipped = name != "cifar10", 0.25 if name == "cifar10" else CUT_EPS
        eps = shipped if options.eps is None else options.eps
        if name != "cifar10":
            train = Subset(train.dataset, train.indices[:TAUGHT])
            settings |= {"objective": teach(vit, train)}
        settings |= {"every": EVERY, "watch": Validation(explainer, images, eps, per_image=per_image, file=log)}
    elif options.eps is not None:
        settings |= {"eps": options.eps}
    history = fit(explainer, train, seed=options.seed, checkpoint=checkpoint, **settings)
    if history.interrupted:
        return 130
    path = options.out / weights.gates_file(name, kind, options.seed)
    if ranked:
        kl = calibrate(explainer, images, eps, per_image=per_image)
        print(f"Cut so that masks have a KL of {kl:.3f} on {len(images)} held-out images.")
    explainer.save(path)
    if ranked:
        about = {"seed": options.seed, "steps": len(history)}
        merge(options.out / "results" / f"{name}_validation.csv", read(log), about)
    samples = [test[i] for i in range(len(test))]
    images = torch.stack([sample[0] for sample in samples])
    truth = torch.stack([sample[2] for sample in samples]) if name == "grid" else None
    scores = hard_mask_scores(explainer, images, truth) | {"test images": len(images), "source": test.source}
    words = command("train_gates.py", options, ("seed", "steps", "eps", "placeholder"), ("plain", "published"))
    arithmetic = "bfloat16" if settings["autocast"] else "float32"
    register(path, words, options.seed, arithmetic, rounded(scores))
    print(f"{path}: {rounded(scores)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
