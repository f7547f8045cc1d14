"""The stored tables are whole, and were measured on the weights that are shipped."""

import pandas as pd
import pytest
import torch

import seed_agreement
import training_lessons
from diffmask_lite.datasets import ColourGrid, cat_photograph, preprocess
from diffmask_lite.diffmask import fingerprint
from diffmask_lite.history import COLUMNS
from diffmask_lite.weights import folder, load_vit, pretrained

SCORES = pd.read_csv(folder() / "results" / "training_scores.csv")
SEED_MASKS = pd.read_csv(folder() / "results" / "seed_masks.csv", dtype={"image": str})
HISTORIES = pd.read_csv(folder() / "results" / "training_histories.csv")


@pytest.mark.parametrize("task", ["grid", "cifar10"])
def test_trainings_were_measured_on_the_shipped_vit(task):
    vit = load_vit(folder() / f"{task}_vit.safetensors", task)
    stale = "remove data/results/training_*.csv and run python benchmarks/training_lessons.py"
    assert set(SCORES.vit[SCORES.task == task]) == {fingerprint(vit)}, stale


@pytest.mark.parametrize("table", ["vit_depth", "vit_removals"])
def test_tables_of_notebook_01_were_measured_on_the_shipped_vit(table):
    vit = load_vit(folder() / "cifar10_vit.safetensors", "cifar10")
    found = pd.read_csv(folder() / "results" / f"{table}.csv")
    assert set(found["vit"]) == {fingerprint(vit)}, "run python benchmarks/vit_internals.py"


@pytest.mark.parametrize("task", ["grid", "cifar10"])
def test_masks_of_seeds_were_drawn_by_the_shipped_weights(task):
    """All of them on the shipped ViT, and those of seed 0 by the shipped gates."""
    stale = "run python benchmarks/seed_agreement.py"
    vit, explainer = pretrained(task, plain=True)
    rows = SEED_MASKS[SEED_MASKS.task == task]
    assert set(rows.vit) == {fingerprint(vit)}, stale
    assert rows.groupby("seed").image.apply(list).map(len).tolist() == [len(rows) // 3] * 3
    if task == "grid":
        shown = dict(enumerate(ColourGrid(seed_agreement.IMAGES, seed=2024).images))
    else:
        shown = {"cat": preprocess(vit)(cat_photograph())}
    masks = 255 * explainer.explain(torch.stack(list(shown.values()))).mask.flatten(1)
    first = rows[rows.seed == 0].set_index("image").loc[[str(name) for name in shown], "mask"]
    stored = torch.tensor([list(bytes.fromhex(text)) for text in first])
    assert torch.allclose(stored.float(), masks, atol=1), stale  # half a level is rounding


def test_every_training_of_the_command_is_there_once():
    wanted = {(run.lesson, run.name, run.task, seed) for run in training_lessons.RUNS for seed in run.seeds}
    found = list(SCORES[["lesson", "run", "task", "seed"]].itertuples(index=False, name=None))
    assert len(found) == len(set(found)) and set(found) == wanted


def test_histories_end_where_their_training_ended():
    for key, rows in HISTORIES.groupby(["lesson", "run", "task", "seed"]):
        steps = SCORES[(SCORES[["lesson", "run", "task", "seed"]] == list(key)).all(axis=1)].steps.item()
        assert rows.step.tolist() == list(range(0, steps, training_lessons.EVERY))
        assert rows[list(COLUMNS)].notna().all(axis=None)
