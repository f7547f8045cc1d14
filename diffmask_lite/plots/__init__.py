"""Draw what the package computes: data in, `matplotlib` figure out.

Nothing here shows or saves a figure or changes matplotlib's settings. Tensors and numpy arrays are both welcome. A figure
belongs to no window, so a notebook shows it exactly once, and it carries alternative text made from the data (`alt_text`).
Two rules keep pictures honest: a map is drawn patch by patch, never smoothed, and a mask's colours always run from 0 to 1.
"""

from .canvas import GREY, STYLE, Drawing, alt_text, draw_mask, png
from .curves import history, probabilities
from .evaluation import forest, ranked_maps, removal_curves
from .gallery import gallery
from .masks import explanations, layers
from .overlays import overlay
from .pictures import displayable, image_grid
from .report import explained

__all__ = [
    "GREY", "STYLE", "Drawing", "alt_text", "displayable", "draw_mask", "explained", "explanations", "forest", "gallery",
    "history", "image_grid", "layers", "overlay", "png", "probabilities", "ranked_maps", "removal_curves",
]  # fmt: skip
