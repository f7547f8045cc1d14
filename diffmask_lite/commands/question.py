"""What `explain` asks of each photograph: which method, which class, and what the hard mask keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from ..attribution import METHODS
from ..diffmask import DiffMask, Explanation
from ..faithfulness.ranking import best
from ..vit import predict


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of each photograph, and what is kept of the answer."""

    method: str = "diffmask"
    target: int | None = None  # the class to explain, by default each photograph's predicted one
    threshold: float = 0.5  # of the hard mask of gates
    share: float | None = None  # or the share of the patches that the hard mask keeps
    fit: str | None = None  # see `preprocess`
    save: Sequence[str] = ("report",)  # names in `saving.ENDINGS`

    def ask(self, explainer: DiffMask, images: Tensor) -> Explanation:
        """Explain images (B, C, H, W); of a method that only ranks, the mask is None."""
        if self.method == "diffmask":
            result = explainer.explain(images, self.threshold, target=self.target)
        else:
            logits, score = predict(explainer.vit, images), METHODS[self.method](explainer.vit, images, self.target)
            result = Explanation(None, None, None, logits, None, score, explainer.shape.multilabel)
        if self.share is None:
            return result
        keep = best(result.score, max(1, round(self.share * result.score[0].numel())))
        return dataclasses.replace(result, keep=keep, threshold=None)

    def rule(self, explainer: DiffMask) -> str:
        """Say what the hard mask keeps, where that is not what lies above a threshold."""
        if self.share is None:
            return ""
        rest = "dropped" if explainer.kind == "drop" else "the mean patch"
        return f"the best {self.share:.0%}" + ("" if self.method == "diffmask" else f", others {rest}")
