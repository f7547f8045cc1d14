"""How many plain forward passes of the ViT does each attribution method cost? Ratios measured within one run.

    python experiments/attribution_methods.py

Plain forwards and methods take turns; printed are the median and the quartiles of one ratio a round. Both see the same batch,
so that a cost of 3 means three times the time of one plain forward of that batch. DiffMask's `explain` stands beside them.
"""

from __future__ import annotations

import argparse
import statistics

import timm
import torch

from diffmask_lite import DiffMask
from diffmask_lite.attribution import METHODS
from timing import ratios


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--vit", default="vit_tiny_patch16_224", help="a timm name (default: vit_tiny_patch16_224)")
    options.add_argument("--batch", type=int, default=4, help="images in a batch (default: 4)")
    options.add_argument("--rounds", type=int, default=9, help="ratios to take the median of (default: 9)")
    options.add_argument("--threads", type=int, help="cores to use (default: all)")
    options = options.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    vit = timm.create_model(options.vit).eval()
    images = torch.randn(options.batch, *vit.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    explainer = DiffMask(vit)

    @torch.no_grad()
    def plain():
        return vit(images)

    print(f"{options.vit}, batch {options.batch}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'method':<22}{'median ↓':>9}{'quartiles':>18}   in plain forward passes")
    for name, method in {"DiffMask": lambda _vit, images: explainer.explain(images), **METHODS}.items():
        found = ratios(plain, lambda method=method: method(vit, images), options.rounds)
        low, median, high = statistics.quantiles(found, n=4)
        print(f"{name:<22}{median:>9.2f}{f'{low:.2f} – {high:.2f}':>18}", flush=True)


if __name__ == "__main__":
    main()
