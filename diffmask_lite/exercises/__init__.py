"""The checkers that the notebooks' exercises call, a module for each notebook."""

from .gates import check_log_kept, check_masses, check_mean_gate
from .quickstart import check_kl, check_top_patches
from .verdict import Verdict

__all__ = ["Verdict", "check_kl", "check_log_kept", "check_masses", "check_mean_gate", "check_top_patches"]
