"""The checkers of notebook 08."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .verdict import Wrong, checker, expect


@checker
def check_spearman(spearman: Callable[[Tensor, Tensor], float]) -> None:
    """Check `spearman(a, b)`: two scores of the same n methods, float (n,) → the correlation of their ranks."""
    sorted_, far = torch.arange(5.0), torch.tensor([0.1, 0.2, 0.3, 0.4, 10.0])
    if abs(float(spearman(sorted_, far)) - _pearson(sorted_, far)) < 1e-4:
        raise Wrong("that is the correlation of the scores themselves, which one far value rules; take their ranks first")
    _near(spearman(sorted_, far), 1, "for two scores that put all methods in the same order")
    _near(spearman(sorted_, -far), -1, "for a score and its negative")
    one, other = torch.tensor([0.3, 0.1, 10.0, 0.2, 0.4]), torch.tensor([0.6, 0.2, 0.5, 0.1, 0.3])
    if abs(float(spearman(one, other)) - _pearson(one.argsort(), other.argsort())) < 1e-4:
        raise Wrong("argsort says which method comes first, second, …, not which rank each has; sort once more what it gives")
    wanted = _pearson(one.argsort().argsort(), other.argsort().argsort())
    _near(spearman(one, other), wanted, "for scores that are not sorted")
    tied = torch.tensor([0.2, 0.2, 0.2, 0.7, 0.1])
    where = "where three methods tie (each of them has the mean of the three ranks)"
    _near(spearman(tied, sorted_), _pearson(torch.tensor([2, 2, 2, 4, 0]), sorted_), where)


@checker
def check_torn(torn: Callable[[Tensor, int, int], int]) -> None:
    """Check `torn(heat, patch, gone)`: a map of pixels (H, W), patches of patch × patch pixels, `gone` pixels removed → int."""
    smooth = torch.arange(36.0).view(6, 6)  # rises row by row
    blocks = torch.tensor([[3.0, 1.0], [0.0, 2.0]]).repeat_interleave(3, 0).repeat_interleave(3, 1)
    spots = torch.tensor([[9.0, 8.0, 5.0, 0.0], [7.0, 6.0, 4.0, 3.0], [5.1, 0.1, 4.1, 0.2], [4.2, 4.3, 4.4, 0.3]])
    cases = [
        (spots, 2, 4, 0, "when the four highest pixels are those of one patch"),
        (smooth, 2, 6, 3, "for a map that rises row by row, when its last row of pixels goes and takes half of three patches"),
        (smooth, 2, 12, 0, "for the same map, when a whole row of patches goes"),
        (blocks, 3, 9, 0, "for a map with one value a patch, when as many pixels go as a patch has"),
        (blocks, 3, 13, 1, "for the same map, when one patch and four pixels of the next go"),
        (-smooth, 3, 3, 1, "for a map that falls row by row, when three pixels go"),
        (smooth, 2, 0, 0, "when nothing goes"),
        (smooth, 2, 36, 0, "when everything goes"),
    ]
    for heat, patch, gone, wanted, where in cases:
        found = torn(heat.clone(), patch, gone)
        if isinstance(found, Tensor) and found.numel() != 1:
            raise Wrong(f"it should return one number, but it returned a tensor of shape {tuple(found.shape)}")
        if int(found) != wanted:
            mistakes = {
                _touched(heat, patch, gone): "; these are all patches that lose a pixel, but one that loses all is not torn",
                _touched(-heat, patch, gone, whole=False): "; do the *highest* pixels go first?",
            }
            raise Wrong(f"{where}, {wanted} patches should be torn, but it says {int(found)}{mistakes.get(int(found), '')}")


@checker
def check_mosaic(mosaic: Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor, Tensor]]) -> None:
    """Check `mosaic(tiles, labels, counted, side)` → (pictures, counts, truth).

    tiles (B, g, g, C, S, S); labels (B, g, g); counted: a class; side: patches along one side of a tile. Pictures are
    (B, C, g·S, g·S), counts int (B,), and truth bool (B, g·side, g·side), the patches of the counted tiles.
    """
    tiles = torch.rand(2, 3, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[3, 5, 3], [0, 3, 1], [2, 2, 2]], [[1, 2, 4], [5, 6, 7], [8, 9, 0]]])
    found = mosaic(tiles.clone(), labels, 3, 2)
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise Wrong(f"it should return three tensors, pictures, counts and truth, but it returned {found!r:.60}")
    pictures, counts, truth = found
    wanted = torch.cat([torch.cat([tiles[:, i, j] for j in range(3)], dim=3) for i in range(3)], dim=2)
    if isinstance(pictures, Tensor) and pictures.shape == wanted.shape:
        turned = torch.cat([torch.cat([tiles[:, i, j] for i in range(3)], dim=3) for j in range(3)], dim=2)
        if torch.equal(pictures, turned):
            raise Wrong("rows and columns are exchanged: tile (0, 1) belongs to the right of tile (0, 0), not below it")
        if torch.equal(pictures, tiles.permute(0, 3, 1, 2, 4, 5).reshape(wanted.shape)) or torch.equal(
            pictures, tiles.reshape(wanted.shape)
        ):
            raise Wrong(
                "the pixels are scrambled: before `reshape`, a tile's rows must stand next to the rows of tiles (permute)"
            )
        if not torch.equal(pictures, wanted):
            raise Wrong("the pictures have the right shape, but tile (i, j) is not in row i and column j of the mosaic")
    expect(pictures, wanted, "pictures:")
    expect(torch.as_tensor(counts) if isinstance(counts, list) else counts, torch.tensor([3, 0]), "counts, of class 3:")
    marked = (labels == 3).repeat_interleave(2, 1).repeat_interleave(2, 2)
    if isinstance(truth, Tensor) and truth.dtype == torch.bool and torch.equal(truth, (labels == 3).repeat(1, 2, 2)):
        raise Wrong("truth is tiled, not spread: all patches of a tile lie beside each other (repeat_interleave)")
    if isinstance(truth, Tensor) and truth.shape == (2, 3, 3):
        raise Wrong("truth has one entry a tile; it should have one a patch, side × side of them in each tile")
    expect(truth, marked, "truth:")
    pictures, counts, truth = mosaic(tiles[:, :2, :2].clone(), labels[:, :2, :2], 5, 1)
    expect(pictures, wanted[:, :, :8, :8], "2 × 2 tiles, pictures:")
    expect(counts, torch.tensor([1, 1]), "2 × 2 tiles, counts of class 5:")
    expect(truth, labels[:, :2, :2] == 5, "2 × 2 tiles of one patch each, truth:")


def _pearson(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


def _near(found: float, wanted: float, where: str) -> None:
    if not abs(float(found) - wanted) < 1e-4:
        raise Wrong(f"{where} it should be {wanted:.3f}, but it is {float(found):.3f}")


def _touched(heat: Tensor, patch: int, gone: int, whole: bool = True) -> int:
    """Patches that lose a pixel; whole: also those that lose all."""
    lost = torch.zeros(heat.numel())
    lost[heat.flatten().argsort(descending=True, stable=True)[:gone]] = 1
    share = torch.nn.functional.avg_pool2d(lost.view(1, 1, *heat.shape), patch)
    return int(((share > 0) & (whole | (share < 1))).sum())
