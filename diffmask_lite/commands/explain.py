"""Explain photographs from a terminal: pictures and numbers for each, by gates or by any other method, without a notebook.

    python -m diffmask_lite explain photo.jpg holiday/
    python -m diffmask_lite explain photo.jpg --model vit_small_patch16_224 --pretrained --gates gates.safetensors

One photograph that cannot be read is named, and the others go on. Memory is that of one batch, however large a folder is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import plots
from ..attribution import BLIND, METHODS
from ..datasets import FITS, preprocess
from ..diffmask import DiffMask
from ..plots.canvas import as_array, as_p, short
from ..plots.report import how_many
from ..vit import models
from ..vit.inputs import reason
from ..vit.storage import write
from . import saving
from .loading import OURS, by_removal, find_class, load_explainer, move, untrained_method
from .options import add_model_options, model_settings
from .photographs import Failed, batches, collect
from .question import Question

ABOUT = """\
Explain what a Vision Transformer says of photographs: which patches it needs for that. For each photograph a figure (what the
ViT sees, soft mask, hard mask, answers before and after), and a line with the answers of the patches kept alone.

  python -m diffmask_lite explain photo.jpg holiday/
        our small ViT, which knows ten classes (airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck)
  python -m diffmask_lite explain photo.jpg --model vit_small_patch16_224 --pretrained
        a ViT of timm; no gates, so the best method that needs no training
  python -m diffmask_lite explain photos/ --model vit_small_patch16_224 --weights mine.pth --names classes.txt \\
      --method direct_paths --target Bengal --save overlay mask
        a ViT that you fine-tuned: what speaks for one class, laid over each photograph
"""
WHICH = """\
Which method? What we measured (docs/results.md), the best order of patches first:
  integrated_drop     9 forward, 8 backward passes; the default where no gates are given
  gradient_drop       1 forward and backward pass
  direct_paths        1 forward pass, no gradients
  gradient_attention  1 forward and backward pass; also for ViTs whose tokens cannot be dropped
  rollout             1 forward pass; does not know the class
  random              the control: a method that does no better explains nothing
Gates (--method diffmask, trained by train-gates) give a set of patches that is enough, with a size of its own for each image,
in 1 forward pass. The other methods only rank patches: their hard mask keeps the best --share of them. Every hard mask is
verified: the ViT is asked again without the other patches.
"""
FITTED = {
    "crop": "cropped to the part the ViT sees",
    "pad": "padded for the ViT; patches of padding count as patches",
    "squash": "squashed for the ViT",
}
SHARE = 0.2  # of the patches that the hard mask of a method without one keeps
FINE = 224  # pixels along the shorter side from which a photograph is sharp enough for a figure


# The work


def explain_files(
    explainer: DiffMask,
    names: Sequence[str],
    planned: dict[Path, Path],
    failed: Failed,
    question: Question,
    batch: int = 32,
) -> Iterator[dict[str, Any]]:
    """Explain each photograph, write its files, and yield its numbers as a row that JSON can hold.

    `failed` hears one sentence for each photograph that cannot be read, or whose files cannot be written.
    """
    vit, weight = explainer.vit, next(explainer.vit.parameters())
    to_input, finer = preprocess(vit, fit=question.fit), max(1, math.ceil(FINE / min(explainer.shape.size)))
    shown = partial(plots.displayable, mean=to_input.mean, std=to_input.std)
    for group in batches(planned, vit, question.fit, finer, batch, failed):
        images = torch.stack([photo.image for photo in group]).to(weight)
        result = question.ask(explainer, images)
        check = explainer.verify(images, result.keep, result.logits)
        before, after = (as_p(each.logits, result.multilabel) for each in (result, check))
        for i, photo in enumerate(group):
            found = {
                "score": as_array(result.score[i]),
                "mask": None if result.mask is None else as_array(result.mask[i]),
                "keep": result.keep[i].cpu().numpy(),
            }
            files = {kind: planned[photo.path].with_suffix(saving.ENDINGS[kind]) for kind in question.save}
            try:
                for kind, file in files.items():
                    if kind == "report":
                        view, image = (shown(each)[0] for each in (photo.view, photo.image))
                        words = {"part": FITTED[to_input.fit], "rule": question.rule(explainer)}
                        asked = {"method": question.method, "target": question.target}
                        heading = _printable(photo.path.name)
                        data = saving.figure(plots.explained(view, image, result, check, names, i, heading, **asked, **words))
                    elif kind == "array":
                        data = saving.arrays(**found, crop=np.array(to_input.box(photo.size)))
                    else:
                        data = saving.picture(kind, photo.path, to_input, explainer.shape, photo.size, **found)
                    write(file, data)
            except OSError as error:
                failed(f"The {kind} of {photo.path} cannot be written to {file} ({reason(error)}).")
                continue
            old, new = (_answer(p[i], names, result.multilabel) for p in (before, after))
            row = {
                "image": str(photo.path), "figure": str(files["report"]) if "report" in files else None,
                **old, **{f"{key}_after": value for key, value in new.items()},
                "kl": check.kl[i].item(), "kept": check.kept[i].item(), "agree": bool(check.agree[i]),
                "method": question.method, "threshold": result.threshold, "share": question.share,
                "fit": to_input.fit, "crop": to_input.box(photo.size),
                **{name: None if values is None else values.astype(float).tolist() for name, values in found.items()},
                "keep": found["keep"].astype(int).tolist(),
                "files": {kind: str(file) for kind, file in files.items()},
            }  # fmt: skip
            if (target := question.target) is not None:
                row |= {"target": names[target], "target_index": target}
                row |= {"target_p": before[i, target].item(), "target_p_after": after[i, target].item()}
            yield row


def _answer(p: np.ndarray, names: Sequence[str], multilabel: bool) -> dict[str, Any]:
    """Return class, index and p of the most probable class; of a multi-label ViT lists of them, one entry a predicted label."""
    if multilabel:
        found = np.flatnonzero(p > 0.5).tolist()
        return {"class": [names[i] for i in found], "index": found, "p": p[found].tolist()}
    most = int(p.argmax())
    return {"class": names[most], "index": most, "p": p[most].item()}


def _printable(text: Any) -> str:
    """A file's name need not be text at all; show bytes that are none as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode()


