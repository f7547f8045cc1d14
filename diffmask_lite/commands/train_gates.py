"""Train gates for any timm ViT on a folder of images, from a terminal; in one process or in several.

python -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/
torchrun --nproc-per-node 4 -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from .. import weights
from ..datasets import ImageFolder, preprocess
from ..diffmask import PLACEHOLDERS, DiffMask
from ..training import RANKED, calibrate, fit, hold_out, teach
from ..training.calibration import CUT_EPS, ENOUGH
from ..training.distributed import fast_bfloat16, join
from ..vit import models
from ..vit.storage import load_tensors, write
from .explain import move
from .options import add_model_options, model_settings

ABOUT = """\
Train the gates that explain a ViT: which patches it needs for what it says. The ViT is any of timm's that fits, and learns
nothing; the images are a folder of yours, in any layout (labels are not used).

  python -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/
  python -m diffmask_lite explain photo.jpg --model vit_base_patch16_224 --pretrained \\
      --gates vit_base_patch16_224_gates.safetensors

A ViT of your own training, from its checkpoint or from a folder that timm or transformers wrote:
  python -m diffmask_lite train-gates --model vit_small_patch16_224 --weights checkpoint.pth --data photos/
  python -m diffmask_lite train-gates --model local-dir:my_vit --data photos/

On several GPUs, which share each batch; the result is that of one with the whole batch:
  torchrun --nproc-per-node 4 -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/

