"""Recipes: settings of `DiffMask` and `fit` that belong together, and `fit_with_teacher`, the training for photographs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..diffmask import DiffMask
from .distributed import join
from .fit import fit, require_settings
from .history import History
from .objective import Ranking
from .teacher import teach

# The published recipe: settings of the authors' code (AngelosNal/Vision-DiffMask, read in November 2026). Three things differ:
# the multiplier ascends, by plain steps (theirs has a Lookahead optimiser); the placeholder starts at the mean patch (theirs is
# random); and the class token is never masked. Used as DiffMask(vit, **PUBLISHED["explainer"]) and
# fit(explainer, data, 28_000, **PUBLISHED["fit"]).
PUBLISHED: dict[str, dict[str, Any]] = {
    "explainer": {"placeholder": "learned", "normalise": False, "published": True},
    "fit": {
        "batch": 32, "optimizer": "lookahead-adam", "lr": 2e-5, "warmup": 1200, "sparsity": "log", "eps": 0.1, "alpha": 20.0,
        "alpha_bounds": (0.0, 200.0),
    },
}  # fmt: skip

# The two halves of `fit_with_teacher`. The gates drop tokens and know the class. `RANKED` teaches them a dear method's maps;
# from there `CONSTRAINED` is the constraint, on the very masks that are shown.
RANKED: dict[str, dict[str, Any]] = {
    "explainer": {"placeholder": "drop", "class_aware": True},
    "fit": {"objective": Ranking(), "shallowest": -1, "optimizer": "muon", "lr": 0.01, "decay": True},
}
CONSTRAINED: dict[str, dict[str, Any]] = {
    "fit": {"eps": 0.15, "shown": True, "shallowest": -1, "optimizer": "muon", "lr": 3e-4, "decay": True},
}


def fit_with_teacher(
    explainer: DiffMask,
    dataset: Dataset | Tensor,
    steps: int = 800,
    *,
    eps: float = CONSTRAINED["fit"]["eps"],
    taught: int = 6000,
    checkpoint: str | os.PathLike | None = None,
    batch: int = 64,
    every: int = 100,
    progress: bool = True,
    **settings: Any,
) -> History:
    """Train gates for photographs: the order of the patches in the first half of the steps, then how many each image needs.

    On CIFAR-10 the constraint from scratch chooses no better than chance (notebook 07). So gates learn the maps of
    `integrated_drop`, which are made first, and then the constraint, on the very masks that `explain` shows. Made for
    `DiffMask(vit, **RANKED["explainer"])`.
    eps: the KL allowed, in nats. taught: how many of the images, from the first on, have maps made and teach the order.
    checkpoint: a file that the second half goes on from; maps and first half have files of their own, with ".maps" and ".order"
        at the end.
    settings: others of `fit` for both halves: seed, warmup, watch, workers, autocast.
    Returns the history of the second half, or of the first where that was interrupted; Ctrl-C while maps are made raises
    `KeyboardInterrupt`, and those made are kept. Raises what `fit` raises, before the first map is made.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, one for each half, but it is {steps}.")
    if fixed := sorted(settings.keys() - {"seed", "warmup", "watch", "workers", "autocast"}):
        raise ValueError(
            f"fit_with_teacher has no setting {', '.join(fixed)}; leave it out, or call fit for each half yourself."
        )
    require_settings(explainer, dataset, -1, {"eps": eps, "taught": taught, "batch": batch, "every": every})
    team, learned = join(next(explainer.vit.parameters()).device), checkpoint is not None and Path(checkpoint).exists()
    team.rows(batch)
    team.agree(len(dataset), learned)
    common = settings | {"batch": batch, "every": every, "progress": progress}
    if not learned:
        first = Subset(dataset, range(taught)) if len(dataset) > taught else dataset
        taught_by = teach(explainer.vit, first, batch, progress, checkpoint and f"{checkpoint}.maps")
        ranking = RANKED["fit"] | {"objective": taught_by}
        history = fit(explainer, first, steps // 2, checkpoint=checkpoint and f"{checkpoint}.order", **common, **ranking)
        if history.interrupted:
            return history
    return fit(explainer, dataset, steps - steps // 2, checkpoint=checkpoint, **common, **CONSTRAINED["fit"] | {"eps": eps})
