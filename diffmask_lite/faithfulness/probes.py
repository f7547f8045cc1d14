"""Two questions that no removal curve asks: does a mask leak the label, and does a map depend on the weights at all?"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..vit import anatomy
from ..vit.randomness import stream
from .ranking import spearman
from .statistics import Interval, image_weights, interval


def label_leak(
    masks: Tensor, labels: Tensor, *, folds: int = 5, draws: int = 5, seed: int = 0, resamples: int = 2000
) -> pd.DataFrame:
    """How well can the ViT's class be read off the masks alone, without any image?

    masks: (n, h, w), hard or soft; labels: the predicted class of each image, int (n,). A multinomial logistic regression is
    trained on the masks of other images (`folds`-fold cross-validation). Returns a table of mean, low and high, 95 % by
    bootstrap over images, with the rows
        "mask": the share of classes that it finds;
        "random mask of equal size": each mask's own values at shuffled places, so that only its size can tell anything, mean
            over `draws`;
        "majority class": always the most frequent label;
        "mask − random": the paired difference.
    A mask above its shuffled twin tells the class by *where* it keeps patches. That need not be a fault, since objects of a
    class may lie alike. But then the mask itself says in part what the masked image says.
    """
    if masks.ndim != 3 or labels.shape != masks.shape[:1]:
        raise ValueError(f"Masks (n, h, w) and labels (n,) do not fit: {tuple(masks.shape)} and {tuple(labels.shape)}.")
    if not 2 <= folds <= len(masks):
        raise ValueError(f"There are {len(masks)} masks, too few for {folds} folds; use between 2 folds and one a mask.")
    flat = masks.detach().cpu().flatten(1).float()
    if not flat.isfinite().all():
        raise ValueError("The masks hold NaN or infinite values.")
    classes, labels = labels.detach().cpu().unique(return_inverse=True)
    n = len(flat)
    fold = torch.randperm(n, generator=stream(seed, "folds")) % folds

    def correct(features: Tensor) -> Tensor:
        right = torch.empty(n, dtype=torch.float64)
        for f in range(folds):
            test = fold == f
            right[test] = (_classify(features[~test], labels[~test], features[test], len(classes)) == labels[test]).double()
        return right

    shuffle = stream(seed, "shuffle")
    shuffled = [flat.gather(1, torch.rand(flat.shape, generator=shuffle).argsort(1)) for _ in range(draws)]
    right = {
        "mask": correct(flat),
        "random mask of equal size": torch.stack([correct(features) for features in shuffled]).mean(0),
        "majority class": (labels == labels.mode().values).double(),
    }
    right["mask − random"] = right["mask"] - right["random mask of equal size"]
    weights, ones = image_weights(n, resamples, seed), {name: values.numpy()[None] for name, values in right.items()}
    rows = {name: interval(values.mean(1), weights @ values.T, seed) for name, values in ones.items()}  # values (1, n)
    return pd.DataFrame.from_dict(rows, orient="index", columns=Interval._fields)


def _classify(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    """Multinomial logistic regression on standardised features, as scikit-learn's default: sum of losses + ½‖W‖²."""
    mean, std = train.mean(0), train.std(0)
    std = torch.where(std > 0, std, 1.0)
    train, test = (train - mean) / std, (test - mean) / std
    weight = torch.zeros(train.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(train @ weight + bias, labels) + weight.square().sum() / (2 * len(train))
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return (test @ weight + bias).detach().argmax(1)


AFTER_BLOCKS = {"norm", "fc_norm", "attn_pool", "head", "head_dist"}  # timm's names of what follows the blocks


def weight_randomisation(
    vit: nn.Module, maps_of: Callable[[nn.Module], Tensor], *, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Forget the ViT's weights from the head down, and see whether the maps change (Adebayo et al. 2018, arXiv 1810.03292).

    maps_of: makes maps (n, h, w) of the same images with the ViT it is given. It should go on asking about the class that
        the trained ViT predicted, or the maps change for that reason alone.
    On a copy of the ViT, first the head is drawn anew, then also the last block, and so on down to the embedding. Every weight
    comes from a normal distribution with its tensor's own mean and spread, so that activations keep their scale.

    Returns stage ("trained", "head", "block L", …, "block 1", "embedding"), image, value. The value is Spearman's rank
    correlation with the map of the trained ViT, and 0 for a constant map. A method whose maps stay as they were does not
    explain what the ViT learned.
    """
    fresh = copy.deepcopy(vit)
    grid = anatomy(vit).grid
    stages = list(_cascade(fresh))
    original, tables = None, []
    for stage, weights in tqdm(stages, desc="weights", disable=not progress, file=sys.stdout, leave=False):
        with torch.no_grad():
            for name, weight in weights:
                draw = torch.randn(weight.shape, generator=stream(seed, "randomise", name)).to(weight)
                weight.copy_(weight.mean() + weight.std(correction=0) * draw)
        maps = maps_of(fresh).detach().cpu()
        if maps.ndim != 3 or tuple(maps.shape[1:]) != grid or not maps.isfinite().all():
            raise ValueError(
                f"At stage {stage}, maps_of did not return finite maps (n, {grid[0]}, {grid[1]}) of the patch grid."
            )
        original = maps if original is None else original
        value = spearman(original.flatten(1), maps.flatten(1)).numpy()
        tables.append(pd.DataFrame({"stage": stage, "image": range(len(value)), "value": value}))
    return pd.concat(tables, ignore_index=True)


def _cascade(model: nn.Module) -> Iterator[tuple[str, list[tuple[str, nn.Parameter]]]]:
    """Yield each stage with the weights that it forgets, from the head down; together they are all weights."""
    blocks = [f"block {i}" for i in range(len(model.blocks), 0, -1)]
    stages: dict[str, list] = {stage: [] for stage in ("trained", "head", *blocks, "embedding")}
    for name, weight in model.named_parameters():
        top, *rest = name.split(".")
        stage = "head" if top in AFTER_BLOCKS else f"block {int(rest[0]) + 1}" if top == "blocks" else "embedding"
        stages[stage].append((name, weight))
    yield from stages.items()
