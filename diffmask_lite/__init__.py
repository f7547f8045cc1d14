"""diffmask_lite: a course and a small package on VISION DIFFMASK, explanations of Vision Transformers by the patches they need.

from diffmask_lite import DiffMask, fit, models
from diffmask_lite.weights import pretrained
"""

from .diffmask import Check, DiffMask, Explanation
from .training import CONSTRAINED, PUBLISHED, RANKED, Constraint, History, Ranking, fit, fit_with_teacher, teach
from .vit import UnfitViT, models

__all__ = [
    "CONSTRAINED", "PUBLISHED", "RANKED", "Check", "Constraint", "DiffMask", "Explanation", "History", "Ranking", "UnfitViT",
    "fit", "fit_with_teacher", "models", "teach",
]  # fmt: skip
__version__ = "0.1.0"
