"""Stop a training and go on: checkpoints that survive a kill at any moment, and Ctrl-C that never cuts a step in half."""

from __future__ import annotations

import json
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..vit.inputs import reason
from ..vit.storage import replacing


def save_checkpoint(path: str | os.PathLike, run: dict[str, Any], **state: Any) -> None:
    """Write the state of a training to one file, in a single atomic step.

    run: all that its steps depend on, as JSON can hold it. state: tensors, numbers, and dictionaries and lists of them, such as
    a `state_dict()`; "step" is how many steps were taken.
    """
    with replacing(path) as file:
        torch.save({"run": json.dumps(run), **state}, file)


def load_checkpoint(path: str | os.PathLike | None, run: dict[str, Any], steps: int) -> dict[str, Any] | None:
    """Return the state that `save_checkpoint` wrote, with its tensors on the CPU; None where there is no file.

    Raises `ValueError`, naming what differs, unless it was written by the run that wants to go on, to at most so many steps.
    """
    if path is None or not Path(path).exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)  # numbers alone: nothing is executed
        found = json.loads(state.pop("run"))
    except Exception as error:  # broken bytes lead torch's reader to errors of many kinds
        raise ValueError(f"{path} is not a whole checkpoint ({reason(error)}); remove it, or name another file.") from error
    wanted = json.loads(json.dumps(run))  # as a checkpoint holds it: lists for tuples
    if found.get("kind") != wanted["kind"]:
        raise ValueError(f"{path} is not a checkpoint of this kind of training; name another file.")
    for key in dict.fromkeys([*wanted, *found]):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"The checkpoint {path} is of another run: {key} was {found.get(key)!r} and is now {wanted.get(key)!r}; "
                "use the old setting, remove the file, or name another."
            )
    if state["step"] > steps:
        raise ValueError(
            f"The checkpoint {path} has {state['step']} steps behind it, more than the {steps} that are asked for; ask for at "
            "least as many, remove the file, or name another."
        )
    return state


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Let Ctrl-C set an event instead of raising, so that a step is never cut in half; a second Ctrl-C raises."""
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield pressed  # somebody else handles Ctrl-C
        return

    def press(number: int, frame: Any) -> None:
        if pressed.is_set():
            signal.default_int_handler(number, frame)
        pressed.set()

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
