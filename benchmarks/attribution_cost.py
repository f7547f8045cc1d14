"""How many plain forward passes of the ViT does an explanation cost? Ratios measured within one run.

    python benchmarks/attribution_cost.py

Plain forwards and explanations take turns; printed are the median and the quartiles of one ratio a round. Exit status 1 where
`explain` costs more than the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import timm
import torch

from diffmask_lite import DiffMask
from timing import ratios

BAR = 1.10
MODELS = {"vit_tiny_patch16_224": 2, "vit_base_patch16_224": 1}  # and forward passes in one timing


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=41, help="ratios to take the median of (default: 41)")
    options.add_argument("--threads", type=int, help="cores to use (default: all)")
    options = options.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    broken = []
    print(f"{'ViT':<24}{'batch':>6}  {'method':<10}{'median ↓':>9}{'quartiles':>16}   in plain forward passes")
    for name, repeats in MODELS.items():
        vit = timm.create_model(name).eval()
        explainer = DiffMask(vit)
        for batch in (1, 8):
            images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))

            @torch.no_grad()
            def plain(vit=vit, images=images):
                return vit(images)

            def explain(explainer=explainer, images=images):
                return explainer.explain(images)

            found = ratios(plain, explain, options.rounds, repeats)
            low, median, high = statistics.quantiles(found, n=4)
            print(f"{name:<24}{batch:>6}  {'explain':<10}{median:>9.3f}{f'{low:.3f} – {high:.3f}':>16}", flush=True)
            if median > BAR:
                broken.append(f"{name}, batch {batch}")
    print(f"bar {BAR:.2f}: {'kept' if not broken else 'broken by ' + '; '.join(broken)}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
