"""Pictures in files and folders: which there are, and what they hold. `load_image` is the one place that opens them."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..vit.inputs import reason

TIFF = (".tif", ".tiff")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", *TIFF, ".npy")
DEPTHS = (8, 10, 12, 14, 16)  # bits of a pixel that cameras and scanners store in 16


def load_image(path: str | os.PathLike, channels: int = 3) -> Image.Image | np.ndarray:
    """Open a picture as upright RGB of 8 bits a channel; transparency is dropped.

    Files of other numbers are returned as the arrays that they hold, for `preprocess`: `.npy`, TIFF of float or 32 bits, and
    all TIFF for a ViT that takes another number of `channels` than 1 or 3.
    Grey of 16 bits is scaled to 8: white is the largest number of 8, 10, 12, 14 or 16 bits, of which the fewest are taken that
    hold the picture's largest number; fewer than 16 are said in a `UserWarning`, once in a process.
    Raises `ValueError` naming the file if it cannot be read, or is so large that decoding it could exhaust memory (Pillow's
    limit).
    """
    picture, said = _open(Path(path), channels)
    for sentence in said:
        _warn_once(sentence)
    return picture


def _open(path: Path, channels: int) -> tuple[Image.Image | np.ndarray, list[str]]:
    """Do what `load_image` does, but return its warnings: they are no business of threads, which share Python's filters."""
    said: list[str] = []
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file of bytes")  # a pipe would block whoever opens it
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return np.lib.format.read_array(file, allow_pickle=False), said
        if path.suffix.lower() in TIFF and channels not in (1, 3):
            return tifffile.imread(path), said
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken EXIF, or transparency in a palette: the pixels are whole all the same
            with Image.open(path) as image:
                return _eight_bits(image, said), said
    except Exception as error:  # Pillow's readers raise whatever broken bytes lead them to: SyntaxError, struct.error, …
        why = "its bytes are no kind of picture known here" if isinstance(error, UnidentifiedImageError) else reason(error)
        why = "it is empty" if os.path.isfile(path) and os.path.getsize(path) == 0 else why
        raise ValueError(f"{path} cannot be read as an image ({why}).") from error


@cache
def _warn_once(sentence: str) -> None:
    """Warn once in a process: Python's own rule forgets whenever a filter changes, and a folder may hold thousands."""
    warnings.warn(sentence, stacklevel=3)


def _eight_bits(image: Image.Image, said: list[str]) -> Image.Image | np.ndarray:
    """Return a picture as RGB of 8 bits, to which Pillow's `convert` would cut 16 bits of grey off: nearly all would be white.

    How many of 16 bits are used, no field says reliably: PNG's sBIT is of samples already scaled up to 16, and TIFF's
    MaxSampleValue is a statistic. A 12-bit radiograph taken for 16 bits would be all but black.
    """
    kind, wide = image.format, ";16" in str([tile.args for tile in image.tile])
    if kind == "TIFF":
        _require_one_page(image)
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        levels = np.asarray(upright)
        most = 2 ** next(bits for bits in DEPTHS if levels.max() < 2**bits) - 1
        if most < 65535:
            said.append(f"A picture of 16 bits holds no number above {most}, so {most} is taken for white.")
        if kind == "TIFF" and image.tag_v2.get(262) == 0:  # white is 0, which Pillow heeds for 8 bits alone
            levels = most - levels
        return Image.fromarray((levels / (most / 255)).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return np.asarray(upright)
    picture = upright.convert("RGB")
    if wide and np.asarray(picture).max() < 64:  # Pillow keeps the upper 8 bits of 16
        raise ValueError("its colours of 16 bits use 14 or fewer, which Pillow cuts off; save it with 8 bits a colour")
    return picture


def _require_one_page(image: Image.Image) -> None:
    """Refuse bands that Pillow takes for pages, of which it would read the first; a small second page is a thumbnail."""
    if image.n_frames > 1:
        first = image.size
        image.seek(1)
        if image.size == first:
            raise ValueError(f"it holds {image.n_frames} pages or bands, not one picture of three colours")
        image.seek(0)
    if image.tag_v2.get(284) == 2 and max(image.tag_v2.get(258, (8,))) > 8:  # Pillow reads half of each number
        raise ValueError("it holds a plane of 16 bits for each colour; save it with 8 bits a colour")


def find_images(folder: str | os.PathLike, failed: Callable[[OSError], None] | None = None) -> list[Path]:
    """Return the path of every picture under a folder, at any depth, in order; which file is one, its ending says.

    Links to folders are followed, each folder once. Files and folders whose name starts with a dot are passed over.
    failed: called with the error of each folder or file that cannot be looked at; by default such a one is passed over.
    """

    def regular(path: Path) -> bool:  # a pipe would block whoever opens it
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            if failed is not None:
                failed(error)
            return False

    found = (Path(place, name) for place, names in _walk(folder, failed) for name in names if name[0] != ".")
    return sorted(path for path in found if path.suffix.lower() in IMAGE_ENDINGS and regular(path))


def _walk(folder: str | os.PathLike, failed: Callable[[OSError], None] | None) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder and its files' names; links come last, so that a folder is found where it lies, and loops end."""
    seen, links = set(), [os.fspath(folder)]
    for start in links:
        for place, folders, names in os.walk(start, onerror=failed):
            real = os.path.realpath(place)
            folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != ".")
            if real not in seen:
                seen.add(real)
                links += [path for name in folders if os.path.islink(path := os.path.join(place, name))]
                yield place, names


class ImageFolder(Dataset):
    """Every picture under a folder, at any depth, as `transform` makes it. Yields `(image, name of its folder)`."""

    def __init__(self, folder: str | os.PathLike, transform: Callable[[Image.Image | np.ndarray], Tensor]):
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
        self.paths: Sequence[Path] = find_images(folder)
        if not self.paths:
            raise FileNotFoundError(f"There is no picture ({', '.join(IMAGE_ENDINGS)}) under {folder}.")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, str]:
        image, said = self._read(self.paths[i])
        for sentence in said:
            _warn_once(sentence)
        return image, self.paths[i].parent.name

    def _read(self, path: Path) -> tuple[Tensor, list[str]]:
        picture, said = _open(path, getattr(self.transform, "channels", 3))
        try:
            return self.transform(picture), said
        except ValueError as error:
            raise ValueError(f"{path} cannot be used: {error}") from error

    def leave_out_broken(self, progress: bool = False) -> list[str]:
        """Read every picture once, leave out those that cannot be read, and return a sentence for each of them.

        Raises `ValueError` if none is left.
        """

        def fault(path: Path) -> str | None:
            try:
                said.update(self._read(path)[1])
            except (ValueError, MemoryError) as error:
                return str(error) or f"{path} does not fit into memory."
            return None

        said: set[str] = set()
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:  # the filters are put back at the end
            every = pool.map(fault, self.paths)
            every = tqdm(every, total=len(self.paths), desc="open", disable=not progress, file=sys.stdout, leave=False)
            faults = list(every)
        for sentence in sorted(said):
            _warn_once(sentence)
        broken = [why for why in faults if why is not None]
        if len(broken) == len(self.paths):
            raise ValueError(f"None of {len(broken)} pictures can be read: {broken[0]}")
        self.paths = [path for path, why in zip(self.paths, faults, strict=True) if why is None]
        return broken


def cat_photograph() -> Image.Image:
    """Return the face of scikit-image's cat Chelsea (photograph by Stefan van der Walt, CC0), 300 × 300; needs no network."""
    from skimage.data import chelsea  # not at the top: scikit-image takes half a second to import

    return Image.fromarray(chelsea()).crop((60, 0, 360, 300))
