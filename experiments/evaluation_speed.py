"""How much faster are removal curves by `faithfulness.evaluate` than the plain way? Both measured in one run, tokens dropped.

    DIFFMASK_DATA=… python experiments/evaluation_speed.py

The plain way asks the ViT about one image at one step at a time, at full length, with attention to the removed patches masked
out. The images are CIFAR-10 test images, or noise where CIFAR-10 is not there; the ViT is ours. The two take turns over
parts of the images, so that a busy machine slows both alike. Exit status 1 where the scores differ, or the ratio is under the
bar.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import Tensor, nn

from diffmask_lite import weights
from diffmask_lite.datasets import CIFAR10
from diffmask_lite.faithfulness import evaluate

BAR, TOLERANCE = 4.0, 1e-4
STEPS, PATCHES, GRID = 16, 64, 8


@torch.no_grad()
def plain(vit: nn.Module, images: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return MoRF and LeRF of each image, (n,): a loop over images, orders and steps."""
    areas = []
    for image, relevance in zip(images, maps.flatten(1), strict=True):
        target = vit(image[None]).argmax(1)
        for order in (relevance.argsort(descending=True), relevance.argsort()):
            p = []
            for step in range(STEPS + 1):
                seen = torch.ones(1 + PATCHES, dtype=torch.bool)  # the class token first
                seen[1 + order[: step * PATCHES // STEPS]] = False
                logits = vit(image[None], attn_mask=seen[None, None, None])  # (1, 1, 1, keys)
                p.append(logits.softmax(1)[0, target].item())
            areas.append(torch.trapezoid(torch.tensor(p), dx=1 / STEPS))
    morf, lerf = torch.stack(areas).view(-1, 2).unbind(1)
    return morf, lerf


def some_images(n: int) -> tuple[Tensor, str]:
    draw = torch.Generator().manual_seed(0)
    try:
        test = CIFAR10("test")
    except FileNotFoundError:
        return torch.randn(n, 3, 32, 32, generator=draw), "images of noise"
    return CIFAR10.normalise(test.images[torch.randperm(len(test), generator=draw)[:n]]), "CIFAR-10 test images"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=500, help="images to score (default: 500)")
    options.add_argument("--parts", type=int, default=5, help="turns that the two take (default: 5)")
    options.add_argument("--threads", type=int, help="cores to use (default: all)")
    options = options.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    vit, _ = weights.pretrained("cifar10")
    images, source = some_images(options.images)
    maps = torch.rand(len(images), GRID, GRID, generator=torch.Generator().manual_seed(1))
    print(f"{len(images)} {source}, {STEPS + 1} points, MoRF and LeRF, {torch.get_num_threads()} threads")

    slow = fast = worst = 0.0
    evaluate(vit, images[:8], {"random": maps[:8]}, progress=False), plain(vit, images[:1], maps[:1])  # warm up
    for part, relevance in zip(images.chunk(options.parts), maps.chunk(options.parts), strict=True):
        start = time.perf_counter()
        wanted = plain(vit, part, relevance)
        middle = time.perf_counter()
        found = evaluate(vit, part, {"random": relevance}, "drop", steps=STEPS, shares=(), progress=False).scores
        slow, fast = slow + middle - start, fast + time.perf_counter() - middle
        for metric, area in zip(("morf", "lerf"), wanted, strict=True):
            got = torch.tensor(found.loc[found["metric"] == metric, "value"].to_numpy())
            worst = max(worst, (got - area).abs().max().item())
        print(f"plain {slow:7.1f} s   evaluate {fast:6.1f} s   ratio so far {slow / fast:5.2f}", flush=True)
    same, fast_enough = worst <= TOLERANCE, slow / fast >= BAR
    print(f"largest difference between two scores {worst:.1e}: {'the same' if same else 'NOT the same'} scores")
    print(f"{slow / fast:.2f} times faster ↑, bar {BAR:.0f}: {'kept' if fast_enough else 'broken'}")
    return int(not (same and fast_enough))


if __name__ == "__main__":
    sys.exit(main())
