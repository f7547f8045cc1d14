"""DiffMask against all other attribution methods, on one task: removal curves, hard masks of equal size, probes, ground truth.

    python experiments/compare.py cifar10      about an hour and a half of one core
    python experiments/compare.py grid

`diffmask_lite.course.results.load` reads what it stores. Every method sees the same images and the same removals. The work is
done in pieces (`cache`), so a stopped run goes on where it was. CIFAR-10 is needed under the data root.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from cache import Cache, versions
from diffmask_lite import DiffMask, attribution, faithfulness, weights
from diffmask_lite.course import results
from diffmask_lite.datasets import test_set
from diffmask_lite.faithfulness.curves import NAMED_REMOVALS
from diffmask_lite.vit import fingerprint, predict
from diffmask_lite.vit.inputs import REMOVALS
from diffmask_lite.vit.randomness import stream
from manifest import command
from tables import save, wide

DIFFMASK, BLUR = "diffmask", "blurred "
GATE_KINDS = {DIFFMASK: "diffmask", "diffmask_plain": "plain", "diffmask_published": "published"}  # in `weights.KINDS`
BASELINES = ("random", "centre")
# A method that gains by blurring, or loses nothing, owes nothing to detail: is smoothness alone what makes a map win?
BLURRED = (DIFFMASK, "gradient_attention", "leave_one_out")
COMPARED = (*GATE_KINDS, *attribution.METHODS, *(BLUR + name for name in BLURRED))

DRAWS = 5  # random maps
STRONGEST = 3  # other methods whose top patches are compared with DiffMask's masks
PROBED = 32  # images on which weights are randomised: every method is asked anew at each stage
BATCH = 50  # images a method is given at once


@dataclass(frozen=True)
class Task:
    """What is measured: a ViT, gates of several seeds, by kind, and images."""

    name: str
    vit: nn.Module
    vit_file: Path
    gates: dict[str, list[Path]]
    images: Tensor  # (n, C, H, W), normalised
    index: Tensor  # (n,), of each image in the test set, ascending
    truth: Tensor | None  # bool (n, h, w), where it is known
    source: str

    @cached_property
    def explainers(self) -> dict[str, list[DiffMask]]:
        return {method: [DiffMask.load(path, self.vit).eval() for path in paths] for method, paths in self.gates.items()}

    @cached_property
    def logits(self) -> Tensor:
        """What the ViT says of the whole images, (n, classes)."""
        with torch.no_grad():
            return torch.cat([predict(self.vit, part) for part in self.images.split(BATCH)])


def prepare(
    name: str,
    images: int = 500,
    *,
    seed: int = 0,
    gates: Sequence[str | os.PathLike] | None = None,
    root: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None,
) -> Task:
    """Load a task, "grid" or "cifar10", with `images` of its test images, drawn once by the seed.

    gates: files of gates, to be "diffmask"; by default those of every seed and kind in the manifest of root, the folder of
    weights. data: folder of data sets. Raises `FileNotFoundError` or `ValueError` where something is missing or does not fit.
    """
    test = test_set(name, data)
    if not 2 <= images <= len(test):
        raise ValueError(f"The test set of {name!r} has {len(test)} images; take between 2 and all of them, not {images}.")
    index = torch.randperm(len(test), generator=stream(seed, "test images"))[:images].sort().values
    samples = [test[i] for i in index.tolist()]
    truth = torch.stack([sample[2] for sample in samples]) if len(samples[0]) > 2 else None
    vit_file = weights.shipped(f"{name}_vit.safetensors", root)
    files = {DIFFMASK: [Path(path) for path in gates or ()]}
    if not gates:
        for method, kind in GATE_KINDS.items():
            seeds = weights.seeds_of(name, kind, root)
            files[method] = [weights.shipped(weights.gates_file(name, kind, s), root) for s in seeds]
    if not files[DIFFMASK]:
        raise ValueError(f"There are no gates for {name!r}; make them with `python experiments/train_gates.py {name}`.")
    vit = weights.load_vit(vit_file, name)
    files = {method: paths for method, paths in files.items() if paths}
    return Task(name, vit, vit_file, files, torch.stack([sample[0] for sample in samples]), index, truth, test.source)


class Comparison:
    """The measurements of one run; each method returns a finished piece, made now or read back."""

    def __init__(
        self,
        task: Task,
        *,
        steps: int = 16,
        seed: int = 0,
        methods: Sequence[str] | None = None,
        removals: Sequence[str] | None = None,
        cache: str | os.PathLike = Path("build") / "compare",
        report: Callable[[str], None] = print,
    ):
        unknown = [name for name in methods or () if name not in COMPARED]
        if unknown:
            raise ValueError(f"There is no method {unknown[0]!r}; there are {', '.join(COMPARED)}.")
        self.task, self.steps, self.seed = task, steps, seed
        there = [name for name in COMPARED if name not in GATE_KINDS or name in task.gates]
        self.methods = [name for name in there if name in (methods or COMPARED)]  # in one order, whatever was asked
        self.own_placeholder = task.explainers[DIFFMASK][0].kind not in ("mean", "drop")
        self.removals = list(dict.fromkeys(removals or [*REMOVALS, *["placeholder"] * self.own_placeholder]))  # each once
        self.run = {
            "task": task.name, "source": task.source, "images": len(task.images), "steps": steps, "seed": seed,
            "vit": {"file": task.vit_file.name, "fingerprint": fingerprint(task.vit), "sha256": weights.sha256(task.vit_file)},
            "gates": [
                {"method": method, "file": path.name, "placeholder": explainer.kind, "sha256": weights.sha256(path)}
                for method, paths in task.gates.items()
                for path, explainer in zip(paths, task.explainers[method], strict=True)
            ],
            "versions": versions(),
        }  # fmt: skip
        self.cache = Cache(cache, self.run, report, without="gates")  # new gates leave the other methods' pieces as they are
        self.maps = lru_cache(maxsize=None)(self._maps)  # a method's maps, (S, n, h, w): S seeds of gates, random draws, or 1

    def measure(self) -> dict[str, pd.DataFrame]:
        """Return the wide tables that `results.save` takes."""
        methods, removals = self.methods, self.removals
        asked = [method for method in methods if method not in BASELINES and BLUR not in method]  # who looks at the ViT
        known = [] if self.task.truth is None else methods
        drawn = sorted({*self.task.gates, "random", *(method.removeprefix(BLUR) for method in methods)})
        compared = min(STRONGEST, len(set(asked) - set(GATE_KINDS))) + len(self.task.gates)
        pieces = [len(drawn), len(removals) * (len(methods) + compared + 1), compared, len(asked), len(known)]
        self.cache.total = sum(pieces)

        for method in drawn:
            self.maps(method)
        curves = [self.curves(method, removal) for removal in removals for method in methods]
        masks = [self.masks(method, removal) for removal in removals for method in self.compared]
        probes = [self.label_leak(method) for method in self.compared if method not in BASELINES]
        probes += [self.randomised(method) for method in asked] + [self.truth(method) for method in known]
        return {
            "scores": self._with_source([tables["scores"] for tables in curves]),
            "curves": self._with_source([tables["curves"] for tables in curves]),
            "masks": self._with_source(masks),
            "probes": self._with_source(probes),
        }

    def about(self, command: str) -> dict:
        """Return the sidecar, once all is measured. command: what was typed."""
        note = "removal 'placeholder' is left out: that of these gates is one of the others, the mean patch or nothing at all"
        return self.run | {
            "command": command,
            "commit": self.cache.commits,
            "methods": self.methods,
            "removals": self.removals,
            "random draws": DRAWS,
            "images with weights randomised": self.task.index[self.probed].tolist(),
            "masks compared with": self.compared[1:],
            "notes": [] if self.own_placeholder or "placeholder" in self.removals else [note],
        }

    def _maps(self, method: str) -> Tensor:
        if method.startswith(BLUR):
            return torch.stack([attribution.blurred(maps) for maps in self.maps(method.removeprefix(BLUR))])
        if method in GATE_KINDS:
            return self.explained(method)["score"]
        return self.cache.tensors(f"maps, {method}", lambda: {"maps": self._drawn(method)}, shared=True)["maps"]

    def _drawn(self, method: str) -> Tensor:
        function, images = attribution.METHODS[method], self.task.images
        if method == "random":
            draws = [function(self.task.vit, images, generator=stream(self.seed, "random map", d)) for d in range(DRAWS)]
            return torch.stack(draws)
        return torch.cat([function(self.task.vit, part) for part in images.split(BATCH)])[None]

    def explained(self, method: str) -> dict[str, Tensor]:
        """The soft masks' log-odds and the hard masks of the gates of each seed, "score" and "keep", both (S, n, h, w)."""

        def explain() -> dict[str, Tensor]:
            parts = self.task.images.split(BATCH)
            found = [[explainer.explain(part) for part in parts] for explainer in self.task.explainers[method]]
            return {
                "score": torch.stack([torch.cat([result.score for result in seed]) for seed in found]),
                "keep": torch.stack([torch.cat([result.keep for result in seed]) for seed in found]),
            }

        return self.cache.tensors(f"maps, {method}", explain)

    def curves(self, method: str, removal: str) -> dict[str, pd.DataFrame]:
        """Return "scores", a row an image, and "curves", averaged over images and seeds."""

        def evaluate() -> dict[str, pd.DataFrame]:
            found = faithfulness.evaluate(
                self.task.vit, self.task.images, {method: self.maps(method)}, removal, explainer=self._explainer(removal),
                steps=self.steps, seed=self.seed, logits=self.task.logits, progress=False,
            )  # fmt: skip
            by_point = found.curves.groupby(["method", "removal", "order", "share"], sort=False)["p"]
            return {
                "scores": wide(self._with_index(found.scores)),
                "curves": by_point.agg(p="mean", n="size").reset_index(),
            }

        shared = method.removeprefix(BLUR) not in GATE_KINDS and removal != "placeholder"
        return self.cache.tables(f"curves, {removal}, {method}", evaluate, shared)

    @cached_property
    def compared(self) -> list[str]:
        """DiffMask (each kind), the other methods with the highest SRG, mean over images and removals, and random sets."""
        rivals = [name for name in self.methods if name not in (*GATE_KINDS, *BASELINES) and BLUR not in name]

        def srg(method: str) -> float:
            return sum(self.curves(method, removal)["scores"]["srg"].mean() for removal in self.removals)

        return [*self.task.gates, *sorted(rivals, key=srg, reverse=True)[:STRONGEST], "random"]

    def equal_size(self, method: str) -> Tensor:
        """Return masks bool (S, D, n, h, w): as many patches as gates s of "diffmask" keep, the best ones by the map of draw d.

        Of gates it is the masks that they show, so those of other kinds have sizes of their own.
        """
        if method in GATE_KINDS:
            return self.explained(method)["keep"][:, None]
        keep = self.explained(DIFFMASK)["keep"]
        sizes = keep.flatten(2).sum(2)  # (S, n)
        return torch.stack([torch.stack([faithfulness.best(maps, size) for maps in self.maps(method)]) for size in sizes])

    def masks(self, method: str, removal: str) -> pd.DataFrame:
        """Return the scores of hard masks, a row a seed of gates and an image, mean over draws of random sets."""

        def score() -> dict[str, pd.DataFrame]:
            chosen = self.equal_size(method)
            found = faithfulness.mask_scores(
                self.task.vit, self.task.images, {method: chosen.flatten(0, 1)}, removal,
                explainer=self._explainer(removal), seed=self.seed, logits=self.task.logits,
            )  # fmt: skip
            found["seed"] //= chosen.shape[1]
            keys = [column for column in found if column != "value"]
            return {"masks": wide(self._with_index(found.groupby(keys, sort=False)["value"].mean().reset_index()))}

        return self.cache.tables(f"masks, {removal}, {method}", score)["masks"]

    def label_leak(self, method: str) -> pd.DataFrame:
        """Return how well the predicted class can be read off hard masks alone, for the size of each seed's masks."""

        def probe() -> dict[str, pd.DataFrame]:
            tables = []
            for s, masks in enumerate(self.equal_size(method)[:, 0]):
                found = faithfulness.label_leak(masks.float(), self.task.logits.argmax(1), seed=self.seed)
                tables.append(found.rename_axis("metric").reset_index().assign(seed=s))
            return {"probes": self._probe("label leak", method, tables)}

        return self.cache.tables(f"label leak, {method}", probe)["probes"]

    @property
    def probed(self) -> Tensor:
        """Which images: spread over all of them, since a test set may be sorted by class."""
        n = len(self.task.images)
        return torch.linspace(0, n - 1, min(PROBED, n)).round().long()

    def randomised(self, method: str) -> pd.DataFrame:
        """Return how maps correlate (Spearman) with those of the trained ViT, as weights are forgotten from the head down."""
        images, said = self.task.images[self.probed], self.task.logits[self.probed].argmax(1)

        def maps_of(s: int) -> Callable[[nn.Module], Tensor]:
            if method in GATE_KINDS:  # the same gates, reading another ViT's hidden states
                path, known = self.task.gates[method][s], said if self.task.explainers[method][s].class_aware else None
                return lambda vit: DiffMask.load(path, vit, same_vit=False).eval().explain(images, target=known).score
            return lambda vit: attribution.METHODS[method](vit, images, said)

        def probe() -> dict[str, pd.DataFrame]:
            tables = []
            for s in range(len(self.task.gates.get(method, [0]))):
                found = faithfulness.weight_randomisation(self.task.vit, maps_of(s), seed=self.seed, progress=False)
                found = found.rename(columns={"stage": "metric"}).assign(method=method, removal="", seed=s)
                tables.append(faithfulness.intervals(found, seed=self.seed).assign(seed=s))
            return {"probes": self._probe("weight randomisation", method, tables).assign(n=len(images))}

        return self.cache.tables(f"weight randomisation, {method}", probe, shared=method not in GATE_KINDS)["probes"]

    def truth(self, method: str) -> pd.DataFrame:
        """Return how well maps, and DiffMask's hard masks, find the known truth; all seeds together."""

        def score() -> dict[str, pd.DataFrame]:
            shown = [self.maps(method), *([self.explained(method)["keep"]] if method in GATE_KINDS else [])]
            tables = [faithfulness.truth_scores({method: maps}, self.task.truth, seed=self.seed) for maps in shown]
            return {"probes": self._probe("truth", method, [table.assign(seed=pd.NA) for table in tables])}

        return self.cache.tables(f"truth, {method}", score, shared=method.removeprefix(BLUR) not in GATE_KINDS)["probes"]

    def _probe(self, probe: str, method: str, tables: list[pd.DataFrame]) -> pd.DataFrame:
        table = pd.concat(tables, ignore_index=True).rename(columns={"metric": "what"})
        table = table.assign(probe=probe, method=method, n=len(self.task.images))
        return table[["probe", "method", "seed", "what", "mean", "low", "high", "n"]]

    def _explainer(self, removal: str) -> DiffMask | None:
        """Whose placeholder stands for removed patches: that of the first seed, for all methods alike."""
        return self.task.explainers[DIFFMASK][0] if removal == "placeholder" else None

    def _with_index(self, scores: pd.DataFrame) -> pd.DataFrame:
        return scores.assign(image=self.task.index.numpy()[scores["image"]])

    def _with_source(self, tables: list[pd.DataFrame]) -> pd.DataFrame:
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, "source", self.task.source)
        return table


