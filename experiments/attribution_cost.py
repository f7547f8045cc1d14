"""How many plain forward passes of the ViT does an explanation cost? Ratios measured within one run.

    python experiments/attribution_cost.py

Plain forwards and explanations take turns; printed are the median and the quartiles of one ratio a round, of the processor's
seconds. Exit status 1 where `explain` costs more than the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from functools import partial

import timm
import torch

from diffmask_lite import RANKED, DiffMask
from timing import ratios

BAR = 1.10  # for ViT-Ti/16, one image
CASES = {  # timm's name, class-aware gates, images at once -> forward passes in one timing
    ("vit_tiny_patch16_224", False, 1): 4,
    ("vit_tiny_patch16_224", False, 8): 1,
    ("vit_tiny_patch16_224", True, 1): 4,
    ("vit_tiny_patch16_224", True, 8): 1,
    ("vit_small_patch16_224", False, 1): 2,
    ("vit_small_patch16_224", True, 1): 2,
    ("vit_base_patch16_224", False, 1): 1,
    ("vit_base_patch16_224", True, 1): 1,
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=41, help="ratios to take the median of (default: 41)")
    options.add_argument("--threads", type=int, help="cores to use (default: all)")
    options = options.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = True
    print(f"{'ViT':<24}{'gates':<14}{'batch':>6}{'median ↓':>10}{'quartiles':>16}   in plain forward passes")
    for (name, aware, batch), repeats in CASES.items():
        vit = timm.create_model(name).eval()
        explainer = DiffMask(vit, **RANKED["explainer"] if aware else {})
        images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        plain = torch.no_grad()(lambda vit=vit, images=images: vit(images))
        explain = partial(explainer.explain, images)
        found = ratios(plain, explain, options.rounds, repeats, clock=time.process_time)
        low, median, high = statistics.quantiles(found, n=4)
        kind = "class-aware" if aware else "plain"
        print(f"{name:<24}{kind:<14}{batch:>6}{median:>10.3f}{f'{low:.3f} – {high:.3f}':>16}", flush=True)
        if (name, aware, batch) == next(iter(CASES)):
            kept = median <= BAR
    print(f"bar {BAR:.2f} for {next(iter(CASES))[0]}, batch 1: {'kept' if kept else 'broken'}")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
