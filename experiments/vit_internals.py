"""What the CIFAR-10 ViT says of test images at each depth, and with patches removed in four ways: tables of notebooks 01, 02.

    python experiments/vit_internals.py

Writes `data/results/vit_depth.csv` and `data/results/vit_removals.csv`, a row an image (and a number of patches removed). The
500 images are drawn once, and which patches go is drawn for each image; all four ways lose the same patches. The column `vit`
is the fingerprint of the weights that were asked.
"""

from __future__ import annotations

import pandas as pd
import torch

from diffmask_lite import weights
from diffmask_lite.datasets import CIFAR10
from diffmask_lite.vit import anatomy, fingerprint, predict
from diffmask_lite.vit.randomness import stream
from diffmask_lite.vit.storage import write

IMAGES = 500
REMOVED = (16, 32, 48)  # of 64 patches


@torch.no_grad()
def main() -> None:
    vit, _ = weights.pretrained("cifar10")
    data = CIFAR10("test")
    index = torch.randperm(len(data), generator=stream(0, "vit internals"))[:IMAGES].sort().values
    images, labels = data.normalise(data.images[index]), data.labels[index]
    known = {"source": data.source, "vit": fingerprint(vit), "image": index, "label": labels}
    folder = weights.folder() / "results"

    tokens, depth = vit._pos_embed(vit.patch_embed(images)), []
    for block in [torch.nn.Identity(), *vit.blocks]:
        tokens = block(tokens)
        depth.append(vit.forward_head(vit.norm(tokens)).argmax(1))
    says = {f"after_{i}": said for i, said in enumerate(depth)}
    write(folder / "vit_depth.csv", pd.DataFrame(known | says).to_csv(index=False))

    ways = {"drop": "drop", "mean": "mean", "noise": "noise", "zero": torch.zeros(anatomy(vit).width)}
    log_p, tables = predict(vit, images).log_softmax(1), []
    for removed in REMOVED:
        rank = torch.rand(IMAGES, 64, generator=stream(0, "vit removals", removed)).argsort(1)
        keep = (rank >= removed).view(-1, 8, 8)
        table = known | {"removed": removed}
        for name, way in ways.items():
            log_q = predict(vit, images, keep, way).log_softmax(1)
            kl = (log_p.exp() * (log_p - log_q)).sum(1)
            table |= {f"says_{name}": log_q.argmax(1), f"kl_{name}": kl}
        tables.append(pd.DataFrame(table))
    write(folder / "vit_removals.csv", pd.concat(tables).to_csv(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
