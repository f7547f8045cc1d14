"""Score gates on images that they do not learn from, while they learn: `fit(…, watch=Validation(explainer, images))`."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from diffmask_lite import DiffMask, calibrate
from diffmask_lite.course.results import read
from diffmask_lite.faithfulness import evaluate, hard_mask_scores
from diffmask_lite.vit.storage import write
from tables import text


class Validation:
    """A table of scores on held-out images, with a row for each time that `fit` calls it.

    explainer: the gates in training, which learn an order. images: (n, C, H, W), n ≥ 2, held out. scored: how many of them,
        at most half, are scored: their maps by removal curves of `steps` steps, and their masks, cut where those of the other
        images have a mean KL of eps (`calibrate`), at a level of each image's own, or with per_image=False at one for all.
    file: CSV, rewritten with each row. A resumed training goes on with the rows of its earlier steps.

    The table has "step", the number of steps taken; "srg drop" and the like, one for each removal; and "kl" (nats),
    "agreement" and "kept" of the masks. The gates are left as they were.
    """

    def __init__(
        self,
        explainer: DiffMask,
        images: Tensor,
        eps: float,
        *,
        scored: int = 300,
        removals: Sequence[str] = ("drop", "noise"),
        steps: int = 16,
        per_image: bool = True,
        file: str | os.PathLike | None = None,
    ):
        scored = min(scored, len(images) // 2)
        if scored < 1:
            raise ValueError(f"Validation needs some images to score and others to cut by, but there are {len(images)}.")
        self.explainer, self.scored, self.others = explainer, images[:scored], images[scored:]
        self.eps, self.per_image, self.file = eps, per_image, Path(file) if file else None
        self.settings: dict[str, Any] = {"removal": tuple(removals), "steps": steps, "orders": 1, "shares": (0.2,)}
        self.rows: list[dict[str, float]] = []

    def __call__(self, step: int) -> None:
        if self.file and self.file.exists() and not self.rows:
            whole, _, _ = self.file.read_text("utf-8").rpartition("\n")  # without a row that was cut short
            self.rows = read(io.StringIO(whole)).to_dict("records") if whole else []
        self.rows = [row for row in self.rows if row["step"] < step] + [{"step": step, **self.score()}]
        if self.file:
            write(self.file, text(self.table))

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows)

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Score the gates as they are now."""
        explainer, before = self.explainer, self.explainer.cut
        found = explainer.explain(self.scored)
        maps = {"gates": found.score[None]}
        curves = evaluate(explainer.vit, self.scored, maps, logits=found.logits, progress=False, **self.settings).scores
        srg = curves[curves["metric"] == "srg"].groupby("removal", sort=False)["value"].mean()
        try:
            calibrate(explainer, self.others, self.eps, per_image=self.per_image)
            masks = hard_mask_scores(explainer, self.scored)
        finally:
            explainer.cut = before
        return {f"srg {removal}": value for removal, value in srg.items()} | masks
