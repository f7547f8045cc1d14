"""The course's trainings from a terminal: thin commands around the functions that the notebooks use.

python -m diffmask_lite train-vit cifar10      the ViT
python -m diffmask_lite train-gates cifar10    its DiffMask
python -m diffmask_lite explain photo.jpg      a figure of what the ViT needs of a photograph
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from . import classifier, report, weights
from .datasets import CIFAR10, ColourGrid
from .diffmask import DiffMask
from .faithfulness import hard_mask_scores
from .training import fit

# Settings of `fit` that made the shipped gates; all others are its defaults.
GATES = {
    "grid": {"steps": 800},
    "cifar10": {"steps": 3000, "eps": 0.2, "decay": True, "autocast": torch.bfloat16},
}


def train_vit(options: argparse.Namespace) -> None:
    test, source = _test_set(options)  # before the long part, so that missing data is found at once
    vit = classifier.train_vit(options.name, options.data, options.steps, options.seed, _checkpoint(options, "vit"))
    path = options.out / f"{options.name}_vit.safetensors"
    weights.save_vit(vit, path, options.name)
    vit = weights.load_vit(path, options.name)  # what is scored is what is stored
    scores = {"test accuracy": classifier.accuracy(vit, test)}
    if classifier.RECIPES[options.name].removed:  # is it used to missing patches?
        scores["test accuracy with half the patches dropped"] = classifier.accuracy(vit, test, share=0.5)
    _finish(path, options, scores | {"test images": len(test), "source": source})


def train_gates(options: argparse.Namespace) -> None:
    test, source = _test_set(options)
    train = ColourGrid(10_000, seed=1) if options.name == "grid" else CIFAR10("train", options.data)
    vit = weights.load_vit(options.vit or options.out / f"{options.name}_vit.safetensors", options.name)
    chosen = {key: getattr(options, key) for key in ("steps", "eps") if getattr(options, key) is not None}
    settings = GATES[options.name] | chosen
    explainer = DiffMask(vit, options.placeholder, seed=options.seed)
    history = fit(explainer, train, seed=options.seed, checkpoint=_checkpoint(options, "gates"), **settings)
    if history.interrupted:
        raise KeyboardInterrupt
    path = options.out / f"{options.name}_gates.safetensors"
    explainer.save(path)
    samples = [test[i] for i in range(len(test))]
    images = torch.stack([sample[0] for sample in samples])
    truth = torch.stack([sample[2] for sample in samples]) if options.name == "grid" else None
    _finish(path, options, hard_mask_scores(explainer, images, truth) | {"test images": len(images), "source": source})


def _test_set(options: argparse.Namespace) -> tuple[ColourGrid | CIFAR10, str]:
    if options.name == "grid":
        return ColourGrid(2000, seed=2), "generated"
    data = CIFAR10("test", options.data)
    return data, data.source


def _checkpoint(options: argparse.Namespace, part: str) -> Path:
    return options.checkpoint or Path("build") / f"{options.name}_{part}_{options.seed}.checkpoint.safetensors"


def _finish(path: Path, options: argparse.Namespace, scores: dict[str, float | int | str]) -> None:
    scores = {key: round(value, 4) if isinstance(value, float) else value for key, value in scores.items()}
    words = [
        f"--{key} {getattr(options, key)}"
        for key in ("seed", "steps", "eps", "placeholder")
        if getattr(options, key, None) is not None
    ]
    command = " ".join(["python -m diffmask_lite", options.command, options.name, *words])
    weights.register(path, command, options.seed, scores)
    print(f"{path}: {scores}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m diffmask_lite", description="Train what the course explains.")
    commands = top.add_subparsers(dest="command", required=True)
    vit = commands.add_parser("train-vit", help="train our small ViT")
    gates = commands.add_parser("train-gates", help="train the DiffMask of our small ViT")
    for command in (vit, gates):
        command.add_argument("name", choices=weights.NAMES, help="the task: colour grid, or CIFAR-10")
        command.add_argument(
            "--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)"
        )
        command.add_argument("--steps", type=int, help="gradient steps (default: as the shipped weights were trained)")
        command.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
        command.add_argument(
            "--out", type=Path, default=weights.folder(), help="folder for weights and manifest (default: %(default)s)"
        )
        command.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one in build/)")
    gates.add_argument("--vit", type=Path, help="weights or checkpoint of the ViT (default: those in --out)")
    gates.add_argument("--eps", type=float, help="KL divergence allowed, in nats (default: as the shipped gates were trained)")
    gates.add_argument(
        "--placeholder",
        choices=("mean", "zero", "learned"),
        default="mean",
        help="what stands for a removed patch (default: mean)",
    )
    report.add_command(commands)
    vit.set_defaults(run=train_vit)
    gates.set_defaults(run=train_gates)
    return top


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"diffmask_lite: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoint.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
