"""`fit`: learn the smallest mask that keeps the prediction, as a constrained optimisation.

    minimise  the expected share of patches kept   subject to   KL(p(x) ‖ p(masked x)) ≤ eps

by gradient descent on the gates and ascent on one multiplier α_k ≥ 0 for each depth k of the Lagrangian
sparsity + α_k · (KL − eps). Depth k is drawn anew in each step, and the mask is the product of gates 0 … k.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.optim import Lookahead, Muon
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from . import together
from . import vit as see
from .diffmask import DiffMask, kl_divergence
from .gates import log_odds, log_open, sample
from .history import History
from .loading import batches, check_finite, next_images
from .state import check_same_run, epoch_order, load_state, pack_optimizer, save_state, stream, unpack_optimizer
from .worth import by_slope

CHOICES = {
    "sparsity": ("l0", "log"),
    "masks": ("sampled", "shown", "none"),
    "optimizer": ("adam", "muon", "lookahead-rmsprop"),
}

# The published recipe: the settings of the authors' code (AngelosNal/Vision-DiffMask, code/models/interpretation.py), with a
# multiplier that ascends. Used as DiffMask(vit, **PUBLISHED["explainer"]) and fit(explainer, data, n, **PUBLISHED["fit"]).
PUBLISHED: dict[str, dict[str, Any]] = {
    "explainer": {"placeholder": "learned", "normalise": False},
    "fit": {"optimizer": "lookahead-rmsprop", "lr": 3e-4, "warmup": 1200, "sparsity": "log", "alpha_bounds": (0.0, 200.0)},
}

# Gates that rank, as the shipped CIFAR-10 gates do. They drop tokens, read what the ViT makes of the whole image, and learn
# the order alone; `calibrate` then cuts it where masks have the KL asked for. Where a constraint beside the order is active,
# both come out worse: masks of the same KL are larger (`benchmarks/ranking_variants.py`). Used as PUBLISHED is.
RANKED: dict[str, dict[str, Any]] = {
    "explainer": {"placeholder": "drop", "context": True},
    "fit": {
        "rank": 1.0, "ranking": by_slope, "shallowest": -1, "masks": "none", "optimizer": "muon", "lr": 0.01, "decay": True,
    },
}  # fmt: skip


def fit(
    explainer: DiffMask,
    dataset: Dataset | Tensor,
    steps: int,
    *,
    eps: float = 0.1,
    seed: int = 0,
    batch: int = 64,
    lr: float = 3e-3,
    warmup: int = 50,
    alpha: float = 1.0,
    alpha_lr: float = 0.3,
    alpha_bounds: tuple[float, float] = (0.1, 200.0),
    sparsity: str = "l0",
    rank: float = 0.0,
    ranking: Callable[..., Tensor] = by_slope,
    shallowest: int = 0,
    masks: str = "sampled",
    optimizer: str = "adam",
    decay: bool = False,
    checkpoint: str | os.PathLike | None = None,
    every: int = 100,
    watch: Callable[[int], None] | None = None,
    workers: int = 0,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> History:
    """Train the gates (and a learned placeholder) of `explainer` in place and return what happened.

    dataset: items are an image (C, H, W), or a tuple that begins with one; labels are not used. eps: the KL allowed, in nats.
    seed: of data order, depths and gate noise, each a function of (seed, step, index in the batch) alone.
    lr, warmup, decay: the gates' learning rate, rising over `warmup` steps, then constant or falling to 0 along a cosine.
    alpha, alpha_lr, alpha_bounds: first value, step size and bounds of the multipliers. The lower bound matters: where the
        constraint is slack for long, a multiplier that may fall to 0 leaves sparsity alone in the loss, every gate closes
        within a few dozen steps, and closed gates pass no gradient back.
    sparsity: "l0", the expected share of patches kept; or "log", its published form, the mean log-probability to be kept.
    rank, ranking: weight of a term that gives the order of the mask a meaning, and the term, see `worth`. At 0, as published,
        a sufficient set is all that is asked for. `by_slope` costs one more forward and backward pass a step, and says most
        with the placeholder "drop".
    shallowest: the smallest depth k that is drawn; −1 is the deepest, so that all gates always work together. At 0, as
        published, gate 0 learns a mask that meets the constraint alone, from nothing but the patch itself; it has a veto in
        all deeper masks, and leaves the other gates little to remove.
    masks: which masks are to meet the constraint. "sampled", as published: hard-concrete samples of the gates. "shown": the
        hard mask that `explain` shows, P(kept) > 0.5, with the gradient of P(kept) (straight through, Bengio et al. 2013,
        arXiv 1308.3432). Gates that also learn an order stay undecided of many patches, and a sample then holds some of
        them by luck, which the shown mask lacks. "none": the order alone is learned, with neither constraint nor sparsity,
        for `calibrate` to cut; the history then has no KL, and `rank` must be above 0.
    optimizer: "adam"; "muon" (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the matrices that read the hidden
        states, at an lr of 0.01 or so, and NAdam at 0.3 lr for the rest, which gives gates that rank the better order in as
        many steps (`benchmarks/ranking_variants.py`); or "lookahead-rmsprop", as published.
    checkpoint: a file rewritten every `every` steps, and continued from if it is there, to bitwise the same weights.
    watch: called as often, after the checkpoint, with the number of steps taken: to score held-out images, see `validation`.
    workers: processes that load data. autocast: a dtype such as torch.bfloat16 for the ViT.

    Started by `torchrun`, `accelerate launch` or `notebook_launcher`, the processes share each batch evenly and learn what one
    process would learn from the whole of it; the main one prints and writes the checkpoint.

    Ctrl-C ends after the step in hand, with what was learned. Raises `ValueError` for settings and data that do not fit, and
    `FloatingPointError` naming the step where the loss is not finite; the gates are then those of the step before.
    """
    positive = {"eps": eps, "steps": steps, "batch": batch, "lr": lr, "every": every}
    _check_settings(dataset, positive, rank, {"sparsity": sparsity, "masks": masks, "optimizer": optimizer})
    vit, body = explainer.vit, explainer.body
    if not -1 <= shallowest < body.states:
        raise ValueError(f"shallowest is a depth in 0 … {body.states - 1}, or −1 for the deepest, but it is {shallowest}.")
    shallowest %= body.states
    device = next(vit.parameters()).device
    hole = explainer.placeholder.detach() if isinstance(explainer.placeholder, Tensor) else explainer.placeholder
    team = together.join(device)
    explainer.cut = None  # it belongs to the gates as they were
    mine, progress = team.rows(batch), progress and team.main
    learner = _optimizer(optimizer, explainer, lr)
    alphas = torch.full((body.states,), float(alpha))
    history = History(eps)
    settings = {
        "eps": eps, "batch": batch, "lr": lr, "warmup": warmup, "alpha": alpha, "alpha_lr": alpha_lr,
        "alpha_bounds": alpha_bounds, "sparsity": sparsity, "rank": [rank, _words(ranking)] if rank else 0,
        "shallowest": shallowest, "masks": masks, "optimizer": optimizer, "decay": steps if decay else 0,
    }  # fmt: skip
    run = {"kind": "fit", "seed": seed, "images": len(dataset), **settings, **explainer.config()}

    if checkpoint and Path(checkpoint).exists():
        tensors, meta = load_state(checkpoint)
        check_same_run(checkpoint, meta.get("run"), run)
        explainer.load_state_dict({k.removeprefix("gates/"): v for k, v in tensors.items() if k.startswith("gates/")})
        unpack_optimizer(learner, tensors, meta["optimizer"])
        alphas = tensors["alphas"]
        for row in tensors["history"].tolist():
            history.add(int(row[0]), *row[1:-1], int(row[-1]))

    team.start_alike(run, len(history), explainer)

    def store() -> None:
        if not team.main:
            return
        tensors, meta = pack_optimizer(learner)
        tensors |= {f"gates/{k}": v for k, v in explainer.state_dict().items()} | {"alphas": alphas}
        tensors["history"] = torch.tensor(history.frame().to_numpy(), dtype=torch.float64)
        save_state(checkpoint, tensors, {"run": run, "optimizer": meta})

    start = len(history)
    loader = batches(dataset, seed, batch, mine, start, steps, workers)
    bar = tqdm(total=steps, initial=start, desc="gates", disable=not progress, file=sys.stdout, leave=False, mininterval=0.5)
    fused = see.explicit_attention(vit) if device.type == "cpu" else nullcontext()
    with bar, fused, _deferred_interrupt() as interrupted:
        for step in range(start, steps):
            images = next_images(loader, step).to(device)
            check_finite(images, step, partial(epoch_order, len(dataset), seed, step * batch, batch), mine)
            draw = stream(seed, "gates", step)
            k = int(torch.randint(shallowest, body.states, (), generator=draw))
            uniform = torch.rand(batch, body.states, body.patches, generator=draw)[mine, : k + 1].to(device)
            with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                logits, gates = explainer.read(images, last=k)  # gates: logits (B, k + 1, N)
                log_kept = log_open(gates).sum(1)  # (B, N)
                if masks == "sampled":
                    z = sample(gates, uniform).prod(1)  # (B, N): one closed gate is a veto
                else:  # forward the hard mask, backward as if it were the soft one
                    z = (log_kept > math.log(0.5)).float() + log_kept.exp() - log_kept.exp().detach()
                masked = None
                if masks != "none":
                    masked = see.predict(vit, images, z.unflatten(1, body.grid), explainer.placeholder)
            cost = log_kept.exp().mean() if sparsity == "l0" else log_kept.mean()
            if masked is None:
                kl = agree = cost.new_tensor(math.nan)
                loss = cost.new_zeros(())
            else:
                kl = kl_divergence(logits, masked).mean()
                agree = (logits.argmax(1) == masked.argmax(1)).float().mean()
                loss = cost + alphas[k].item() * (kl - eps)
            if rank:
                with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                    loss = loss + rank * ranking(vit, images, logits, log_odds(log_kept), hole, draw)
            seen = team.mean(loss, kl, (z > 0).float().mean(), agree, cost)  # of the whole batch
            if not math.isfinite(seen[0]):
                raise FloatingPointError(
                    f"The loss became {seen[0]} at step {step} (KL {seen[1]}), and the gates are those of the step "
                    "before; try a smaller lr, or a wider autocast dtype."
                )
            for group in learner.param_groups:
                group["lr"] = group["initial_lr"] * _schedule(step, warmup, steps if decay else 0)
            learner.zero_grad(set_to_none=True)
            loss.backward()
            team.average_gradients(explainer.parameters())
            learner.step()
            if masked is not None:  # ascent: a violated constraint makes its own multiplier grow
                alphas[k] = (alphas[k] + alpha_lr * (seen[1] - eps)).clamp(*alpha_bounds)

            history.add(step, *seen[1:], alphas[k].item(), k)
            state = f"KL {seen[1]:.3f}, α {alphas[k].item():.1f}, kept {seen[2]:.2f}"
            bar.set_postfix_str(state if masked is not None else f"loss {seen[0]:.3f}", refresh=False)
            bar.update()
            history.interrupted = team.any(interrupted.is_set())
            pause = (step + 1) % every == 0 or step + 1 == steps
            if checkpoint and (pause or history.interrupted):
                store()
            if watch and pause and team.main:
                watch(step + 1)
            if history.interrupted:
                if team.main:
                    print(f"Stopped after step {step}; the gates keep what they learned.")
                break
    team.wait()
    if progress and not history.interrupted:
        print(history.diagnosis())
    return history


def _check_settings(dataset: Any, positive: dict[str, float], rank: float, words: dict[str, str]) -> None:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, dict):
        raise ValueError(f"fit needs a data set with a length and items by index, but this is a {type(dataset).__name__}.")
    if len(dataset) == 0:
        raise ValueError("The data set is empty; give fit at least one image.")
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, but it is {value}.")
    if not rank >= 0:
        raise ValueError(f"rank must be 0 or more, but it is {rank}.")
    if words["masks"] == "none" and not rank:
        raise ValueError('Without masks only an order can be learned: give rank, say rank=1, or masks="sampled".')
    for name, word in words.items():
        if word not in CHOICES[name]:
            choices = " or ".join(f'"{choice}"' for choice in CHOICES[name])
            raise ValueError(f"Unknown {name} {word!r}: use {choices}.")


def _words(function: Callable) -> list:
    """Say in JSON which function this is, and with which options `functools.partial` filled it."""
    options, inner = getattr(function, "keywords", {}), getattr(function, "func", function)
    return [getattr(inner, "__name__", type(inner).__name__), *sorted(map(list, options.items()))]


def _optimizer(name: str, explainer: DiffMask, lr: float) -> torch.optim.Optimizer:
    matrices = [gate.first.weight for gate in explainer.gates] if name == "muon" else []
    apart = {id(p) for p in (*matrices, explainer.placeholder)}
    rest = [p for p in explainer.parameters() if id(p) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": 0.3 * lr if matrices else lr}]
    if explainer.kind == "learned":  # published: a learned placeholder has a rate of its own
        groups.append({"params": [explainer.placeholder], "lr": 1e-3})
    if matrices:
        groups = [{"params": matrices, "lr": lr}, *({**group, "use_fallback": True} for group in groups)]  # NAdam
    for group in groups:
        group["initial_lr"] = group["lr"]
    if name == "adam":
        return torch.optim.Adam(groups)
    if name == "muon":
        return Muon(groups, weight_decay=0.0, nesterov=True)
    return Lookahead(torch.optim.RMSprop(groups, centered=True), alpha=0.5, k=6)


def _schedule(step: int, warmup: int, decay: int) -> float:
    rise = min(1.0, (step + 1) / max(1, warmup))
    return rise * (0.5 * (1 + math.cos(math.pi * step / decay)) if decay else 1.0)


@contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C set an event instead of raising, so that a step is never cut in half; a second Ctrl-C raises."""
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield pressed  # somebody else handles Ctrl-C
        return

    def press(number: int, frame: Any) -> None:
        if pressed.is_set():
            signal.default_int_handler(number, frame)
        pressed.set()

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
