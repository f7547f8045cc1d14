"""The checkers that the notebooks' exercises call, a module for each notebook."""

from .quickstart import check_kl, check_top_patches
from .verdict import Verdict

__all__ = ["Verdict", "check_kl", "check_top_patches"]
