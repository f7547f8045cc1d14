"""What the tests of training share: a data set that draws at random, and how two trainings are compared."""

import inspect
import random

import numpy as np
import torch
from torch.utils.data import Dataset

from diffmask_lite.training.data import digest

QUICK = {"batch": 4, "progress": False}
HASHED = inspect.signature(digest).parameters["items"].default  # at most so many items are looked at before the first step


class Noisy(Dataset):
    """Images with noise of their own, as augmentation adds it, and labels after them.

    on_item: called with how many items the training has taken, this one included. taken: which they were.
    """

    def __init__(self, images, on_item=lambda count: None):
        self.images, self.on_item, self.looked_at = images, on_item, []

    def __len__(self):
        return len(self.images)

    @property
    def taken(self):
        return self.looked_at[min(HASHED, len(self)) :]

    def __getitem__(self, i):
        self.looked_at.append(i)
        self.on_item(len(self.taken))
        return self.images[i] + 0.1 * torch.randn(()) + 0.1 * random.random() + 0.1 * np.random.rand(), i  # noqa: NPY002


def weights(explainer):
    """All numbers of an explainer, in one row."""
    return torch.cat([value.detach().flatten() for value in explainer.state_dict().values()])


def gradients(explainer):
    """The gradients of the last step of `fit`, or of a step by hand, by name."""
    return {name: p.grad.clone() for name, p in explainer.named_parameters() if p.grad is not None}


def assert_gradients_agree(found, wanted):
    """Relative to the largest entry of each tensor, which is the scale of its rounding errors.

    The weights after a step would be the wrong thing to compare. Adam divides each entry of a gradient by its own size. Where
    an entry is 0 but for rounding, the order of sums decides its sign, and the weight moves by lr in either direction.
    """
    assert found.keys() == wanted.keys()
    most = max(value.abs().max().item() for value in wanted.values())
    assert most > 1e-4, "gradients of 0 prove nothing"
    for name, value in wanted.items():
        atol = 1e-4 * value.abs().max().item() + 1e-6 * most
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda said, name=name: f"{name}: {said}")
