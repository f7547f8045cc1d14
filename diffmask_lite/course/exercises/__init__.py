"""The checkers that the notebooks' exercises call, a module for each notebook."""

from .cifar10 import check_mosaic, check_spearman, check_torn
from .faithfulness import check_auroc, check_paired, check_srg, check_twin, check_winner
from .gates import check_log_kept, check_masses, check_optimise
from .imagenet import check_mask_at, check_share
from .masks import check_agreement, check_grow, check_shuffle
from .quickstart import check_kl, check_top_patches
from .training import check_diagnose, check_lagrangian, check_slopes, unlabelled_histories
from .verdict import Verdict
from .vit_internals import check_attention, check_block, check_read_attention, check_unpatchify

__all__ = [
    "Verdict", "check_agreement", "check_attention", "check_auroc", "check_block", "check_diagnose", "check_grow",
    "check_kl", "check_lagrangian", "check_log_kept", "check_mask_at", "check_masses", "check_mosaic", "check_optimise",
    "check_paired", "check_read_attention", "check_share", "check_shuffle", "check_slopes", "check_spearman", "check_srg",
    "check_top_patches", "check_torn", "check_twin", "check_unpatchify", "check_winner", "unlabelled_histories",
]  # fmt: skip
