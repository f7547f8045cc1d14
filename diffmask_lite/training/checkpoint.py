"""Stop a training and go on: checkpoints that survive a kill at any moment, and Ctrl-C that never cuts a step in half."""

from __future__ import annotations

import json
import os
import signal
import threading
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..vit.hold import halfway
from ..vit.inputs import reason
from ..vit.storage import replacing


def save_checkpoint(path: str | os.PathLike, run: dict[str, Any], **state: Any) -> None:
    """Write the state of a training to one file, in a single atomic step.

    run: all that its steps depend on, as JSON can hold it. state: tensors, numbers, and dictionaries and lists of them, such as
    a `state_dict()`; "step" is how many steps were taken.
    """
    with replacing(path) as file:
        torch.save({"run": json.dumps(run), **state}, file)


def load_checkpoint(
    path: str | os.PathLike | None, run: dict[str, Any], steps: int, parts: Iterable[str] = ()
) -> dict[str, Any] | None:
    """Return the state that `save_checkpoint` wrote, with its tensors on the CPU; None where there is no file.

    parts: what the state must hold. Raises `ValueError`, naming what differs, unless it was written by the run that wants to go
    on, to at most so many steps.
    """
    if path is None or not Path(path).exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > os.path.getsize(path):  # torch does not compress
                raise ValueError("it claims to hold more than its size")
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is damaged")
        state = torch.load(path, map_location="cpu", weights_only=True)  # numbers alone: nothing is executed
        found = dict(json.loads(state.pop("run")))
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
    if missing := {"step", *parts} - state.keys():
        raise ValueError(f"{path} is not a whole checkpoint (it lacks {', '.join(sorted(missing))}); name another file.")
    if state["step"] > steps:
        raise ValueError(
            f"The checkpoint {path} has {state['step']} steps behind it, more than the {steps} that are asked for; ask for at "
            "least as many, remove the file, or name another."
        )
    return state


@contextmanager
def deferred_interrupt() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of being stopped, so that a step is never cut in half; a second one stops at once.

    Whoever sent SIGTERM waits for the process to end: once the context is left, `SystemExit` does that, with status 143.
    """
    pressed: list[int] = []
    unhandled = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    with ExitStack() as stack:

        def press(number: int, frame: FrameType | None) -> None:
            if pressed and not halfway(frame):
                raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
            pressed.append(number)

        if threading.current_thread() is threading.main_thread():  # no other one is interrupted
            for number, handler in unhandled.items():
                if signal.getsignal(number) == handler:  # else somebody else takes care of it
                    stack.callback(signal.signal, number, handler)
                    signal.signal(number, press)
        yield pressed
    if signal.SIGTERM in pressed:
        raise SystemExit(128 + signal.SIGTERM)