# The command


def add_explain(commands: Any) -> None:
    """Add `explain` to the command line's parser."""
    command = commands.add_parser(
        "explain",
        help="explain photographs: pictures of what the ViT needs, and what it says before and after",
        description=ABOUT,
        epilog=WHICH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of them at any depth")
    command.add_argument(
        "--method", choices=("diffmask", *METHODS), metavar="NAME",
        help=f"diffmask, which needs gates, or one of {', '.join(METHODS)} (default: diffmask where there are gates, else the "
        "best that needs none)",
    )  # fmt: skip
    command.add_argument("--gates", type=Path, metavar="FILE", help="what train-gates wrote (default: ours, for our ViT alone)")
    command.add_argument(
        "--target", metavar="CLASS",
        help="explain this class, by name or by number from 0, instead of the predicted one; a name comes first",
    )  # fmt: skip
    command.add_argument("--threshold", type=float, help="gates keep patches whose mask is above this (default: 0.5)")
    command.add_argument(
        "--share", type=float, help=f"keep this share of the patches, the best (default: {SHARE}, with gates what they keep)"
    )
    command.add_argument(
        "--fit", choices=FITS,
        help="a photograph of another shape than the ViT's image: crop its middle; pad it with the mean colour (patches of "
        "padding count as patches); or squash it (default: what timm says for this ViT, mostly crop)",
    )  # fmt: skip
    command.add_argument(
        "--save", nargs="+", choices=saving.ENDINGS, default=["report"],
        help="report: the figure (default). In the photograph's own size: overlay, the map over it, with what the ViT sees "
        "framed; heatmap, the map's colours alone; mask, white where a patch is kept. array: score, mask, keep, crop as .npz",
    )  # fmt: skip
    command.add_argument("--out", type=Path, default=Path("explanations"), help="folder for all of them (default: %(default)s)")
    command.add_argument("--batch", type=int, help="images at once, which bounds memory (default: 32, without gates 8)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    command.add_argument("--json", action="store_true", help="print a line of JSON for each image; all else goes to stderr")
    add_model_options(command, OURS)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do what the command says; 0 if every photograph was explained, 1 if one was not, 130 after Ctrl-C."""
    gates = options.gates is not None or options.model == OURS
    _require_settings(options, gates)
    explained = missed = 0
    stopped = False

    def failed(sentence: str) -> None:
        nonlocal missed
        missed += 1
        print(f"diffmask_lite: {_printable(sentence)}", file=sys.stderr, flush=True)

    planned = collect(options.images, options.out, failed)
    if planned:
        explainer, names = load_explainer(
            options.model, options.gates, options.weights, options.pretrained, **model_settings(options)
        )
        question = _question(options, gates, explainer, names)
        move(explainer, options.device)
        if gates and question.method != "diffmask":
            explainer = by_removal(explainer.vit)
        for line in _about(options.model, question, explainer):
            print(line, file=sys.stderr if options.json else sys.stdout)
        batch = options.batch or (32 if question.method == "diffmask" else 8)
        try:
            for row in explain_files(explainer, names, planned, failed, question, batch):
                explained += 1
                print(json.dumps(row) if options.json else _printable(_line(row)), flush=True)
        except KeyboardInterrupt:
            stopped = True
        except torch.OutOfMemoryError as error:
            raise ValueError(f"{batch} images at once do not fit into memory; pass a smaller --batch.") from error
    verdict = f"{explained} explained, {missed} not" + (", stopped before the end" if stopped else "") + "."
    print(verdict, file=sys.stderr if options.json else sys.stdout)
    return 130 if stopped else int(missed > 0)


def _require_settings(options: argparse.Namespace, gates: bool) -> None:
    """Hold the options to what fits together, before anything is read."""
    if options.threshold is not None and not 0 <= options.threshold < 1:
        raise ValueError(f"--threshold is a probability in [0, 1), but it is {options.threshold}.")
    if options.share is not None and not 0 < options.share <= 1:
        raise ValueError(f"--share is a share of the patches, above 0 and at most 1, but it is {options.share}.")
    if options.threshold is not None and (
        options.share is not None or (options.method or "diffmask") != "diffmask" or not gates
    ):
        raise ValueError("--threshold is for masks of gates, and --share for the best patches of any method; pass one of them.")
    if options.batch is not None and options.batch < 1:
        raise ValueError(f"--batch must be at least 1, but it is {options.batch}.")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"{options.out} is a file, but --out must name a folder.")
    if options.method == "diffmask" and not gates:
        raise ValueError(f"There are no gates for {options.model}; train them with train-gates and pass --gates FILE.")
    if options.method in BLIND and options.target is not None:
        raise ValueError(f"{options.method} does not know the class; leave --target out, or name another --method.")


def _question(options: argparse.Namespace, gates: bool, explainer: DiffMask, names: Sequence[str]) -> Question:
    target = None if options.target is None else find_class(options.target, names)
    method = options.method or ("diffmask" if gates else untrained_method(explainer.vit))
    if target is not None and method == "diffmask" and not explainer.class_aware:
        raise ValueError(
            "These gates do not know the class; leave --target out, name a --method such as integrated_drop, or train gates "
            "without --plain."
        )
    share = SHARE if options.share is None and method != "diffmask" else options.share
    threshold = 0.5 if options.threshold is None else options.threshold
    return Question(method, target, threshold, share, options.fit, tuple(dict.fromkeys(options.save)))


def _about(model: str, question: Question, explainer: DiffMask) -> Iterator[str]:
    """Say what is not to be seen in a command: what the ViT is taken for, which method, what becomes of colours."""
    if model != OURS:
        yield models.summary(explainer.vit)
    if question.method != "diffmask":
        yield f"method: {question.method}; the hard mask keeps {question.rule(explainer)}"
    if question.fit is not None:
        yield f"photographs of another shape than the ViT's image are {FITTED[question.fit]}"
    if explainer.shape.channels == 1:
        yield "this ViT takes one channel: colours become grey, by their luminance"


def _line(row: dict[str, Any]) -> str:
    keep = np.asarray(row["keep"], bool)
    before, after = (_words(row[f"class{when}"], row[f"p{when}"]) for when in ("", "_after"))
    if row.get("target", row["class"]) != row["class"]:
        before, after = (
            f"{short(row['target'])} ({row[f'target_p{when}']:.2f}; it says {said})"
            for when, said in (("", before), ("_after", after))
        )
    files = " ".join(row["files"].values())
    odd = how_many(keep, row["threshold"]).partition(": ")[2]
    return (
        f"{row['image']}: {before}; {keep.sum()} of {keep.size} patches alone{odd and f' ({odd})'}: {after}"
        f"{'' if row['agree'] else ', changed'}, KL {row['kl']:.2f} nats: {files}"
    )


def _words(names: str | list[str], p: float | list[float]) -> str:
    pairs = zip(names, p, strict=True) if isinstance(names, list) else [(names, p)]
    return ", ".join(f"{short(name)} ({q:.2f})" for name, q in pairs) or "no label"
