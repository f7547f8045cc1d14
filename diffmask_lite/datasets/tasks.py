"""The data sets of the course: a generated colour grid, whose truth is known, and CIFAR-10; and where data sets lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets as tv

from ..vit.inputs import reason
from ..vit.randomness import stream
from .pictures import find_images, load_image

# Okabe–Ito colours, told apart by nearly everyone; blue is counted, grey is neutral: exactly 0 after normalisation.
PALETTE = {
    "grey": (0.5, 0.5, 0.5),
    "blue": (0.00, 0.45, 0.70),
    "orange": (0.90, 0.62, 0.00),
    "green": (0.00, 0.62, 0.45),
    "vermilion": (0.84, 0.37, 0.00),
    "purple": (0.80, 0.47, 0.65),
    "yellow": (0.94, 0.89, 0.26),
}
GREY, COUNTED = 0, 1


class ColourGrid(Dataset):
    """Images of grid × grid coloured cells; the label is how many are blue. Which cells count is known, so masks can be judged.

    Yields `(image, count, cells)`: float (3, grid·cell, grid·cell) in [−1, 1], int, bool (grid, grid), True where blue.
    Counts 0 … grid² are equally likely; of the other cells a share between none and all is grey. A grey cell is exactly the
    "mean" placeholder, so an image with all but its blue cells replaced is again a grid image with the same count: the counted
    cells are the one smallest set of patches that keeps the answer. The same (n, grid, cell, seed) gives the same images.
    """

    source = "generated"

    def __init__(self, n: int, grid: int = 3, cell: int = 16, seed: int = 0):
        if n < 1:
            raise ValueError(f"A colour grid data set needs at least one image, but n is {n}.")
        draw = stream(seed, "colour grid", n, grid)
        self.cell = cell
        cells = grid * grid
        count = torch.randint(0, cells + 1, (n, 1), generator=draw)
        place = torch.rand(n, cells, generator=draw).argsort(dim=1)  # a random ranking of the cells of each image
        other = torch.randint(COUNTED + 1, len(PALETTE), (n, cells), generator=draw)
        grey = torch.rand(n, cells, generator=draw) < torch.rand(n, 1, generator=draw)
        other[grey] = GREY
        self.colours = torch.where(place < count, COUNTED, other).view(n, grid, grid)  # indices into PALETTE
        shades = torch.tensor(list(PALETTE.values()))[self.colours]  # (n, grid, grid, 3)
        jitter = 0.04 * torch.randn(shades.shape, generator=draw)
        coloured = self.colours[..., None] != GREY
        self.shades = (shades + jitter * coloured).clamp(0, 1)

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, i: int) -> tuple[Tensor, int, Tensor]:
        cells = self.colours[i] == COUNTED
        return self._render(self.shades[i]), int(cells.sum()), cells

    @property
    def images(self) -> Tensor:
        """All images at once, (n, 3, H, W)."""
        return self._render(self.shades)

    @property
    def cells(self) -> Tensor:
        """The ground truth of all images, bool (n, grid, grid)."""
        return self.colours == COUNTED

    def _render(self, shades: Tensor) -> Tensor:  # (…, g, g, 3) in [0, 1] -> (…, 3, g·cell, g·cell) in [−1, 1]
        pixels = shades.repeat_interleave(self.cell, dim=-3).repeat_interleave(self.cell, dim=-2)
        return (pixels * 2 - 1).movedim(-1, -3)


def test_set(name: str, root: str | os.PathLike | None = None) -> ColourGrid | CIFAR10:
    """Return the images on which a task ("grid", "cifar10", …) is scored; root: as for `data_root`."""
    return ColourGrid(2000, seed=2) if name == "grid" else CIFAR10("test", root)


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Return the folder of data sets: the argument, else `$DIFFMASK_DATA`, else `~/.cache/diffmask_lite`."""
    return Path(root or os.environ.get("DIFFMASK_DATA") or Path.home() / ".cache" / "diffmask_lite")


class CIFAR10(Dataset):
    """CIFAR-10 (Krizhevsky, 2009) in memory: 50,000 training or 10,000 test images of 32 × 32 in ten classes.

    Yields `(image, label)`: float (3, 32, 32), normalised by the training set's mean and standard deviation, and int.
    `images` holds all pixels, uint8 (n, 3, 32, 32). Read from `<root>/cifar10/<split>/<class>/*` if that is there
    (`source` is then "folder"), else through torchvision (`source` "original"), which downloads with `download=True`.
    """

    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    def __init__(self, split: str = "train", root: str | os.PathLike | None = None, download: bool = False):
        if split not in ("train", "test"):
            raise ValueError(f'CIFAR-10 has the splits "train" and "test", but split is {split!r}.')
        root = data_root(root)
        folder = root / "cifar10" / split
        if folder.is_dir():
            self.source = "folder"
            found = {part.name: find_images(part) for part in folder.iterdir() if part.is_dir() and part.name[0] != "."}
            if tuple(sorted(found)) != self.classes or not all(found.values()):
                raise ValueError(f"{folder} must hold one folder for each of {', '.join(self.classes)}, none of them empty.")
            pixels = np.stack([_cifar_pixels(path) for name in self.classes for path in found[name]])
            labels = [label for label, name in enumerate(self.classes) for _ in found[name]]
        else:
            self.source = "original"
            try:
                data = tv.CIFAR10(root, train=split == "train", download=download)
            except (RuntimeError, OSError) as error:
                if download:
                    raise OSError(f"CIFAR-10 could not be downloaded to {root} ({reason(error)}); try again.") from error
                raise FileNotFoundError(
                    f"CIFAR-10 is not under {root}; with a network, this gets it: "
                    f'python -c "from diffmask_lite.datasets import CIFAR10; CIFAR10(download=True, root={str(root)!r})"'
                ) from error
            pixels, labels = data.data, data.targets
        self.images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.normalise(self.images[i]), int(self.labels[i])

    @classmethod
    def normalise(cls, pixels: Tensor) -> Tensor:
        """uint8 (…, 3, H, W) -> float, mean 0 and standard deviation 1 over the training set."""
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (cls.mean, cls.std))
        return (pixels.float() / 255 - mean) / std


def _cifar_pixels(path: Path) -> np.ndarray:
    pixels = np.asarray(load_image(path))
    if pixels.shape != (32, 32, 3):
        size = " × ".join(map(str, pixels.shape))
        raise ValueError(f"{path} is {size} (height, width, colours), but CIFAR-10's pictures are 32 × 32 × 3.")
    return pixels


def imagenet_folder(root: str | os.PathLike | None = None) -> Path:
    """Return the training images of ImageNet, a folder for each class, or else of Imagenette, its subset of ten classes.

    Looked for under the data root (`data_root`) are imagenet*/train, then imagenet*/val: torchvision's ImageNet layout, and
    what torchvision's Imagenette unpacks. Raises `FileNotFoundError` with the command that gets Imagenette.
    """
    root = data_root(root)
    for split in ("train", "val"):
        for folder in sorted(root.glob(f"imagenet*/{split}")):
            if any(part.is_dir() for part in folder.iterdir()):
                return folder
    raise FileNotFoundError(
        f"There is no ImageNet under {root}; with a network, this gets Imagenette, a subset of 326 MB: "
        f"python -c \"from torchvision.datasets import Imagenette; Imagenette({str(root)!r}, size='320px', download=True)\""
    )
