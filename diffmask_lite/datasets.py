"""The images of the course: a generated colour grid, CIFAR-10, folders of your own pictures, and one photograph of a cat.

Every data set is map-style and yields normalised images first: `(image, label, …)`.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import timm.data
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import datasets as tv

from .vit import anatomy, pixel_range
from .vit.inputs import reason
from .vit.randomness import stream

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
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


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
            try:
                found = tv.ImageFolder(folder)
            except FileNotFoundError:  # no class folder, or one without a picture
                found = None
            if found is None or tuple(found.classes) != self.classes:
                raise ValueError(f"{folder} must hold one folder for each of {', '.join(self.classes)}, none of them empty.")
            pixels = np.stack([_cifar_pixels(path) for path, _ in found.samples])
            labels = found.targets
        else:
            self.source = "original"
            try:
                data = tv.CIFAR10(root, train=split == "train", download=download)
            except (RuntimeError, OSError) as error:
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


def _cifar_pixels(path: str) -> np.ndarray:
    image = load_image(path)
    if image.size != (32, 32):
        raise ValueError(f"{path} is {image.width} × {image.height}, but CIFAR-10's pictures are 32 × 32.")
    return np.asarray(image)


def preprocess(model: nn.Module, finer: int = 1) -> Callable[[Image.Image], Tensor]:
    """Return the transform that a timm ViT expects: resize, crop, normalise; PIL image -> float (C, H, W).

    finer: the same part of the picture on so many times as many pixels along each side, to look at; not for the ViT.
    """
    pixel_range(model)  # refuses a ViT that does not say how its pixels are normalised; timm would guess
    shape = anatomy(model)  # not pretrained_cfg alone, which create_model(img_size=…) leaves at the weights' training size
    size = {"input_size": (shape.channels, *(finer * side for side in shape.size))}
    return timm.data.create_transform(**timm.data.resolve_data_config(size, model=model), is_training=False)


def load_image(path: str | os.PathLike) -> Image.Image:
    """Open a picture as upright RGB of 8 bits a channel; transparency is dropped.

    Raises `ValueError` naming the file if it cannot be read, is so large that decoding it could exhaust memory (Pillow's
    limit), or holds pixels whose white is unknown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken EXIF, or transparency in a palette: the pixels are whole all the same
            with Image.open(path) as image:
                return _eight_bits(ImageOps.exif_transpose(image), image.format).convert("RGB")
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to: SyntaxError, struct.error, …
        why = "its bytes are no kind of picture known here" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise ValueError(f"{path} cannot be read as an image ({why}).") from error


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
    """Scale grey of 16 bits to 8, which Pillow's `convert` would cut off at 255 instead: nearly every pixel would be white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are of kind {image.mode}, which has no white; save it with 8 bits a channel")
    return image


def find_images(folder: str | os.PathLike, failed: Callable[[OSError], None] | None = None) -> list[Path]:
    """Return the path of every picture under a folder, at any depth, in order; which file is one, its ending says.

    failed: called with the error of each folder or file that cannot be looked at; by default such a one is passed over.
    """

    def regular(path: Path) -> bool:  # a pipe would block whoever opens it
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            if failed is not None:
                failed(error)
            return False

    found = (Path(place, name) for place, _, names in os.walk(folder, onerror=failed) for name in names)
    return sorted(path for path in found if path.suffix.lower() in IMAGE_ENDINGS and regular(path))


class ImageFolder(Dataset):
    """Every picture under a folder, at any depth, as `transform` makes it. Yields `(image, name of its folder)`."""

    def __init__(self, folder: str | os.PathLike, transform: Callable[[Image.Image], Tensor]):
        self.paths: Sequence[Path] = find_images(folder)
        if not self.paths:
            raise FileNotFoundError(f"There is no picture ({', '.join(IMAGE_ENDINGS)}) under {folder}.")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, str]:
        return self.transform(load_image(self.paths[i])), self.paths[i].parent.name


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


def cat_photograph() -> Image.Image:
    """Return the face of scikit-image's cat Chelsea (photograph by Stefan van der Walt, CC0), 300 × 300; needs no network."""
    from skimage.data import chelsea  # not at the top: scikit-image takes half a second to import

    return Image.fromarray(chelsea()).crop((60, 0, 360, 300))
