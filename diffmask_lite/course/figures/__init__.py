"""Figures of single lessons, drawn as `diffmask_lite.plots` draws: data in, `matplotlib` figure out."""

from .drawing import depths, for_classes, seed_masks, smoothed, ways_to_draw
from .evaluation import against_luck, removal_steps, tiles
from .game import board, race
from .gates import gate_distribution, gate_distributions, gate_noise, gate_paths, gate_stages, line_panels
from .internals import additions, attention_heads, lines, patch_sequence, position_similarity, removals
from .masks import harden, soft_to_hard, soft_to_hard_strip
from .pipeline import pipeline
from .training import descent, masks_by_step, runs, trade_off

__all__ = [
    "additions", "against_luck", "attention_heads", "board", "depths", "descent", "for_classes", "gate_distribution",
    "gate_distributions", "gate_noise", "gate_paths", "gate_stages", "harden", "line_panels", "lines", "masks_by_step",
    "patch_sequence", "pipeline", "position_similarity", "race", "removal_steps", "removals", "runs", "seed_masks",
    "smoothed", "soft_to_hard", "soft_to_hard_strip", "tiles", "trade_off", "ways_to_draw",
]  # fmt: skip
