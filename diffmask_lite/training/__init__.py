"""Train gates: `fit`, and what it is made of.

fit           the loop
objective     what is asked of the gates: `Constraint` (VISION DIFFMASK) or `Ranking`
optimizer     Adam, Muon, or the published one
data          the images of each step
checkpoint    stop and go on, to the same bits
distributed   several processes on one batch
history       what happened, step by step, and how it went
"""

from .data import hold_out
from .fit import CONSTRAINED, PUBLISHED, RANKED, fit
from .history import History
from .objective import Constraint, Ranking, teach

__all__ = ["CONSTRAINED", "PUBLISHED", "RANKED", "Constraint", "History", "Ranking", "fit", "hold_out", "teach"]
