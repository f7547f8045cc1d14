"""The images of each training step: a function of the seed and the place in the run, whatever the data set does.

That is what lets a run go on to the same bits after a stop, with any number of worker processes, and lets several processes
share its batches.
"""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterator
from functools import lru_cache
from pickle import PicklingError

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ..vit.inputs import reason, require_images
from ..vit.randomness import stream

ELSEWHERE = "define the data set in a file that is imported, not in a notebook or a function, or pass workers=0"


def epoch_order(length: int, seed: int, start: int, count: int) -> list[int]:
    """Return dataset indices for positions start … start + count − 1 of an endless run of epochs, each freshly shuffled."""
    indices: list[int] = []
    while len(indices) < count:
        epoch, offset = divmod(start + len(indices), length)
        indices += _shuffled(length, seed, epoch)[offset : offset + count - len(indices)].tolist()
    return indices


@lru_cache(maxsize=2)
def _shuffled(length: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=stream(seed, "order", epoch))


def hold_out(dataset: Dataset, share: float = 0.04, seed: int = 0) -> tuple[Subset, Subset]:
    """Split a data set at random into what is learned from and what is held out: a share of the items, but at least two."""
    count = max(2, round(share * len(dataset)))
    if count >= len(dataset):
        raise ValueError(f"Of {len(dataset)} items {count} cannot be held out; give more, or a smaller share.")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    return Subset(dataset, order[count:]), Subset(dataset, order[:count])


def batches(
    model: nn.Module, dataset: Dataset | Tensor, seed: int, batch: int, rows: slice, steps: range, workers: int
) -> Iterator[Tensor]:
    """Yield the images of each step, the rows of its global batch, (B, C, H, W), on whatever device the data set has them.

    Raises `ValueError` naming the step, and the item if it is one, where an item is no image that the ViT takes.
    """

    def order(step: int) -> list[int]:
        return epoch_order(len(dataset), seed, step * batch, batch)

    places = ([(step * batch + j, index) for j, index in enumerate(order(step))][rows] for step in steps)
    seeded, own = Seeded(dataset, seed), torch.Generator()  # its own, or the loader would draw from the caller's
    options = {"num_workers": workers, "worker_init_fn": _left_to_the_trainer}
    loader = DataLoader(seeded, batch_sampler=places, collate_fn=torch.stack, generator=own, **options)
    try:
        loader = iter(loader)
    except (AttributeError, TypeError, PicklingError) as error:  # where processes are spawned, they are sent the data set
        raise ValueError(f"The data set cannot be sent to other processes ({reason(error)}); {ELSEWHERE}.") from error
    for step in steps:
        try:
            images = next(loader)
            require_images(model, images, any_device=True, items=order(step)[rows])
        except (ValueError, RuntimeError) as error:
            lines = str(error).strip().splitlines()  # a worker process wraps the error in its own traceback
            said = lines[-1] if lines else type(error).__name__
            if "exited unexpectedly" in said:  # DataLoader's words; what the process said of itself went to stderr
                said = f"a process that loads images ended unexpectedly; {ELSEWHERE}."
            raise ValueError(f"Training stopped at step {step}: {said.removeprefix('ValueError: ')}") from error
        yield images


def _left_to_the_trainer(_worker: int) -> None:
    """Let a worker process ignore what a terminal or a batch system sends to all processes: `fit` ends it after the step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Seeded(Dataset):
    """Whatever an item draws at random (an augmentation, say) becomes a function of the seed and the place in the run.

    That holds for the global random numbers of torch, numpy and Python; the caller's stay as they were.
    """

    def __init__(self, dataset: Dataset | Tensor, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        position, index = place
        number = stream(self.seed, "item", position).initial_seed()
        before, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global ones, as data sets use them)
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(number)
            random.seed(number)
            np.random.seed(number % 2**32)  # noqa: NPY002
            try:
                item = self.dataset[index]
            finally:
                random.setstate(before)
                np.random.set_state(numpys)  # noqa: NPY002
        image = item[0] if isinstance(item, tuple | list) and len(item) > 0 else item
        if not isinstance(image, Tensor) or image.ndim != 3:
            found = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
            raise ValueError(
                f"Item {index} of the data set gives {found} where an image (C, H, W) is expected; items must be an image or "
                "a tuple that begins with one."
            )
        return image


def digest(dataset: Dataset | Tensor, seed: int, items: int = 16) -> str:
    """Return a hash of some images of a data set, spread evenly over it: it tells one folder from another of as many files."""
    found, seeded, count = hashlib.blake2b(digest_size=8), Seeded(dataset, seed), min(items, len(dataset))
    for place in range(count):
        image = seeded[0, place * len(dataset) // count].detach().cpu()
        found.update(f"{image.dtype} {tuple(image.shape)}".encode())
        found.update(image.contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()