ASKED = ("images", "steps", "seed", "removals", "methods", "gates")  # what the numbers depend on, beside data and weights


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=weights.NAMES, help="the task: colour grid, or CIFAR-10")
    parser.add_argument("--images", type=int, default=500, help="test images, drawn once by the seed (default: 500)")
    parser.add_argument("--steps", type=int, default=16, help="steps of a removal curve, at most one a patch (default: 16)")
    parser.add_argument(
        "--removals", nargs="+", choices=NAMED_REMOVALS, metavar="REMOVAL",
        help=f"how patches are taken away, of {', '.join(NAMED_REMOVALS)} (default: drop, mean and noise; and placeholder "
        "where that of the gates is not the mean patch)",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", choices=COMPARED, metavar="METHOD",
        help=f'whose maps are scored, of {", ".join(COMPARED)} (default: all)',
    )  # fmt: skip
    parser.add_argument(
        "--gates", type=Path, nargs="+", metavar="FILE", help="gates of one seed each (default: all of the task in --weights)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn at random (default: 0)")
    parser.add_argument("--data", type=Path, help="folder of data sets (default: $DIFFMASK_DATA, else ~/.cache/diffmask_lite)")
    parser.add_argument("--weights", type=Path, default=weights.folder(), help="folder of weights (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=results.folder(), help="folder for the tables (default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, default=Path("build") / "compare",
        help="folder for finished pieces: the same command goes on from them (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    task = prepare(
        options.name, options.images, seed=options.seed, gates=options.gates, root=options.weights, data=options.data
    )
    run = Comparison(
        task, steps=options.steps, seed=options.seed, methods=options.methods, removals=options.removals, cache=options.cache,
        report=lambda line: print(line, flush=True),
    )  # fmt: skip
    tables = run.measure()
    for path in save(options.name, tables, run.about(command("compare.py", options, ASKED)), options.out):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
