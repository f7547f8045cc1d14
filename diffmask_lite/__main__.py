"""The course's trainings and measurements from a terminal: thin commands around the functions that the notebooks use.

python -m diffmask_lite train-vit cifar10      the ViT
python -m diffmask_lite train-gates cifar10    its DiffMask; with --model, that of any timm ViT
python -m diffmask_lite evaluate cifar10       DiffMask against all other attribution methods
python -m diffmask_lite explain photo.jpg      a figure of what the ViT needs of a photograph
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from . import classifier, comparison, own_vit, report, results, weights
from .calibration import CUT_EPS, calibrate
from .datasets import CIFAR10, ColourGrid, test_set
from .diffmask import DiffMask
from .faithfulness import hard_mask_scores
from .faithfulness.curves import REMOVALS
from .training import RANKED, fit
from .validation import Validation, hold_out

# What made the shipped gates: options of `DiffMask` and settings of `fit`; all others are the defaults. "plain" gates are those
# of the paper, mended: one output for all classes, and nothing that gives the order of the mask a meaning.
CIFAR_FIT = {"steps": 1000, "eps": 0.2, "decay": True, "autocast": torch.bfloat16}
GATES = {
    "grid": ({"placeholder": "mean"}, {"steps": 800}),
    "cifar10": (
        RANKED["explainer"] | {"per_class": True, "hidden": 96},
        CIFAR_FIT | RANKED["fit"] | {"steps": 4000},
    ),
    "cifar10 plain": ({"placeholder": "mean"}, CIFAR_FIT),
}
EVERY = 500  # steps between two checkpoints, and two looks at held-out images


def train_vit(options: argparse.Namespace) -> None:
    test = test_set(options.name, options.data)  # before the long part, so that missing data is found at once
    vit = classifier.train_vit(options.name, options.data, options.steps, options.seed, _checkpoint(options, "vit"))
    path = options.out / f"{options.name}_vit.safetensors"
    weights.save_vit(vit, path, options.name)
    vit = weights.load_vit(path, options.name)  # what is scored is what is stored
    scores = {"test accuracy": classifier.accuracy(vit, test)}
    if classifier.RECIPES[options.name].removed:  # is it used to missing patches?
        scores["test accuracy with half the patches dropped"] = classifier.accuracy(vit, test, share=0.5)
    _finish(path, options, scores | {"test images": len(test), "source": test.source})


def train_gates(options: argparse.Namespace) -> None:
    if (options.name is None) == (options.model is None):
        raise ValueError(f"Name either a task ({' or '.join(weights.NAMES)}) or a ViT (--model NAME); see --help.")
    if foreign := own_vit.misplaced(options):
        raise ValueError(f"{foreign[0]} is not for {options.model or options.name}; see --help for what is.")
    if options.model:
        own_vit.train(options)
        return
    options.out = options.out or weights.folder()
    test = test_set(options.name, options.data)
    train = ColourGrid(10_000, seed=1) if options.name == "grid" else CIFAR10("train", options.data)
    vit = weights.load_vit(options.vit or options.out / f"{options.name}_vit.safetensors", options.name)
    chosen = {key: getattr(options, key) for key in ("steps", "eps") if getattr(options, key) is not None}
    kind = "plain_gates" if options.plain and options.name == "cifar10" else "gates"  # the grid's are plain anyway
    build, settings = GATES["cifar10 plain" if kind == "plain_gates" else options.name]
    build = build | ({"placeholder": options.placeholder} if options.placeholder else {})
    explainer, checkpoint, ranked = DiffMask(vit, seed=options.seed, **build), _checkpoint(options, kind), "rank" in settings
    if ranked:
        train, held_out = hold_out(train)
        images = torch.stack([image for image, *_ in held_out])
        log = checkpoint.with_suffix(".csv")
        settings = settings | {"every": EVERY, "watch": Validation(explainer, images, options.eps or CUT_EPS, file=log)}
    history = fit(explainer, train, seed=options.seed, checkpoint=checkpoint, **settings | chosen)
    if history.interrupted:
        raise KeyboardInterrupt
    path = options.out / weights.gates_file(options.name, kind, options.seed)
    if ranked:
        kl = calibrate(explainer, images, options.eps or CUT_EPS)
        print(f"Cut {explainer.cut:.2f} standard deviations above the mean: KL {kl:.3f} on {len(images)} held-out images.")
    explainer.save(path)
    if ranked:
        about = {"seed": options.seed, "steps": len(history)}
        results.merge(options.out / "results" / f"{options.name}_validation.csv", results.read(log), about)
    samples = [test[i] for i in range(len(test))]
    images = torch.stack([sample[0] for sample in samples])
    truth = torch.stack([sample[2] for sample in samples]) if options.name == "grid" else None
    _finish(path, options, hard_mask_scores(explainer, images, truth) | {"test images": len(images), "source": test.source})


def evaluate(options: argparse.Namespace) -> None:
    settings = {"images": options.images, "seed": options.seed}
    task = comparison.prepare(options.name, **settings, gates=options.gates, root=options.weights, data=options.data)
    run = comparison.Comparison(
        task, steps=options.steps, seed=options.seed, methods=options.methods, removals=options.removals,
        pieces=options.pieces, report=lambda line: print(line, flush=True),
    )  # fmt: skip
    tables = run.measure()
    for path in results.save(options.name, tables, run.about(_command(options, EVALUATE)), options.out):
        print(f"{path}: {path.stat().st_size} bytes")


EVALUATE = ("images", "steps", "seed", "removals", "methods", "gates")  # what its numbers depend on, beside data and weights


def _checkpoint(options: argparse.Namespace, part: str) -> Path:
    return options.checkpoint or Path("build") / f"{options.name}_{part}_{options.seed}.checkpoint.safetensors"


def _finish(path: Path, options: argparse.Namespace, scores: dict[str, float | int | str]) -> None:
    scores = {key: round(value, 4) if isinstance(value, float) else value for key, value in scores.items()}
    weights.register(path, _command(options, ("seed", "steps", "eps", "placeholder"), ("plain",)), options.seed, scores)
    print(f"{path}: {scores}")


def _command(options: argparse.Namespace, keys: tuple[str, ...], switches: tuple[str, ...] = ()) -> str:
    """Return what to type to make the same again; without the folders, which differ from machine to machine."""
    words = ["python -m diffmask_lite", options.command, options.name]
    for key in keys:
        value = getattr(options, key, None)
        if value is not None:
            parts = [getattr(part, "name", str(part)) for part in (value if isinstance(value, list) else [value])]
            words += [f"--{key}", *(f'"{part}"' if " " in part else part for part in parts)]
    return " ".join(words + [f"--{key}" for key in switches if getattr(options, key, False)])


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m diffmask_lite", description="Train what the course explains.")
    commands = top.add_subparsers(dest="command", required=True)
    vit = commands.add_parser("train-vit", help="train our small ViT")
    gates = commands.add_parser(
        "train-gates", help="train the DiffMask of our small ViTs, or of any timm ViT",
        usage="%(prog)s --model NAME (--pretrained | --weights FILE) --data FOLDER [options]\n"
        "       %(prog)s {grid,cifar10} [options]",
        description=own_vit.ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    vit.add_argument("name", choices=weights.NAMES, help="the task: colour grid, or CIFAR-10")
    vit.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    vit.add_argument(
        "--out", type=Path, default=weights.folder(), help="folder for weights and manifest (default: %(default)s)"
    )
    vit.add_argument("--steps", type=int, help="gradient steps (default: as the shipped weights were trained)")
    vit.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    vit.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one in build/)")
    own_vit.add_options(gates)
    report.add_command(commands)
    vit.set_defaults(run=train_vit)
    gates.set_defaults(run=train_gates)
    _add_evaluate(commands)
    return top


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    about = "measure DiffMask against all other attribution methods, and store a number an image"
    command = commands.add_parser("evaluate", help=about, description=about)
    command.add_argument("name", choices=weights.NAMES, help="the task: colour grid, or CIFAR-10")
    command.add_argument("--images", type=int, default=500, help="test images, drawn once by the seed (default: 500)")
    command.add_argument("--steps", type=int, default=16, help="steps of a removal curve, at most one a patch (default: 16)")
    command.add_argument(
        "--removals", nargs="+", choices=REMOVALS, metavar="REMOVAL",
        help=f"how patches are taken away, of {', '.join(REMOVALS)} (default: drop, mean and noise; and placeholder where that "
        "of the gates is not the mean patch)",
    )  # fmt: skip
    command.add_argument(
        "--methods", nargs="+", choices=comparison.METHODS, metavar="METHOD",
        help=f'whose maps are scored, of {", ".join(comparison.METHODS)} (default: all)',
    )  # fmt: skip
    command.add_argument(
        "--gates", type=Path, nargs="+", metavar="FILE", help="gates of one seed each (default: all of the task in --weights)"
    )
    command.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    command.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    command.add_argument(
        "--weights", type=Path, default=weights.folder(), help="folder of weights with their manifest (default: %(default)s)"
    )
    command.add_argument("--out", type=Path, default=results.folder(), help="folder for the tables (default: %(default)s)")
    command.add_argument(
        "--pieces", type=Path, default=Path("build") / "evaluate",
        help="folder for finished pieces: the same command goes on from them (default: %(default)s)",
    )  # fmt: skip
    command.set_defaults(run=evaluate)


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"diffmask_lite: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from what is stored.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