Ctrl-C stops after the step in hand, and the same command goes on from the checkpoint."""

TAUGHT = 6000  # images whose maps gates learn that rank, at most
CUT_IMAGES = 1000  # held-out images from which the cut is learned, at most


def add_train_gates(commands: Any) -> None:
    """Add `train-gates` to the command line's parser."""
    command = commands.add_parser(
        "train-gates",
        help="train the gates of any timm ViT",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(command)
    command.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder of your images")
    command.add_argument("--steps", type=int, default=2000, help="gradient steps (default: 2000)")
    command.add_argument("--eps", type=float, help=f"KL divergence allowed, in nats (default: 0.1, ranked: {CUT_EPS})")
    command.add_argument(
        "--placeholder", choices=PLACEHOLDERS,
        help='what stands for a removed patch, "drop" being nothing at all (default: mean, ranked: drop)',
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    command.add_argument("--out", type=Path, default=Path(), help="folder for gates and log (default: the working directory)")
    command.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one beside the gates)")
    command.add_argument(
        "--start", type=Path, metavar="FILE",
        help="start from the gates of an earlier run, for a ViT of the same sizes; its weights may be others, and so may its "
        "classes, unless it was run with --per-class",
    )  # fmt: skip
    command.add_argument("--batch", type=int, default=64, help="images a step, over all processes together (default: 64)")
    command.add_argument("--lr", type=float, help="learning rate of the gates (default: 0.003, ranked: 0.01)")
    command.add_argument("--per-class", action="store_true", help="give each gate an output for every class")
    command.add_argument("--context", action="store_true", help="let each gate also read the class token, or the mean patch")
    command.add_argument(
        "--ranked", action="store_true",
        help="learn to rank; how far down its order an image is kept is then learned, for --eps, on images held out for it",
    )  # fmt: skip
    command.add_argument("--every", type=int, default=100, help="steps between two checkpoints (default: 100)")
    command.add_argument(
        "--workers", type=int, default=min(4, os.cpu_count() or 1),
        help="processes that load images, beside each process (default: 4, or as many as cores)",
    )  # fmt: skip
    command.add_argument(
        "--float32", action="store_true",
        help="run the ViT in float32 (default: bfloat16 on a GPU that computes in it and a processor with AMX, else float32)",
    )  # fmt: skip
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Do what the command says. Writes gates, checkpoint, and a CSV log with a row a step."""
    if not (options.pretrained or options.weights or options.model.startswith(models.FOLDER)):
        raise ValueError(f"{options.model} without weights knows nothing to explain; add --pretrained, or --weights FILE.")
    if options.start and (options.placeholder or options.per_class or options.context):
        raise ValueError("Placeholder and kind of gates come with --start; leave --placeholder, --per-class, --context out.")
    if options.eps is not None and not options.eps > 0:
        raise ValueError(f"--eps must be above 0, but it is {options.eps}.")
    if options.steps < 1:  # before maps are made to learn from
        raise ValueError(f"--steps must be at least 1, but it is {options.steps}.")
    config = load_tensors(options.start)[1] if options.start else {}
    vit = models.load(options.model, options.weights, options.pretrained, shape=config.get("shape"), **model_settings(options))
    data, held_out, settings = ImageFolder(options.data, preprocess(vit)), None, {}
    first = os.environ.get("RANK", "0") == "0"  # of several processes, which join below
    for sentence in data.leave_out_broken(progress=first):
        if first:
            print(f"left out: {sentence}", file=sys.stderr)
    kind = {"per_class": options.per_class, "context": options.context}
    if options.ranked:
        data, held_out = hold_out(data)
        data = Subset(data.dataset, data.indices[:TAUGHT])
        kind, settings = kind | RANKED["explainer"], RANKED["fit"]
    kind |= {"placeholder": options.placeholder} if options.placeholder else {}
    if options.start:
        explainer = DiffMask.load(options.start, vit, same_vit=False)
        if explainer.class_aware != options.ranked:
            kind, advice = ("plain gates", "leave --ranked out") if options.ranked else ("gates that rank", "add --ranked")
            raise ValueError(f"{options.start} holds {kind}; {advice}, or start without it.")
    else:
        explainer = DiffMask(vit, seed=options.seed, **kind)
    move(explainer, options.device)
    device = next(vit.parameters()).device
    team = join(device)

    name = re.sub(r"[^\w.-]+", "_", options.model)
    path = options.out / weights.gates_file(name, "ranked_gates" if options.ranked else "gates", options.seed)
    checkpoint = options.checkpoint or path.with_suffix(".checkpoint")
    autocast = torch.bfloat16 if fast_bfloat16(device) and not options.float32 else None
    if team.main:
        how = f"{team.size} process{'es' if team.size > 1 else ''}, {'bfloat16' if autocast else 'float32'}"
        start = f"going on from {checkpoint}" if checkpoint.exists() else f"checkpoints go to {checkpoint}"
        print(models.summary(vit))
        held = f", {len(held_out)} more are held out" if held_out is not None else ""
        print(f"{len(data)} images{held}, {how}; {start}", flush=True)
    if options.ranked:
        settings = settings | {"objective": teach(vit, data, options.batch, progress=team.main)}
    if options.lr is not None:
        settings = settings | {"lr": options.lr}
    if options.eps is not None and not options.ranked:
        settings = settings | {"eps": options.eps}
    history = fit(
        explainer, data, options.steps, seed=options.seed, batch=options.batch, every=options.every, workers=options.workers,
        checkpoint=checkpoint, autocast=autocast, **settings,
    )  # fmt: skip
    if team.main:
        write(path.with_suffix(".csv"), history.frame().to_csv(index=False))
        print(f"{path.with_suffix('.csv')}: {len(history)} steps")
    if history.interrupted:
        raise KeyboardInterrupt
    if team.main:
        if held_out is not None:
            few = torch.stack([held_out[i][0] for i in range(min(CUT_IMAGES, len(held_out)))]).to(next(vit.parameters()))
            kl = calibrate(explainer, few, options.eps or CUT_EPS, batch=options.batch)
            if len(few) < ENOUGH:
                print(f"{len(few)} images held out are few: all share one cut; from {ENOUGH} on, each has a cut of its own")
            print(f"masks are cut to a mean KL {kl:.3f} on {len(few)} held-out images")
        explainer.save(path)
        print(f"{path}: gates for {options.model}")
