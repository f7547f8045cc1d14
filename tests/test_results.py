"""The stored tables are whole, and were measured on the weights that are shipped."""

import pandas as pd
import pytest

import training_lessons
from diffmask_lite.diffmask import fingerprint
from diffmask_lite.history import COLUMNS
from diffmask_lite.weights import folder, load_vit

SCORES = pd.read_csv(folder() / "results" / "training_scores.csv")
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


def test_every_training_of_the_command_is_there_once():
    wanted = {(run.lesson, run.name, run.task, seed) for run in training_lessons.RUNS for seed in run.seeds}
    found = list(SCORES[["lesson", "run", "task", "seed"]].itertuples(index=False, name=None))
    assert len(found) == len(set(found)) and set(found) == wanted


def test_histories_end_where_their_training_ended():
    for key, rows in HISTORIES.groupby(["lesson", "run", "task", "seed"]):
        steps = SCORES[(SCORES[["lesson", "run", "task", "seed"]] == list(key)).all(axis=1)].steps.item()
        assert rows.step.tolist() == list(range(0, steps, training_lessons.EVERY))
        assert rows[list(COLUMNS)].notna().all(axis=None)
