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
from torch import Tensor, nn

from .. import weights
from ..datasets import ImageFolder, preprocess
from ..diffmask import PLACEHOLDERS, DiffMask, read_gates
from ..faithfulness import luck
from ..training import CONSTRAINED, RANKED, fit, fit_with_teacher, hold_out
from ..training.distributed import fast_bfloat16, join
from ..vit import UnfitViT, models
from ..vit.storage import write
from .loading import move
from .options import add_model_options, model_settings

ABOUT = """\
Train the gates that explain a ViT: which patches it needs for what it says. The ViT is any of timm's that fits, and learns
nothing; the images are a folder of yours, in any layout (labels are not used). In the first half of the steps the gates learn
the order of the patches, from maps of integrated_drop that are made first. In the second half they learn how few patches are
enough, by the constraint of VISION DIFFMASK. At the end their masks are compared with random ones, on images held out for it.

  python -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/
  python -m diffmask_lite explain photo.jpg --model vit_base_patch16_224 --pretrained \\
      --gates vit_base_patch16_224_gates.safetensors

A ViT of your own training, from its checkpoint or from a folder that timm or transformers wrote:
  python -m diffmask_lite train-gates --model vit_small_patch16_224 --weights checkpoint.pth --data photos/
  python -m diffmask_lite train-gates --model local-dir:my_vit --data photos/

On several GPUs, which share each batch; the result is that of one with the whole batch:
  torchrun --nproc-per-node 4 -m diffmask_lite train-gates --model vit_base_patch16_224 --pretrained --data photos/

Ctrl-C stops after the step in hand, and the same command goes on from there. While maps are made it stops at once, and the
batches of maps that were finished are kept."""

