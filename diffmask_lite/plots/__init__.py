"""Draw what the package computes: data in, `matplotlib` figure out.

Nothing here shows or saves a figure or changes matplotlib's settings. Tensors and numpy arrays are both welcome. A figure
belongs to no window, so a notebook shows it exactly once, and it carries alternative text made from the data (`alt_text`).
Two rules keep pictures honest: a mask is drawn patch by patch, never smoothed, and its colours always run from 0 to 1.
"""

from .canvas import GREY, STYLE, Drawing, alt_text, overlay, png
from .curves import history, probabilities
from .evaluation import forest, forgetting, ranked_maps, removal_curves, removal_steps
from .gallery import board, depths, gallery, race, seed_masks, smoothed, ways_to_draw
from .gates import gate_distribution, gate_distributions, gate_noise, gate_stages, line_panels
from .internals import additions, attention_heads, lines, patch_sequence, position_similarity, removals
from .masks import explanations, harden, layers, soft_to_hard, soft_to_hard_strip
from .pictures import displayable, image_grid
from .report import explained
from .training import descent, masks_by_step, runs, trade_off

__all__ = [
    "GREY", "STYLE", "Drawing", "additions", "alt_text", "attention_heads", "board", "depths", "descent", "displayable",
    "explained", "explanations", "forest", "forgetting", "gallery", "gate_distribution", "gate_distributions", "gate_noise",
    "gate_stages", "harden", "history", "image_grid", "layers", "line_panels", "lines", "masks_by_step", "overlay",
    "patch_sequence", "png", "position_similarity", "probabilities", "race", "ranked_maps", "removal_curves", "removal_steps",
    "removals", "runs", "seed_masks", "smoothed", "soft_to_hard", "soft_to_hard_strip", "trade_off", "ways_to_draw",
]  # fmt: skip
