"""Is timm's fused attention worth having while training on this machine? One training step with it, one without.

    python experiments/fused_attention.py

The ViT is our CIFAR-10 one, 128 images a step. A ratio above 1 means that explicit attention is faster, which is why `fit` and
`train_vit` use it on a CPU.
"""

from __future__ import annotations

import statistics

import torch

from diffmask_lite.vit import explicit_attention
from diffmask_lite.weights import build
from timing import ratios

BATCH = 128


def main() -> None:
    vit = build("cifar10").train()
    optimizer = torch.optim.AdamW(vit.parameters())
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def step(dtype: torch.dtype) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(vit(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def explicit(dtype: torch.dtype) -> None:
        with explicit_attention(vit):
            step(dtype)

    for dtype in (torch.float32, torch.bfloat16):
        found = ratios(lambda dtype=dtype: explicit(dtype), lambda dtype=dtype: step(dtype), rounds=7)
        print(f"{dtype}: a step with fused attention takes {statistics.median(found):.2f} times one with explicit attention")


if __name__ == "__main__":
    main()
