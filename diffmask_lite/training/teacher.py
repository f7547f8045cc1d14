"""`teach`: maps of a slower attribution method, which gates learn the order of the patches from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..attribution.fading import integrated_drop
from ..vit import anatomy, fingerprint
from .checkpoint import load_checkpoint, save_checkpoint
from .data import digest
from .distributed import join
from .objective import Ranking, Taught


def teach(
    vit: nn.Module,
    dataset: Dataset | Tensor,
    batch: int = 100,
    progress: bool = True,
    checkpoint: str | os.PathLike | None = None,
) -> Ranking:
    """Return the objective to rank as `integrated_drop` does on these images, whose maps are made now.

    dataset: that which `fit` will be given; 5,000 images are enough for our ViT. A map costs 9 forward and 8 backward passes.
    batch: images at once, of all processes together: several processes share the images.
    checkpoint: a file for the maps, which are not made again where it holds them. Until all are made, each of several processes
        has a file of its own beside it.
    Raises `ValueError` naming the image whose map is not finite.
    """
    weight, team = next(vit.parameters()), join(next(vit.parameters()).device)
    run = {}  # what the maps depend on, for those who look it up
    if checkpoint or team.size > 1:
        run = {"kind": "maps", "vit": fingerprint(vit), "images": len(dataset), "data": digest(dataset, 0)}
    found = load_checkpoint(checkpoint, run, len(dataset), ["maps"])
    team.agree(run, found is not None and found["step"])
    if found and found["step"] == len(dataset):
        return Ranking(Taught(found["maps"]))
    mine, path = range(team.rank, len(dataset), team.size), checkpoint
    if checkpoint and team.size > 1:
        path = Path(f"{checkpoint}.{team.rank + 1}of{team.size}")
        found = load_checkpoint(path, run, len(mine), ["maps"])
    maps, batch = found["maps"] if found else torch.zeros(0, *anatomy(vit).grid), max(1, batch // team.size)
    shown = progress and team.main
    with tqdm(total=len(mine), initial=len(maps), desc="maps", disable=not shown, file=sys.stdout, leave=False) as bar:
        while len(maps) < len(mine):
            some = mine[len(maps) : len(maps) + batch]
            images = [dataset[i] for i in some]
            images = torch.stack([image[0] if isinstance(image, tuple | list) else image for image in images])
            new = integrated_drop(vit, images.to(weight)).float().cpu()
            for index, one in zip(some, new, strict=True):
                if not one.isfinite().all():
                    raise ValueError(f"The map of image {index} of the data set holds NaN or infinite values; leave it out.")
            maps = torch.cat([maps, new])
            if path:
                save_checkpoint(path, run, step=len(maps), maps=maps)
            bar.update(len(images))
    whole = torch.zeros(len(dataset), *anatomy(vit).grid)
    whole[mine.start :: mine.step] = maps
    whole = team.total(whole)
    if checkpoint and team.size > 1:
        if team.main:
            save_checkpoint(checkpoint, run, step=len(whole), maps=whole)
        path.unlink()
        team.wait()
    return Ranking(Taught(whole))
