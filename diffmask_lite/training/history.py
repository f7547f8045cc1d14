"""`History`: what happened in a training, step by step, and what it says about how the training went."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pandas as pd

COLUMNS = ("step", "kl", "kept", "agree", "sparsity", "alpha", "layer")


@dataclass
class History:
    """One entry a step, of the sampled masks of that step's batch."""

    eps: float
    step: list[int] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)  # mean KL(p(x) ‖ p(masked x)), nats; NaN where an order alone is learned
    kept: list[float] = field(default_factory=list)  # mean share of patches with z > 0
    agree: list[float] = field(default_factory=list)  # share of images whose class is unchanged; or NaN, as kl
    sparsity: list[float] = field(default_factory=list)  # the sparsity term of the loss
    alpha: list[float] = field(default_factory=list)  # α_k after the step
    layer: list[int] = field(default_factory=list)  # k: gates 0 … k made the mask
    interrupted: bool = False
    loss: float = math.nan  # of the last step
    correlation: float = math.nan  # of the last step, of the gates' order with what it follows; NaN where it follows nothing

    def __len__(self) -> int:
        return len(self.step)

    def add(self, **row: float) -> None:
        """Append a step, by the names in `COLUMNS`; its loss and its correlation are remembered until the next."""
        self.loss, self.correlation = row.get("loss", math.nan), row.get("correlation", math.nan)
        for name in COLUMNS:
            getattr(self, name).append(row[name])

    def rows(self) -> dict[str, list[float]]:
        """Return all columns, for `extend`."""
        return {name: getattr(self, name) for name in COLUMNS}

    def extend(self, rows: dict[str, list[float]]) -> None:
        """Append the steps that another history's `rows` gave."""
        for name in COLUMNS:
            getattr(self, name).extend(rows[name])

    def frame(self) -> pd.DataFrame:
        """Return the history as a table with one row a step."""
        return pd.DataFrame(self.rows())

    def words(self) -> str:
        """Say how the last step went, for a progress bar."""
        if not math.isnan(self.correlation):
            return f"correlation {self.correlation:.3f}"
        if math.isnan(self.kl[-1]):  # no mask was tried
            return f"loss {self.loss:.3f}"
        return f"KL {max(0.0, self.kl[-1]):.3f}, α {self.alpha[-1]:.1f}, kept {self.kept[-1]:.2f}"

    def diagnosis(self) -> str:
        """Say in a sentence how the training went, from the medians of its last tenth, of the tenth before, and of its end.

        The first word is "collapsed", "violated", "idle", "ordered", "moving" or "settled". It judges the masks in training,
        and whether that is at rest; whether a mask is right, only `verify` and a known truth can tell.
        """
        if len(self) < 20:
            return f"moving: {len(self)} steps are too few to say more."
        table, tenth = self.frame(), len(self) // 10
        end = table.iloc[-max(3, tenth // 4) :].median()  # a collapse takes few steps, and does not heal
        if end.kept < 0.05 and end.kl > 2 * self.eps:
            return f"collapsed: shut gates pass no gradient back ({self._where(end)}); start again, with a smaller lr."
        last, before = table.iloc[-tenth:].median(), table.iloc[-2 * tenth : -tenth].median()
        if math.isnan(last.kl):  # no mask was tried
            last = "" if math.isnan(self.loss) else f", {self.words()} in the last step"
            return f"ordered: the gates learned an order alone{last}."
        where = self._where(last)
        if last.kl > 2 * self.eps:
            return f"violated: the masks change the prediction too much ({where}); train longer, with more room for α to grow."
        if last.kept > 0.95:
            return f"idle: hardly a patch is removed ({where}); train longer, or allow a larger ε."
        if abs(last.kept - before.kept) > 0.02:
            return f"moving: the share kept still changes, from {before.kept:.0%} a tenth earlier ({where}); train longer."
        return f"settled: {where}."

    def _where(self, row: pd.Series) -> str:
        return f"KL {max(0.0, row.kl):.2g} nats for ε = {self.eps:g}, {row.kept:.0%} kept, α {row.alpha:.2g}"
