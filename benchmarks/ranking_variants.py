"""What makes a DiffMask rank as well as select? Each variant is trained, and judged on training images that it never saw.

    python benchmarks/ranking_variants.py                     everything, and writes data/results/ranking_variants.csv
    python benchmarks/ranking_variants.py --seeds 0           one seed
    python benchmarks/ranking_variants.py --variants plain "all, slope"

The gates of every variant explain the shipped CIFAR-10 ViT. 2,000 training images are held out; the first 100 of them are
scored, with tokens dropped, the mean patch, and uniform noise. A variant and seed that is in --work already is not trained
again, so an interrupted run goes on; `--fresh` starts anew. The table has a row for each variant, removal and metric: mean,
95 % bootstrap interval over images and seeds, and two differences, paired by image, with their intervals: the variant minus
"plain" (gain, …) and "as shipped" minus the variant (lead, …). "kept" and the like are of masks as the gates make them, "cut
kept" and the like of masks that are cut where those of 500 other held-out images have a mean KL of 0.25 nats.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.data import Dataset

from diffmask_lite import RANKED, DiffMask, fit
from diffmask_lite.calibration import CUT_EPS, calibrate
from diffmask_lite.datasets import CIFAR10
from diffmask_lite.diffmask import fingerprint
from diffmask_lite.faithfulness import compare, evaluate, intervals, mask_scores
from diffmask_lite.validation import hold_out
from diffmask_lite.weights import folder, load_vit
from diffmask_lite.worth import by_slope, by_worth, destroyed, top_m

SCORED, CUT_BY, STEPS = 100, 500, 200
COMMON = {"eps": 0.2, "decay": True, "autocast": torch.bfloat16}
DEEP = {"shallowest": 7}  # always the product of all 8 gates
SEES = {"placeholder": "drop", "per_class": True, "context": True, "hidden": 96}
SLOPE = DEEP | {"ranking": by_slope}
SHIPPED = RANKED["fit"]  # but for fewer steps
ALONE = SHIPPED | {"optimizer": "adam", "lr": 3e-3}

# variant -> (options of DiffMask, options of fit, share of STEPS)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "plain": ({}, {}, 1),
    "smaller ε": ({}, {"eps": 0.05}, 1),
    "larger ε": ({}, {"eps": 0.8}, 1),
    "three times as long": ({}, {}, 3),
    "masked-out term": ({}, {"rank": 1.0, "ranking": destroyed}, 1),
    "dropped tokens": ({"placeholder": "drop"}, {}, 1),
    "all": (SEES, DEEP, 1),  # gates per class that read the class token too, dropped tokens, full depth; no ranking term
    "all, top-m": (SEES, DEEP | {"rank": 1.0, "ranking": top_m}, 1),
    "all, worth": (SEES, DEEP | {"rank": 1.0, "ranking": by_worth}, 1),
    "all, slope": (SEES, SLOPE | {"rank": 1.0}, 1),
    "all, slope × 30": (SEES, SLOPE | {"rank": 30.0}, 1),
    "all, slope × 30, shown masks": (SEES, SLOPE | {"rank": 30.0, "masks": "shown"}, 1),
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
    options.add_argument("--work", type=Path, default=Path("build/ranking_variants"), help="default: %(default)s")
    options.add_argument("--out", type=Path, default=folder() / "results" / "ranking_variants.csv", help="default: %(default)s")
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
            calibrate(explainer, others, CUT_EPS)
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
    options.out.parent.mkdir(parents=True, exist_ok=True)
    table.round(4).to_csv(options.out, index=False)
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
