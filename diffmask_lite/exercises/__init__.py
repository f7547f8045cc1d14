"""The checkers that the notebooks' exercises call, a module for each notebook."""

from .masks import check_agreement, check_blend, check_grow
from .quickstart import check_kl, check_top_patches
from .verdict import Verdict

__all__ = ["Verdict", "check_agreement", "check_blend", "check_grow", "check_kl", "check_top_patches"]
