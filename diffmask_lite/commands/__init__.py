"""The command line: `python -m diffmask_lite explain` and `train-gates`, for any ViT."""

from .explain import add_explain
from .train_gates import add_train_gates

__all__ = ["add_explain", "add_train_gates"]