TESTED = 200  # held-out images on which masks are compared with random ones, at most
FEW = 20  # with fewer, the comparison says little
STEPS, PLAIN_STEPS = 800, 2000


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
    command.add_argument("--steps", type=int, help=f"gradient steps (default: {STEPS}, plain: {PLAIN_STEPS})")
    command.add_argument(
        "--eps", type=float, help=f"KL divergence allowed, in nats (default: {CONSTRAINED['fit']['eps']}, plain: 0.1)"
    )
    command.add_argument(
        "--placeholder", choices=PLACEHOLDERS,
        help='what stands for a removed patch, "drop" being nothing at all (default: drop, plain: mean)',
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    command.add_argument("--out", type=Path, default=Path(), help="folder for gates and log (default: the working directory)")
    command.add_argument("--checkpoint", type=Path, help="file to save to and to go on from (default: one beside the gates)")
    command.add_argument(
        "--start", type=Path, metavar="FILE",
        help="start from the gates of an earlier run, for a ViT of the same sizes; its weights and classes may be others",
    )  # fmt: skip
    command.add_argument("--batch", type=int, default=64, help="images a step, over all processes together (default: 64)")
    command.add_argument("--lr", type=float, help="learning rate of plain gates (default: 0.003)")
    command.add_argument(
        "--plain", action="store_true",
        help="learn by the constraint alone; on CIFAR-10 such masks were no better than random ones",
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
    models.require_known(options.model)
    if not (options.pretrained or options.weights or options.model.startswith(models.FOLDER)):
        raise ValueError(f"{options.model} without weights knows nothing to explain; add --pretrained, or --weights FILE.")
    if options.start and options.placeholder:
        raise ValueError("The placeholder comes with --start; leave --placeholder out.")
    if options.eps is not None and not options.eps > 0:
        raise ValueError(f"--eps must be above 0, but it is {options.eps}.")
    if options.lr is not None and not options.plain:
        raise ValueError("--lr is for --plain: the two halves of the training have rates of their own.")
    steps = options.steps if options.steps is not None else PLAIN_STEPS if options.plain else STEPS
    if steps < (1 if options.plain else 2):  # before maps are made to learn from
        raise ValueError(f"--steps must be at least {1 if options.plain else '2, one for each half'}, but it is {steps}.")
    shape = read_gates(options.start)[1].get("shape") if options.start else None
    vit = models.load(options.model, options.weights, options.pretrained, shape=shape, **model_settings(options))
    data, held_out = ImageFolder(options.data, preprocess(vit)), None
    first = os.environ.get("RANK", "0") == "0"  # of several processes, which join below
    for sentence in data.leave_out_broken(progress=first):
        if first:
            print(f"left out: {sentence}", file=sys.stderr)
    if len(data) > 3:
        data, held_out = hold_out(data, min(0.1, TESTED / len(data)))
    explainer = _gates(options, vit)
    move(explainer, options.device)
    device = next(vit.parameters()).device
    team = join(device)

    name, kind = re.sub(r"[^\w.-]+", "_", options.model), "plain" if options.plain else "diffmask"
    path = options.out / weights.gates_file(name, kind, options.seed)
    checkpoint = options.checkpoint or path.with_suffix(".checkpoint")
    autocast = torch.bfloat16 if fast_bfloat16(device) and not options.float32 else None
    if team.main:
        how = f"{team.size} process{'es' if team.size > 1 else ''}, {'bfloat16' if autocast else 'float32'}"
        start = f"going on from {checkpoint}" if checkpoint.exists() else f"checkpoints go to {checkpoint}"
        print(models.summary(vit))
        held = f", {len(held_out)} more are held out" if held_out is not None else ""
        print(f"{len(data)} images{held}, {how}; {start}", flush=True)
    given = {name: getattr(options, name) for name in ("lr", "eps") if getattr(options, name) is not None}
    common = {key: getattr(options, key) for key in ("seed", "batch", "every", "workers")} | {"autocast": autocast}
    train = fit if options.plain else fit_with_teacher
    history = train(explainer, data, steps, checkpoint=checkpoint, **common, **given)
    if team.main:
        write(path.with_suffix(".csv"), history.frame().to_csv(index=False))
        print(f"{path.with_suffix('.csv')}: {len(history)} steps")
    if history.interrupted:
        raise KeyboardInterrupt
    if team.main:
        explainer.save(path)
        print(f"{path}: gates for {options.model}")
        if held_out is not None:
            images = torch.stack([image for image, _ in held_out])
            print(beside_luck(explainer, images.to(next(vit.parameters())), options.batch))
        else:
            print("Too few images to hold some out: these masks were not compared with random ones.")


def _gates(options: argparse.Namespace, vit: nn.Module) -> DiffMask:
    """Return the gates to train, new ones or those of `--start`."""
    if not options.start:
        given = {"placeholder": options.placeholder} if options.placeholder else {}
        if options.plain:
            return DiffMask(vit, seed=options.seed, **given)
        try:
            return DiffMask(vit, seed=options.seed, **RANKED["explainer"] | given)
        except UnfitViT as error:
            DiffMask(vit, **given)  # raises, where plain gates do not fit either
            raise UnfitViT(f"{str(error).rstrip('.')}; plain gates fit, with --plain.") from error
    explainer = DiffMask.load(options.start, vit, same_vit=False)
    if explainer.class_aware == options.plain:
        kind, advice = ("class-aware gates", "leave --plain out") if options.plain else ("plain gates", "add --plain")
        raise ValueError(f"{options.start} holds {kind}; {advice}, or start without it.")
    return explainer


def beside_luck(explainer: DiffMask, images: Tensor, batch: int) -> str:
    """Return in words how the masks of these images keep the prediction, beside random masks of their size."""
    keep = torch.cat([explainer.explain(part).keep for part in images.split(batch)])
    table = luck(explainer.vit, images, {"masks": keep}, "placeholder", explainer=explainer, batch=batch)
    kl, same = (table[(table["twin"] == "random") & (table["metric"] == name)].iloc[0] for name in ("sufficiency", "agreement"))
    words = (
        f"{len(images)} held-out images: {kl['kept']:.0%} of the patches kept, KL {kl['mask']:.3f} nats (random sets "
        f"{kl['luck']:.3f}), same class {same['mask']:.0%} (random sets {same['luck']:.0%})"
    )
    words += f"; {len(images)} images say little" if len(images) < FEW else ""
    return words if kl["better"] and same["better"] else f"{words}; these masks are not shown to be better than luck"
