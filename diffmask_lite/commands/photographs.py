"""Which photographs a command line names, where their files go, and the photographs themselves, a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from ..datasets import IMAGE_ENDINGS, Preprocessing, find_images, load_image, preprocess
from ..vit.inputs import reason, require_images

Failed = Callable[[str], None]


class Photograph(NamedTuple):
    """A photograph that was read."""

    path: Path
    image: Tensor  # (C, H, W), for the ViT
    view: Tensor  # (C, H', W'), the same part on more pixels, to look at
    size: tuple[int, int]  # width and height of the file's picture, upright


def collect(inputs: Sequence[str | os.PathLike], out: Path, failed: Failed) -> dict[Path, Path]:
    """Return photograph -> figure for files and all pictures under folders; `failed` hears of each that is not there.

    The figures lie under `out` as the photographs lie under the folder that holds them all, each with ".png" added to its
    whole name, so no two share one. Figures of an earlier run are not explained again. Raises `ValueError` where a figure
    would lie beside a photograph.
    """
    found: list[Path] = []
    roots: list[Path] = []
    for item in map(Path, inputs):
        if item.is_dir():
            within = find_images(item, lambda error: failed(f"{error.filename} cannot be opened ({reason(error)})."))
            within = [path for path in within if item.resolve() == out.resolve() or not _inside(path, out)]
            if not within:
                failed(f"There is no picture ({', '.join(IMAGE_ENDINGS)}) under {item}.")
                continue
            roots.append(item)
        elif os.path.lexists(item):
            within = [item]
            roots.append(item.parent)
        else:
            failed(f"There is no file or folder {item}.")
            continue
        found += within
    absolute = {os.path.abspath(path): path for path in reversed(found)}  # a file named twice is explained once
    once = [path for path in dict.fromkeys(found) if absolute[os.path.abspath(path)] is path]
    base = _common([os.path.abspath(root) for root in roots])
    planned = {}
    for path in once:
        part = os.path.relpath(os.path.abspath(path), base) if base else os.path.abspath(path).replace(":", "").lstrip(os.sep)
        planned[path] = out / f"{part}.png"
    theirs = {path.parent.resolve() for path in planned}
    for figure in planned.values():
        if figure.parent.resolve() in theirs:
            raise ValueError(f"The figure {figure} would lie beside a photograph; name another folder with --out.")
    return planned


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _common(paths: list[str]) -> str | None:
    try:
        return os.path.commonpath(paths) if paths else None
    except ValueError:  # on Windows, paths on several drives share nothing
        return None


def batches(
    paths: Iterable[Path], vit: nn.Module, fit: str | None, finer: int, batch: int, failed: Failed
) -> Iterator[list[Photograph]]:
    """Yield photographs, so many at once; only one batch is in memory at a time. fit, finer: as for `preprocess`."""
    to_input, to_view = preprocess(vit, fit=fit), preprocess(vit, finer, fit)
    group: list[Photograph] = []
    for path in paths:
        try:
            group.append(_read(path, vit, to_input, to_input if finer == 1 else to_view))
        except (ValueError, MemoryError) as error:
            failed(str(error) or f"{path} does not fit into memory.")
        if len(group) == batch:
            yield group
            group = []
    if group:
        yield group


def _read(path: Path, vit: nn.Module, to_input: Preprocessing, to_view: Preprocessing) -> Photograph:
    picture = load_image(path, to_input.channels)
    try:
        size = to_input.size_of(picture)
        _check_shape(size)
        image = to_input(picture)
        require_images(vit, image[None].to(next(vit.parameters()).dtype), any_device=True)
        return Photograph(path, image, image if to_view is to_input else to_view(picture), size)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def _check_shape(size: tuple[int, int]) -> None:
    """Refuse a strip that resizing by its shorter side would blow up: 1 × 10,000,000 pixels are few, until then."""
    short_side, long_side = sorted(size)
    if long_side > 1000 * short_side:
        raise ValueError(f"it is {size[0]} × {size[1]} pixels, too narrow a strip to be a photograph.")
