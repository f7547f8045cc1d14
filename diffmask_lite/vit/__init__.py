"""See inside any timm Vision Transformer, and ask it about an image with patches missing.

A ViT is a guest here: nothing in this package changes its weights or leaves a hook, a flag or an attribute on it, not even
after an exception or Ctrl-C. Everything is done through forward hooks, so the model's own code runs and no architecture is
rewritten. A model is one thread's at a time: whoever comes meanwhile waits, also for a context such as `observe` to be left.

    hold        `guest` holds a model in eval mode, for one thread at a time
    anatomy     does a model fit, and what are its sizes?
    hooks       read hidden states and attention maps, replace the patch embedding
    head        what logits say: one class of several, or each label on its own
    tokens      drop tokens, sharply or by degrees
    removal     `predict`: the one place where patches are taken away
    inputs      what an image, a mask and a class must be
    models      ViTs of others: timm's by name, weights from a file
    state       state dicts in files of others, and the sizes that they mean
    storage     tensors in files, and the fingerprint that tells one ViT from another
    randomness  seeded streams of random numbers

Shapes are written B (batch), N (patches), D (width), L (blocks), P (prefix tokens: class, distillation, registers),
h × w (patch grid, N = h·w) and C × H × W (pixels).
"""

from .anatomy import Anatomy, UnfitViT, anatomy
from .hold import guest
from .hooks import attention_maps, explicit_attention, hidden_states, observe, observe_attention, replace_embedding
from .removal import mean_patch, pixel_range, predict, to_pixels
from .storage import fingerprint
from .tokens import drop_tokens, weigh_tokens

__all__ = [
    "Anatomy", "UnfitViT", "anatomy", "attention_maps", "drop_tokens", "explicit_attention", "fingerprint", "guest",
    "hidden_states", "mean_patch", "observe", "observe_attention", "pixel_range", "predict", "replace_embedding", "to_pixels",
    "weigh_tokens",
]  # fmt: skip
