"""How many plain forward passes of the ViT does an explanation cost? Ratios measured within one run.

    python benchmarks/attribution_cost.py

For each ViT and batch size, plain forwards and explanations take turns, so that a busy machine slows both alike; the figure is
the median over rounds of the ratio of one round's two times. Exit status 1 where `explain` costs more than the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import timm
import torch

from diffmask_lite import DiffMask

BAR = 1.10
MODELS = ("vit_tiny_patch16_224", "vit_base_patch16_224")


def seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def ratios(plain: Callable[[], object], method: Callable[[], object], rounds: int, repeats: int) -> list[float]:
    """Time both in turns, in alternating order, and return one ratio for each round."""
    found = []
    for number in range(rounds):
        first, second = (plain, method) if number % 2 else (method, plain)
        a, b = seconds(first, repeats), seconds(second, repeats)
        found.append(b / a if number % 2 else a / b)
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=15)
    rounds = options.parse_args().rounds
    short = []
    print(f"{'ViT':<24}{'batch':>6}  {'method':<10}{'median':>8}{'quartiles':>16}   (plain forward passes, lower is better)")
    for name in MODELS:
        vit = timm.create_model(name).eval()
        explainer = DiffMask(vit)
        for batch in (1, 8):
            images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
            repeats = max(1, 16 // batch) if "tiny" in name else 1

            @torch.no_grad()
            def plain(vit=vit, images=images):
                return vit(images)

            def explain(explainer=explainer, images=images):
                return explainer.explain(images)

            ratios(plain, explain, 2, 1)  # warm-up
            found = ratios(plain, explain, rounds, repeats)
            low, median, high = statistics.quantiles(found, n=4)
            print(f"{name:<24}{batch:>6}  {'explain':<10}{median:>8.3f}{f'{low:.3f} – {high:.3f}':>16}", flush=True)
            if median > BAR:
                short.append(f"{name} batch {batch}")
    print(f"bar {BAR}: {'kept' if not short else 'broken by ' + ', '.join(short)}")
    return int(bool(short))


if __name__ == "__main__":
    sys.exit(main())
