"""Several processes on one global batch, through Hugging Face Accelerate: who takes which rows, and what is averaged.

`torchrun`, `accelerate launch` and `notebook_launcher` start one process a device, each running the same program. All hold
the same gates and draw the same random numbers, those of the whole batch; each works on its rows, and what depends on the
whole batch is averaged. In a single process nothing here changes a number, and Accelerate is not even imported.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import PartialState


@dataclass(frozen=True)
class Draw:
    """Random numbers of one step: drawn for the whole batch by every process, of which each takes its own rows."""

    generator: torch.Generator
    batch: int  # images of all processes together
    rows: slice  # this process's
    device: torch.device

    def integer(self, low: int, high: int) -> int:
        """Return a number in low … high − 1, the same for all processes."""
        return int(torch.randint(low, high, (), generator=self.generator))

    def uniform(self, *size: int) -> Tensor:
        """Return numbers in [0, 1), (B, *size): this process's B rows of the numbers drawn for the whole batch."""
        return torch.rand(self.batch, *size, generator=self.generator)[self.rows].to(self.device)


@dataclass(frozen=True)
class Team:
    """This process among those that share a training."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the one process that prints and writes files."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """Return which rows of a global batch are this process's; raises `ValueError` if they cannot be shared evenly."""
        if batch % self.size:
            raise ValueError(f"A batch of {batch} images cannot be shared evenly by {self.size} processes; change batch.")
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, numbers: Mapping[str, Tensor]) -> dict[str, float]:
        """Return scalars, each averaged over the processes; NaN in one is NaN for all, so that all of them stop."""
        stacked = torch.stack([number.detach().float() for number in numbers.values()])
        if self.size > 1:
            from accelerate.utils import reduce

            stacked = reduce(stacked, "mean")
        return dict(zip(numbers, stacked.tolist(), strict=True))  # the one place where a step waits for its device

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, on the CPU."""
        if self.size > 1:
            from accelerate.utils import reduce

            tensor = reduce(tensor.to(self.device), "sum").cpu()
        return tensor

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of what was used in this step, in one message."""
        if self.size > 1:
            from accelerate.utils import reduce

            gradients = [p.grad for p in parameters if p.grad is not None]
            flat = reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def agree(self, *facts: Any) -> None:
        """Raise `ValueError` unless all processes are about to do the same; facts: what it depends on, as JSON can hold it."""
        if self.size > 1:
            from accelerate.utils import gather

            digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=7).digest()
            found = gather(torch.tensor([int.from_bytes(digest, "big")], device=self.device))
            if (found != found[0]).any():
                raise ValueError(
                    f"The {self.size} processes were given different settings, data, ViTs or checkpoints; give them the same, "
                    "and a checkpoint on a disk that all of them see."
                )

    def start_alike(self, run: dict[str, Any], step: int, explainer: nn.Module) -> None:
        """Give every process the main one's gates; raises `ValueError` if they are not about to do the same."""
        self.agree(run, step)
        if self.size > 1:
            from accelerate.utils import broadcast

            for tensor in explainer.state_dict().values():
                broadcast(tensor)

    def wait(self) -> None:
        """Return when every process has come here: what the main one wrote is then there for all."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def launched() -> bool:
    """Return whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ


def join(device: torch.device) -> Team:
    """Return this process's place among those that were launched; device: the ViT's.

    Raises `ValueError` where the ViT is not on the process's own GPU: two processes on one would wait for each other.
    """
    if not launched():
        return Team(device)
    state = _state(device.type == "cpu")
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were launched, but Accelerate was set up before fit and knows of "
            f"{state.num_processes}; on CPUs, set it up by accelerate.PartialState(cpu=True)."
        )
    if device.type == "cuda" and state.device.type == "cuda" and device != state.device:
        raise ValueError(
            f"Process {state.process_index} of {state.num_processes} has the device {state.device}, but its ViT is on "
            f"{device}; use vit.to(accelerate.PartialState().device) before DiffMask(vit)."
        )
    return Team(device, state.process_index, state.num_processes)


def own_device() -> torch.device | None:
    """Return the device that this process has among several; None if it is alone."""
    return _state(cpu=not torch.cuda.is_available()).device if launched() else None


def fast_bfloat16(device: torch.device | str) -> bool:
    """Return whether a device is made for bfloat16: a GPU that computes in it, or a processor with AMX.

    With AVX512_BF16 alone a training step takes 1.4 times as long as in float32, and without it 11 to 15 times.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def _state(cpu: bool) -> PartialState:
    """Return what Accelerate knows of this process; cpu: True where there is no GPU, or it does not connect the processes."""
    from accelerate import PartialState

    atexit.unregister(_leave)
    atexit.register(_leave)  # a process that ends while it is in a group can be aborted by the group's threads
    return PartialState(cpu=cpu)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
