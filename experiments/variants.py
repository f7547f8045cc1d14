"""What makes a DiffMask rank as well as select? Each variant is trained, and judged on training images that it never saw.

    python experiments/variants.py                     everything, and writes data/results/variants.csv
    python experiments/variants.py --seeds 0           one seed
    python experiments/variants.py --variants plain "all, slope"

The gates of every variant explain the shipped CIFAR-10 ViT. 2,000 training images are held out; the first 100 of them are
scored, with tokens dropped, the mean patch, and uniform noise. A variant and seed that is in --work already is not trained
again, so an interrupted run goes on; `--fresh` starts anew. The table has a row for each variant, removal and metric: mean,
95 % bootstrap interval over images and seeds, and two differences, paired by image, with their intervals: the variant minus
"plain" (gain, …) and "as shipped" minus the variant (lead, …). "kept" and the like are of masks as the gates make them, "cut
kept" and the like of masks that are cut where those of 500 other held-out images have a mean KL of 0.25 nats.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffmask_lite import RANKED, Constraint, DiffMask, Ranking, calibrate, fit
from diffmask_lite.datasets import CIFAR10
from diffmask_lite.diffmask import kl_divergence
from diffmask_lite.faithfulness import compare, evaluate, intervals, mask_scores
from diffmask_lite.gates import log_odds
from diffmask_lite.training import hold_out
from diffmask_lite.training.objective import Step, Terms, correlation
from diffmask_lite.vit import fingerprint
from diffmask_lite.vit.storage import write
from diffmask_lite.weights import folder, load_vit
from train_gates import autocast_for, by_even_slope

SCORED, CUT_BY, CUT_EPS, STEPS = 100, 500, 0.25, 200
COMMON = {"decay": True, "autocast": autocast_for("cifar10")}


class Shown(Constraint):
    """The hard mask that `explain` shows is to meet the constraint, with the gradient of P(kept).

    Straight through: Bengio et al. 2013, arXiv 1308.3432. Gates that also learn an order stay undecided of many patches, and a
    sample then holds some of them by luck, which the shown mask lacks.
    """

    def mask(self, step: Step) -> Tensor:
        kept = step.log_kept.exp()
        return (step.log_kept > math.log(0.5)).float() + kept - kept.detach()


class Both:
    """A constraint, and beside it a term that gives the order of the mask a meaning, with a weight."""

    def __init__(self, term: Callable[[Step, Tensor], Tensor], weight: float = 1.0, constraint: Constraint | None = None):
        self.term, self.weight, self.constraint = term, weight, constraint or Constraint(eps=0.2)
        self.eps, self.start, self.update = self.constraint.eps, self.constraint.start, self.constraint.update

    @property
    def alphas(self) -> Tensor:
        return self.constraint.alphas

    def config(self) -> dict[str, Any]:
        return self.constraint.config() | {"term": self.term.__name__, "weight": self.weight}

    def terms(self, step: Step) -> Terms:
        found = self.constraint.terms(step)
        return found | {"loss": found["loss"] + self.weight * self.term(step, log_odds(step.log_kept))}


def by_worth(step: Step, score: Tensor) -> Tensor:
    """Let the score follow what patches are found to be `worth`: minus their correlation in an image, averaged over images."""
    return -correlation(score, worth(step)).mean()


@torch.no_grad()
def worth(step: Step, pairs: int = 4) -> Tensor:
    """Return a noisy look at what each patch is worth to the predicted class, (B, N): half its mean effect on its probability.

    Half of an image's patches, drawn at random, are kept, and then the other half; the difference of the class's probability
    p speaks for each patch of the first half and against each of the second. The mean over `pairs` such draws estimates
    (E[p | kept] − E[p | removed]) / 2; RISE (Petsiuk et al. 2018) has the first term alone, and were all coalitions equally
    likely it would be half the Banzhaf value. A few draws are far too noisy to explain one image, but gates that learn from
    many images average them. No gradient is needed; `by_slope` asks the same by a gradient, with far less noise.
    """
    patches, target = step.explainer.shape.patches, step.logits.argmax(1, keepdim=True)
    total = torch.zeros(len(step.images), patches, device=step.images.device)
    for _ in range(pairs):
        half = step.draw.uniform(patches).argsort(1) < patches // 2  # (B, N)
        p = [step.predict(keep).float().softmax(1).gather(1, target) for keep in (half, ~half)]
        total += (p[0] - p[1]) * (half.float() - 0.5)
    return total / pairs


def top_m(step: Step, score: Tensor) -> Tensor:
    """Let the m patches of the highest score be enough, and be needed, for an m drawn anew for each image.

    The score is perturbed by Gumbel noise (Xie and Ermon 2019, arXiv 1901.10517) and the m best are kept. The gradient passes
    straight through the choice, as if it had been a sigmoid around the border between the m-th and the next. The loss is
    KL(p ‖ p(the m alone)) plus the probability of the predicted class without them.
    """
    patches = score.shape[1]
    noisy = score - torch.log(-torch.log(step.draw.uniform(patches).clamp(1e-6, 1 - 1e-6)))
    m = 1 + (step.draw.uniform(1) * (patches - 1)).long()  # 1 … N − 1
    ordered = noisy.detach().sort(dim=1, descending=True).values
    border = (ordered.gather(1, m - 1) + ordered.gather(1, m)) / 2  # between the m-th and the next
    soft = torch.sigmoid(noisy - border)
    keep = (noisy > border).to(soft) + soft - soft.detach()
    left = step.predict(1 - keep).softmax(1).gather(1, step.logits.argmax(1, keepdim=True))
    return kl_divergence(step.logits, step.predict(keep)).mean() + left.mean()


def destroyed(step: Step, score: Tensor) -> Tensor:
    """Let the prediction go without what the mask keeps: the probability of its class on 1 − mask, averaged over images."""
    masked = step.predict((-score).sigmoid())  # 1 − mask, with a gradient also where the mask is 1
    return masked.softmax(1).gather(1, step.logits.argmax(1, keepdim=True)).mean()


PLAIN = {"eps": 0.2}
DEEP = {"shallowest": 7}  # always the product of all 8 gates
SEES = {"placeholder": "drop", "per_class": True, "context": True, "hidden": 96}
SHIPPED = RANKED["fit"] | {"objective": Ranking(by_even_slope)}  # of "cifar10", but for fewer steps
ALONE = SHIPPED | {"optimizer": "adam", "lr": 3e-3}

# variant -> (options of DiffMask, options of fit, share of STEPS)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "plain": ({}, PLAIN, 1),
    "smaller ε": ({}, {"eps": 0.05}, 1),
    "larger ε": ({}, {"eps": 0.8}, 1),
    "three times as long": ({}, PLAIN, 3),
    "masked-out term": ({}, {"objective": Both(destroyed)}, 1),
    "dropped tokens": ({"placeholder": "drop"}, PLAIN, 1),
    # gates per class that read the class token too, dropped tokens, full depth; no ranking term
    "all": (SEES, DEEP | PLAIN, 1),
    "all, top-m": (SEES, DEEP | {"objective": Both(top_m)}, 1),
    "all, worth": (SEES, DEEP | {"objective": Both(by_worth)}, 1),
    "all, slope": (SEES, DEEP | {"objective": Both(by_even_slope)}, 1),
    "all, slope × 30": (SEES, DEEP | {"objective": Both(by_even_slope, 30.0)}, 1),
    "all, slope × 30, shown masks": (SEES, DEEP | {"objective": Both(by_even_slope, 30.0, Shown(eps=0.2))}, 1),
    "all, slope alone": (SEES, ALONE, 1),  # neither constraint nor price
    "as shipped": (SEES, SHIPPED, 1),
    "as shipped, without the class token": (SEES | {"context": False}, SHIPPED, 1),
    "as shipped, one output for all classes": (SEES | {"per_class": False}, SHIPPED, 1),
    "as shipped, fading to the mean patch": (SEES | {"placeholder": "mean"}, SHIPPED, 1),
}
# More rankings from gates that were trained as "plain": no training of their own.
AFTERWARDS = ("plain: mean of the layers", "plain: last gate", "plain: ensemble over ε")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: %(default)s")
    options.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="default: all")
    options.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    options.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA)")
    options.add_argument("--vit", type=Path, default=folder() / "cifar10_vit.safetensors", help="default: %(default)s")
    options.add_argument("--work", type=Path, default=Path("build/variants"), help="default: %(default)s")
    options.add_argument("--out", type=Path, default=folder() / "results" / "variants.csv", help="default: %(default)s")
    options.add_argument("--fresh", action="store_true", help="train what is in --work already, too")
    options = options.parse_args()

    vit, data = load_vit(options.vit, "cifar10"), CIFAR10("train", options.data)
    trained, held_out = hold_out(data)
    images, others = torch.stack([held_out[i][0] for i in range(SCORED + CUT_BY)]).split([SCORED, CUT_BY])
    maps: dict[str, list[torch.Tensor]] = {}
    masks: dict[str, list[torch.Tensor]] = {}
    cut: dict[str, list[torch.Tensor]] = {}
    for seed in options.seeds:
        for name in options.variants:
            explainer = train(name, seed, vit, trained, options)
            result = explainer.explain(images)
            maps.setdefault(name, []).append(result.score)
            masks.setdefault(name, []).append(result.keep)
            calibrate(explainer, others, CUT_EPS, per_image=False)
            cut.setdefault(name, []).append(explainer.explain(images).keep)
            if name == "plain":
                maps.setdefault(AFTERWARDS[0], []).append(result.layers.mean(1))
                maps.setdefault(AFTERWARDS[1], []).append(result.layers[:, -1])
        allowed = [maps[name][-1].sigmoid() for name in ("smaller ε", "plain", "larger ε") if name in maps]
        if len(allowed) == 3:
            maps.setdefault(AFTERWARDS[2], []).append(torch.stack(allowed).mean(0))
    table = judge(vit, images, maps, masks, cut)
    steps = {name: int(options.steps * VARIANTS.get(name, ({}, {}, 1))[2]) for name in table["variant"].unique()}
    table = table.assign(seeds=len(options.seeds), steps=table["variant"].map(steps), vit=fingerprint(vit), source=data.source)
    write(options.out, table.round(4).to_csv(index=False))
    shown = table[table["metric"].isin(["srg", "cut kept", "cut agreement"])]
    print(shown.pivot(index="variant", columns=["metric", "removal"], values="mean").round(3).to_string())
    return 0


def train(name: str, seed: int, vit: torch.nn.Module, data: Dataset, options: argparse.Namespace) -> DiffMask:
    """Return the explainer of one variant and seed, from --work if it is there and explains this ViT."""
    slug = "".join(c if c.isalnum() else "_" for c in name)
    path = options.work / f"{slug}_{seed}_{options.steps}_{fingerprint(vit)}.safetensors"
    if path.exists() and not options.fresh:
        return DiffMask.load(path, vit)
    build, settings, share = VARIANTS[name]
    explainer, start = DiffMask(vit, seed=seed, **build), time.perf_counter()
    history = fit(explainer, data, int(options.steps * share), seed=seed, progress=False, **COMMON | settings)
    explainer.save(path)
    print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s, {history.diagnosis()}", flush=True)
    return explainer


def judge(
    vit: torch.nn.Module,
    images: torch.Tensor,
    maps: dict[str, list[torch.Tensor]],
    masks: dict[str, list[torch.Tensor]],
    cut: dict[str, list[torch.Tensor]],
) -> pd.DataFrame:
    """Return variant, removal, metric, mean, low, high, and the differences gain, gain_low, …, lead, lead_low, lead_high."""
    removals = ("drop", "mean", "noise")
    stacked = {name: torch.stack(seeds) for name, seeds in maps.items()}
    ranked = evaluate(vit, images, stacked, removals, orders=1, shares=(0.1, 0.2, 0.4)).scores
    shown, cut_off = (
        mask_scores(vit, images, {name: torch.stack(seeds) for name, seeds in kind.items()}, removals) for kind in (masks, cut)
    )
    tables = []
    for scores in (ranked, shown, cut_off.assign(metric="cut " + cut_off["metric"])):
        table = intervals(scores)
        for row in table.index:
            removal, method, metric = table.loc[row, ["removal", "method", "metric"]]
            for name, pair in {"gain": (method, "plain"), "lead": ("as shipped", method)}.items():
                if pair[0] == pair[1] or not set(pair) <= set(maps):
                    continue  # with seeds drawn anew for either side, not even the difference to itself would be 0
                found = compare(scores, *pair, metric, removal)
                table.loc[row, [name, f"{name}_low", f"{name}_high"]] = tuple(found)
        tables.append(table)
    return pd.concat(tables, ignore_index=True).rename(columns={"method": "variant"})


if __name__ == "__main__":
    raise SystemExit(main())
