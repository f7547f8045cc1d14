"""What does a training step cost beyond the ViT's own work? Time and memory, measured in one run in alternation.

    python experiments/training_step.py                       ViT-B/16 at 224, two images
    python experiments/training_step.py --bf16 --batch 8      as `train-gates --model` trains

The ViT's own work in a step is two forward passes, the second on masked patch embeddings, and one backward pass through it down
to the mask. A step of `fit` adds the gates: all of them here, which is the dearest depth. Printed are the median and the
quartiles of one ratio a round (of the processor's seconds on a CPU), and the bytes that autograd keeps for the backward pass,
the ViT's weights left out. Exit status 1 where a bar is broken.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor

from diffmask_lite import DiffMask, fit
from diffmask_lite.diffmask import kl_divergence
from diffmask_lite.vit import anatomy, explicit_attention, guest, predict
from timing import ratios

TIME, MEMORY = 1.10, 1.15


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="vit_base_patch16_224", help="timm's name (default: %(default)s)")
    options.add_argument("--batch", type=int, default=2, help="images a step (default: 2)")
    options.add_argument("--rounds", type=int, default=15, help="ratios to take the median of (default: 15)")
    options.add_argument("--bf16", action="store_true", help="run the ViT under autocast to bfloat16")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    options.add_argument("--threads", type=int, help="cores to use (default: all)")
    options = options.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    vit = timm.create_model(options.model).eval().to(options.device)
    explainer = DiffMask(vit)
    images = torch.randn(options.batch, *anatomy(vit).size, 3, generator=torch.Generator().manual_seed(0)).movedim(-1, 1)
    dtype = torch.bfloat16 if options.bf16 else None
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None

    def plain() -> None:
        passes(explainer, images.to(options.device), dtype)
        wait()

    def step() -> None:
        last = explainer.shape.states - 1
        fit(explainer, images, 1, batch=options.batch, shallowest=last, autocast=dtype, progress=False)
        wait()

    clock = time.process_time if options.device == "cpu" else time.perf_counter
    kept = [saved_bytes(call, vit) for call in (plain, step)]
    memory = kept[1] / kept[0]
    low, median, high = statistics.quantiles(ratios(plain, step, options.rounds, clock=clock), n=4)
    how = f"{options.model}, batch {options.batch}, {'bfloat16' if dtype else 'float32'}, {options.device}"
    print(f"{how}\n{'':<22}{'ratio ↓':>8}{'bar':>6}")
    print(f"{'time, median':<22}{median:>8.3f}{TIME:>6.2f}   quartiles {low:.3f} – {high:.3f}")
    print(f"{'bytes for backward':<22}{memory:>8.3f}{MEMORY:>6.2f}   {kept[1] / 2**20:.0f} against {kept[0] / 2**20:.0f} MiB")
    return int(median > TIME or memory > MEMORY)


def passes(explainer: DiffMask, images: Tensor, dtype: torch.dtype | None) -> None:
    """Do the ViT's own work of a step: both forward passes, and the backward pass to a mask that is simply there."""
    vit, shape = explainer.vit, explainer.shape
    z = torch.full((len(images), *shape.grid), 0.5, device=images.device, requires_grad=True)
    fused = explicit_attention(vit) if images.device.type == "cpu" else guest(vit)
    with fused:
        with torch.autocast(images.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            with torch.no_grad():
                logits = predict(vit, images)
            masked = predict(vit, images, z, explainer.placeholder)
        kl_divergence(logits, masked).mean().backward()


def saved_bytes(call: Callable[[], None], vit: torch.nn.Module) -> int:
    """Return the bytes of all storages that autograd keeps while `call` runs, but for the ViT's weights and their casts."""
    weights = {p.untyped_storage().data_ptr() for p in vit.parameters()}
    shapes = {frozenset(p.shape) for p in vit.parameters() if p.ndim == 2}  # under autocast, a weight in bfloat16 is kept
    found: dict[int, int] = {}
    held = []  # so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        cast = tensor.ndim == 2 and tensor.dtype == torch.bfloat16 and frozenset(tensor.shape) in shapes
        if storage.data_ptr() not in weights and not cast:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(found.values())


if __name__ == "__main__":
    sys.exit(main())
