"""`fit`: train the gates of a DiffMask. What they are to learn, an objective says; see `objective`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..diffmask import DiffMask
from ..vit import explicit_attention
from ..vit.inputs import printable
from ..vit.randomness import stream
from .checkpoint import deferred_interrupt, load_checkpoint, save_checkpoint
from .data import batches, digest, epoch_order
from .distributed import Draw, join
from .history import History
from .objective import Constraint, Ranking, Step
from .optimizer import make_optimizer, set_rate


@torch.inference_mode(False)  # which turns gradients on, whatever the caller's mode is
def fit(
    explainer: DiffMask,
    dataset: Dataset | Tensor,
    steps: int,
    *,
    objective: Constraint | Ranking | None = None,
    seed: int = 0,
    batch: int = 64,
    lr: float = 3e-3,
    warmup: int = 50,
    decay: bool = False,
    optimizer: str = "adam",
    shallowest: int = 0,
    checkpoint: str | os.PathLike | None = None,
    every: int = 100,
    watch: Callable[[int], None] | None = None,
    workers: int = 0,
    autocast: torch.dtype | None = None,
    progress: bool = True,
    **constraint: Any,
) -> History:
    """Train the gates (and a learned placeholder) of `explainer` in place and return what happened.

    dataset: items are an image (C, H, W), or a tuple that begins with one; labels are not used.
    objective: what is learned, by default `Constraint(**constraint)`; so `fit(explainer, data, 800, eps=0.2)` allows 0.2 nats.
    seed: of data order, depths and gate noise, each a function of (seed, step, index in the batch) alone.
    lr, warmup, decay: the gates' learning rate, rising over `warmup` steps, then constant or falling to 0 along a cosine.
    optimizer: "adam"; "muon", at an lr of 0.01 or so, gives gates that rank the better order in as many steps;
        "lookahead-adam", as published.
    shallowest: the mask of a step is the product of gates 0 … k, with k drawn from this depth on; −1 is the deepest, where all
        gates always work together. At 0, as published, gate 0 learns a mask that meets the constraint alone, from the patch
        itself; it has a veto in all deeper masks, and leaves the other gates little to remove.
    checkpoint: a file rewritten every `every` steps, and continued from if it is there, to bitwise the same weights.
    watch: called as often, after the checkpoint, with the number of steps taken: to score held-out images, say. A run that
        goes on starts with it, since a kill may have come in between.
    workers: processes that load data. autocast: a dtype such as torch.bfloat16 for the ViT; slow where it is not native.

    Started by `torchrun`, `accelerate launch` or `notebook_launcher`, the processes share each batch evenly and learn what one
    process would learn from the whole of it; the main one prints and writes the checkpoint.
    Ctrl-C and SIGTERM end after the step in hand, with what was learned, SIGTERM by `SystemExit(143)`. Raises `ValueError` for
    what does not fit, and `FloatingPointError` naming the step where the loss is not finite, with the gates of the step before.
    """
    vit, shape, weight = explainer.vit, explainer.shape, next(explainer.vit.parameters())
    objective = _chosen(objective, constraint)
    require_settings(explainer, dataset, shallowest, {"steps": steps, "batch": batch, "lr": lr, "every": every})
    shallowest, decay = shallowest % shape.states, steps if decay else 0
    team = join(weight.device)
    progress &= team.main
    rows, learner, history = team.rows(batch), make_optimizer(optimizer, explainer, lr), History(objective.eps)
    settings = {"seed": seed, "batch": batch, "lr": lr, "warmup": warmup, "decay": decay > 0, "optimizer": optimizer}
    settings |= {"shallowest": shallowest, "arithmetic": str(autocast or weight.dtype)} | ({"steps": steps} if decay else {})
    run = _identity(explainer, dataset, objective, settings) if checkpoint or team.size > 1 else {}
    found = load_checkpoint(checkpoint, run, steps, ("gates", "optimizer", "history", "alphas"))
    if found:
        _restore(found, explainer, learner, history)
    objective.start(shape.states, found and found["alphas"])
    team.start_alike(run, len(history), explainer)
    left, pauses = range(len(history), steps), {*range(every, steps, every), steps}  # steps still to go, and where to look up
    if found and watch and team.main and left.start in pauses:
        watch(left.start)
    bar = tqdm(total=steps, initial=left.start, desc="gates", disable=not progress, file=sys.stdout, leave=False)
    unfused = explicit_attention if weight.device.type == "cpu" else nullcontext  # faster backward
    with deferred_interrupt() as interrupted, bar:
        for step, images in zip(left, batches(vit, dataset, seed, batch, rows, left, workers), strict=True):
            images = images.to(weight.device)
            draw = Draw(stream(seed, "gates", step), batch, rows, weight.device)
            indices = epoch_order(len(dataset), seed, step * batch, batch)[rows]
            k = draw.integer(shallowest, shape.states)  # this step's mask is the product of gates 0 … k
            uniform = draw.uniform(shape.states, shape.patches)[:, : k + 1]
            with unfused(vit), torch.autocast(weight.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                logits, gates = explainer.read(images, last=k)
                terms = objective.terms(Step(explainer, images, logits, gates, uniform, draw, indices))
            terms["pressed"] = terms["loss"].new_tensor(float(bool(interrupted)))
            seen = team.mean(terms)  # of the whole batch; where one process is to stop, all are
            _require_finite(seen, step)
            set_rate(learner, step, warmup, decay)
            learner.zero_grad(set_to_none=True)
            terms["loss"].backward()
            team.average_gradients(explainer.parameters())
            learner.step()
            objective.update(k, seen["kl"])
            history.add(step=step, alpha=objective.alphas[k].item(), layer=k, **seen)
            bar.set_postfix_str(printable(history.words()), refresh=False)
            bar.update()
            history.interrupted = seen["pressed"] > 0
            if checkpoint and team.main and (step + 1 in pauses or history.interrupted):
                save_checkpoint(checkpoint, run, step=step + 1, **_state(explainer, learner, history, objective))
            if watch and team.main and step + 1 in pauses:
                watch(step + 1)
            if history.interrupted:
                break
        bar.close()
        team.wait()
        if team.main and history.interrupted:
            print(f"Stopped after step {history.step[-1]}; the gates keep what they learned.")
        elif progress:
            print(printable(history.diagnosis()))
    return history


def _state(explainer: DiffMask, learner: torch.optim.Optimizer, history: History, objective: Any) -> dict[str, Any]:
    state = {"gates": explainer.state_dict(), "optimizer": learner.state_dict(), "history": history.rows()}
    return state | {"alphas": objective.alphas.tolist()}


def _restore(found: dict[str, Any], explainer: DiffMask, learner: torch.optim.Optimizer, history: History) -> None:
    explainer.load_state_dict(found["gates"]), learner.load_state_dict(found["optimizer"])
    history.extend(found["history"])


def _chosen(objective: Constraint | Ranking | None, constraint: dict[str, Any]) -> Constraint | Ranking:
    if moved := [name for name in ("rank", "ranking", "masks") if name in constraint]:
        raise ValueError(
            f"fit no longer takes {' and '.join(moved)}: choose what is learned by objective, say objective=Ranking() for an "
            "order of the patches alone."
        )
    if objective is not None and constraint:
        raise ValueError(f"{', '.join(constraint)} would be lost: give it to the objective itself, or leave objective out.")
    return Constraint(**constraint) if objective is None else objective


def _identity(explainer: DiffMask, dataset: Any, objective: Constraint | Ranking, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same where a run goes on, or is shared: settings, ViT, kind of gates, and images."""
    images = {"images": len(dataset), "data": digest(dataset, settings["seed"])}
    kind = {"kind": "fit", "objective": type(objective).__name__}
    return explainer.config() | kind | objective.config() | settings | images


def require_settings(explainer: DiffMask, dataset: Any, shallowest: int, positive: dict[str, float]) -> None:
    """Raise `ValueError` for what no training can begin with."""
    explainer.require_same_shape()
    if any(weight.is_inference() for weight in (*explainer.vit.parameters(), *explainer.parameters())):
        raise ValueError("Nothing learns with a ViT or gates that were made under torch.inference_mode; make them outside it.")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, dict):
        raise ValueError(f"fit needs a data set with a length and items by index, but this is a {type(dataset).__name__}.")
    if len(dataset) == 0:
        raise ValueError("The data set is empty; give fit at least one image.")
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, but it is {value}.")
    depths = explainer.shape.states
    if not -1 <= shallowest < depths:
        raise ValueError(f"shallowest is a depth in 0 … {depths - 1}, or −1 for the deepest, but it is {shallowest}.")


def _require_finite(seen: dict[str, float], step: int) -> None:
    if not math.isfinite(seen["loss"]):
        raise FloatingPointError(
            f"The loss became {seen['loss']} at step {step} (KL {seen['kl']}), and the gates are those of the step before; try "
            "a smaller lr, or a wider autocast dtype."
        )
