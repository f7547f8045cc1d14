"""Train gates for any timm ViT on a folder of images, from a terminal; in one process or in several.

python -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/
torchrun --nproc-per-node 4 -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import torch

from . import together, weights
from .calibration import CUT_EPS, calibrate
from .datasets import ImageFolder, preprocess
from .diffmask import PLACEHOLDERS, DiffMask
from .models import make_vit
from .report import move
from .state import load_state
from .training import RANKED, fit
from .validation import hold_out

ABOUT = """\
Train the gates that explain a ViT: which patches it needs for what it says. There are two kinds of call.

Any ViT from timm, on a folder of your images in any layout (labels are not used):
  python -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/
  python -m diffmask_lite explain photo.jpg --model vit_base_patch16_224 --pretrained \\
      --gates vit_base_patch16_224_gates.safetensors

On several GPUs, which share each batch; the result is that of one with the whole batch:
  torchrun --nproc-per-node 4 -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/

The small ViTs of the course, as they were trained; the test images score the result:
  python -m diffmask_lite train-gates cifar10

Ctrl-C stops after the step in hand, and the same command goes on from the checkpoint."""


CUT_IMAGES = 500  # on so many held-out images gates that rank are cut
OURS = ("vit", "plain")
OTHERS = (
    "pretrained", "weights", "start", "batch", "lr", "per_class", "context", "ranked", "every", "workers", "float32", "device"
)  # fmt: skip


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of both kinds of call to the parser of `train-gates`."""
    command.add_argument("name", nargs="?", choices=weights.NAMES, help="the task of one of our small ViTs, or --model")
    group = command.add_argument_group("for both kinds")
    group.add_argument(
        "--data", type=Path,
        help="folder of your images; for ours, of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)",
    )  # fmt: skip
    group.add_argument("--steps", type=int, help="gradient steps (default: 2000; for ours, as the shipped were trained)")
    group.add_argument("--eps", type=float, help="KL divergence allowed, in nats (default: 0.1; for ours, as shipped)")
    group.add_argument(
        "--placeholder", choices=PLACEHOLDERS,
        help='what stands for a removed patch, "drop" being nothing at all (default: mean; for ours, as shipped)',
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    group.add_argument(
        "--out", type=Path,
        help="folder for gates and log (default: the working directory; for ours, that of the shipped weights)",
    )  # fmt: skip
    group.add_argument(
        "--checkpoint", type=Path, help="file to save to and to go on from (default: beside the gates; for ours, in build/)"
    )
    group = command.add_argument_group("for any timm ViT")
    group.add_argument("--model", metavar="NAME", help="timm's name of the ViT")
    group.add_argument("--pretrained", action="store_true", help="take the weights that timm has for it (network, once)")
    group.add_argument("--weights", type=Path, metavar="FILE", help="or take its state dict from this safetensors file")
    group.add_argument(
        "--start", type=Path, metavar="FILE",
        help="start from the gates of an earlier run, for a ViT of the same shape with these or other weights",
    )  # fmt: skip
    group.add_argument("--batch", type=int, help="images a step, over all processes together (default: 64)")
    group.add_argument("--lr", type=float, help="learning rate of the gates (default: 0.003, ranked: 0.01)")
    group.add_argument("--per-class", action="store_true", help="give each gate an output for every class")
    group.add_argument("--context", action="store_true", help="let each gate also read the class token")
    group.add_argument(
        "--ranked", action="store_true",
        help=f"learn to rank, too, as the shipped CIFAR-10 gates do; the mask is then cut at --eps (default: {CUT_EPS}) on "
        "images held out for it",
    )  # fmt: skip
    group.add_argument("--every", type=int, help="steps between two checkpoints (default: 100)")
    group.add_argument(
        "--workers", type=int, help="processes that load images, beside each process (default: 4, or as many as cores)"
    )
    group.add_argument("--float32", action="store_true", help="run the ViT in float32 (default: bfloat16, in half the memory)")
    group.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    group = command.add_argument_group("for our small ViTs")
    group.add_argument("--vit", type=Path, help="weights or checkpoint of the ViT (default: those in --out)")
    group.add_argument(
        "--plain", action="store_true",
        help="gates as published, for comparison: one output for all classes, and no order (the grid's always are)",
    )  # fmt: skip


def misplaced(options: argparse.Namespace) -> list[str]:
    """Return the options that were given but belong to the other kind of call."""
    given = [key for key in (OURS if options.model else OTHERS) if getattr(options, key) not in (None, False)]
    return [f"--{key.replace('_', '-')}" for key in given]


def train(options: argparse.Namespace) -> None:
    """Do what the command says. Writes gates, checkpoint, and a CSV log with a row a step."""
    if not (options.pretrained or options.weights):
        raise ValueError(f"{options.model} without weights knows nothing to explain; add --pretrained, or --weights FILE.")
    if options.data is None:
        raise ValueError("Say which images to learn from: --data FOLDER.")
    if options.start and (options.placeholder or options.per_class or options.context):
        raise ValueError("Placeholder and kind of gates come with --start; leave --placeholder, --per-class, --context out.")
    body = load_state(options.start)[1].get("body", {}) if options.start else {}
    vit = make_vit(options.model, body, options.pretrained, options.weights)
    data, held_out = ImageFolder(options.data, preprocess(vit)), None
    kind, settings = {"per_class": options.per_class, "context": options.context}, {}
    if options.ranked:
        data, held_out = hold_out(data)
        kind, settings = kind | RANKED["explainer"], RANKED["fit"]
    kind |= {"placeholder": options.placeholder} if options.placeholder else {}
    if options.start:
        explainer = DiffMask.load(options.start, vit, same_vit=False)
    else:
        explainer = DiffMask(vit, seed=options.seed, **kind)
    move(explainer, options.device)
    team = together.join(next(vit.parameters()).device)

    name = re.sub(r"[^\w.-]+", "_", options.model)
    path = (options.out or Path()) / weights.gates_file(name, seed=options.seed)
    checkpoint = options.checkpoint or path.with_suffix(".checkpoint.safetensors")
    if team.main:
        start = f"going on from {checkpoint}" if checkpoint.exists() else f"checkpoints go to {checkpoint}"
        print(f"{len(data)} images, {team.size} process{'es' if team.size > 1 else ''}; {start}", flush=True)
    chosen = {key: getattr(options, key) for key in ("eps", "batch", "lr", "every", "workers")}
    chosen = {key: value for key, value in chosen.items() if value is not None}
    history = fit(
        explainer, data, options.steps or 2000, seed=options.seed, checkpoint=checkpoint,
        autocast=None if options.float32 else torch.bfloat16,
        **{"workers": min(4, os.cpu_count() or 1)} | settings | chosen,
    )  # fmt: skip
    if team.main:
        history.frame().to_csv(path.with_suffix(".csv"), index=False)
        print(f"{path.with_suffix('.csv')}: {len(history)} steps")
    if history.interrupted:
        raise KeyboardInterrupt
    if team.main:
        if held_out is not None:
            few = torch.stack([held_out[i][0] for i in range(min(CUT_IMAGES, len(held_out)))]).to(explainer.gates[0].last.bias)
            kl = calibrate(explainer, few, options.eps or CUT_EPS, batch=options.batch or 64)
            print(f"cut {explainer.cut:.2f} standard deviations above the mean: KL {kl:.3f} on {len(few)} held-out images")
        explainer.save(path)
        print(f"{path}: gates for {options.model}")
