"""The checkers that the notebooks' exercises call, a module for each notebook."""

from .quickstart import check_kl, check_top_patches
from .training import check_ascend, check_lagrangian, check_minimise
from .verdict import Verdict

__all__ = ["Verdict", "check_ascend", "check_kl", "check_lagrangian", "check_minimise", "check_top_patches"]
