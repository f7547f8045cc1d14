"""The images of each training step, whatever the data set does: a function of the seed and the place in the run.

That is what lets a run go on to the same bits after a stop, with any number of worker processes, and lets several processes
share its batches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .state import epoch_order, stream


def batches(
    dataset: Dataset | Tensor, seed: int, batch: int, mine: slice, start: int, steps: int, workers: int
) -> Iterator[Tensor]:
    """Yield the images of steps start … steps − 1, rows `mine` of each global batch, (B, C, H, W)."""

    def places() -> Iterator[list[tuple[int, int]]]:
        for step in range(start, steps):
            order = epoch_order(len(dataset), seed, step * batch, batch)
            yield [(step * batch + j, index) for j, index in enumerate(order)][mine]

    seeded = _Seeded(dataset, seed)
    if workers:
        yield from DataLoader(seeded, batch_sampler=places(), num_workers=workers)
    else:  # without a DataLoader, an error in an item reaches the reader as it was raised
        for group in places():
            with _random_numbers_restored():
                images = torch.stack([seeded[place] for place in group])
            yield images


def check_finite(images: Tensor, step: int, order: Callable[[], list[int]], mine: slice) -> None:
    good = images.isfinite().flatten(1).all(1)
    if not good.all():
        bad = [index for index, fine in zip(order()[mine], good.tolist(), strict=True) if not fine]
        raise ValueError(
            f"Training stopped at step {step}: items {bad[:8]} of the data set hold NaN or infinite pixels; repair them or "
            "leave them out."
        )


def next_images(loader: Iterator[Tensor], step: int) -> Tensor:
    try:
        return next(loader)
    except (ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[-1]  # a worker process wraps the error in its own traceback
        raise ValueError(f"Training stopped at step {step}: {said.removeprefix('ValueError: ')}") from error


class _Seeded(Dataset):
    """Whatever an item draws at random (an augmentation, say) becomes a function of the seed and the place in the run."""

    def __init__(self, dataset: Dataset | Tensor, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        position, index = place
        number = stream(self.seed, "item", position).initial_seed()
        torch.random.default_generator.manual_seed(number)
        random.seed(number)
        item = self.dataset[index]
        image = item[0] if isinstance(item, tuple | list) and len(item) > 0 else item
        if not isinstance(image, Tensor) or image.ndim != 3:
            found = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
            raise ValueError(
                f"Item {index} of the data set gives {found} where an image (C, H, W) is expected; items must be an image or "
                "a tuple that begins with one."
            )
        return image


@contextmanager
def _random_numbers_restored() -> Iterator[None]:
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(state)
