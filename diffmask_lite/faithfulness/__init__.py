"""Is a map true? Scores of attribution maps and hard masks against the ViT itself, and against a known ground truth.

    ranking     which patch comes first, and what to do about ties
    curves      `evaluate`: take patches away in the order of a map, and watch the prediction
    masks       hard masks: are the kept patches enough, are they needed?
    luck        are masks better than random ones of their size, and than themselves, moved?
    truth       maps and masks against known cells
    statistics  intervals and differences by a paired bootstrap over images and seeds
    probes      does a mask leak the label, does a map depend on the weights?

Everything happens at patch level, on the ViT's own grid. Tables are long: one row a method, seed, removal, image and metric.
"""

from .curves import Evaluation, evaluate
from .luck import luck, twins
from .masks import hard_mask_scores, mask_scores
from .probes import label_leak, weight_randomisation
from .ranking import best, midranks, removal_order, spearman
from .statistics import ARROWS, Interval, compare, differences, intervals, removal_agreement, summary
from .truth import image_auroc, pooled_auroc, pooled_iou, truth_differences, truth_scores

__all__ = [
    "ARROWS", "Evaluation", "Interval", "best", "compare", "differences", "evaluate", "hard_mask_scores", "image_auroc",
    "intervals", "label_leak", "luck", "mask_scores", "midranks", "pooled_auroc", "pooled_iou", "removal_agreement",
    "removal_order", "spearman", "summary", "truth_differences", "truth_scores", "twins", "weight_randomisation",
]  # fmt: skip
