"""A ViT is a guest: whatever is changed on it comes back, and meanwhile nobody else uses it.

Everything in this package that changes a ViT for a while enters `hold`: `guest` for eval mode, `attached` for hooks.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def hold(model: nn.Module) -> Iterator[None]:
    """Keep a model for this thread, and keep Ctrl-C from leaving something on it.

    Another thread that wants the model waits until the context is left; the same thread may enter again.
    """
    with _locks.setdefault(model, threading.RLock()), whole_contexts():
        yield


@contextmanager
def whole_contexts() -> Iterator[None]:
    """Let Ctrl-C wait while a context inside is entered or left, since it could cut that in half; elsewhere it acts at once."""
    before, late = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield  # Python interrupts the main thread alone; or an outer context takes care of it
        return

    def press(number: int, frame: FrameType | None) -> None:
        if not halfway(frame):
            signal.default_int_handler(number, frame)
        late.append(number)

    try:
        signal.signal(signal.SIGINT, press)
        if late:
            raise KeyboardInterrupt
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if late:
            raise KeyboardInterrupt


def halfway(frame: FrameType | None) -> bool:
    """Return whether the code that runs in a frame, or its caller, is about to enter or leave a context."""
    while frame is not None and frame.f_code.co_name not in ("__enter__", "__exit__", "enter_context"):
        frame = frame.f_back
    return frame is not None


@contextmanager
def guest(model: nn.Module) -> Iterator[nn.Module]:
    """Hold a model in eval mode with its weights' gradients off, then put back every flag as it was.

    Only flags that have to change are touched, so entering costs little beside a forward pass: under `torch.no_grad` the
    weights need none of it. Gradient checkpointing is off as well. It throws activations away and makes new ones in the
    backward pass, when no hook is there to see or to change them.
    """
    with hold(model), ExitStack() as stack:
        for module in walk(model):
            for flag in ("training", "grad_checkpointing"):
                if vars(module).get(flag):
                    change(stack, module, flag, False)
        for weight in model.parameters() if torch.is_grad_enabled() else ():
            if weight.requires_grad:
                change(stack, weight, "requires_grad", False)
        yield model


def change(stack: ExitStack, thing: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack is left. It is remembered first, so that an exception in between does no harm."""
    stack.callback(setattr, thing, name, getattr(thing, name))
    setattr(thing, name, value)


@contextmanager
def attached(model: nn.Module, hooks: Iterable[tuple[Callable, Callable]]) -> Iterator[None]:
    """Have hooks on a model, pairs of a method that registers and a function: (block.register_forward_hook, look)."""
    with hold(model), ExitStack() as stack:
        for register, hook in hooks:
            stack.callback(register(hook).remove)
        yield


def walk(model: nn.Module) -> Iterator[nn.Module]:
    """Yield all modules. `model.modules()` makes their names as well, at one per cent of a small ViT's forward pass a call."""
    left = [model]
    while left:
        module = left.pop()
        yield module
        left += [child for child in module._modules.values() if child is not None]
