"""Train gates: `fit`, and what it is made of.

fit           the loop
recipes       settings that belong together, and `fit_with_teacher`, for photographs
objective     what is asked of the gates: `Constraint` (VISION DIFFMASK) or `Ranking`
teacher       maps of a slower method, which gates learn the order from
optimizer     Adam, Muon, or the published one
data          the images of each step
checkpoint    stop and go on, to the same bits
distributed   several processes on one batch
history       what happened, step by step, and how it went
"""

from .data import hold_out
from .fit import fit
from .history import History
from .objective import Constraint, Ranking
from .recipes import CONSTRAINED, PUBLISHED, RANKED, fit_with_teacher
from .teacher import teach

__all__ = [
    "CONSTRAINED", "PUBLISHED", "RANKED", "Constraint", "History", "Ranking", "fit", "fit_with_teacher", "hold_out", "teach",
]  # fmt: skip
