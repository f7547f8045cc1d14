"""The stored tables are whole, were measured on the weights that are shipped, and a few of their rows come out again."""

import json
from collections import Counter
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

import compare
import luck
import seed_agreement
from compare import COMPARED, GATE_KINDS, Comparison, prepare
from diffmask_lite import attribution, faithfulness, weights
from diffmask_lite.course import results
from diffmask_lite.course.results import read
from diffmask_lite.datasets import ColourGrid, cat_photograph, preprocess
from diffmask_lite.training.history import COLUMNS
from diffmask_lite.vit import fingerprint
from tables import wide
from training_lessons import RUNS

FOLDER = results.folder()
TASKS = ("grid", "cifar10")  # those of the course
COMPARISONS = {"grid": "grid", "cifar10": "cifar10", "cifar10_paper": "cifar10"}


def is_paper(name):
    return name.endswith("_paper")


def sidecar(name):
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


@cache
def vit(name):
    return weights.pretrained(name)[0]


@cache
def shown(name):
    """The images that comparisons are made with; skips where they are missing, or not those of the stored tables."""
    about = sidecar(name)
    try:
        task = prepare(name, about["images"], seed=about["seed"])
    except FileNotFoundError as error:
        pytest.skip(f"Skipped: {error}")
    if task.source != about["source"]:
        pytest.skip(f"Skipped: the table is of source {about['source']!r}; put that copy of CIFAR-10 under $DIFFMASK_DATA")
    return task


# Stale or not


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_were_measured_on_the_shipped_weights_with_all_methods(name):
    task, about, listed, stale = (
        COMPARISONS[name],
        sidecar(name),
        weights.manifest(),
        f"stale; run `{sidecar(name)['command']}`",
    )
    assert about["vit"]["fingerprint"] == fingerprint(vit(task)), stale
    assert about["vit"]["sha256"] == listed[f"{task}_vit.safetensors"]["sha256"], stale
    files = [weights.gates_file(task, kind, seed) for kind in GATE_KINDS.values() for seed in weights.seeds_of(task, kind)]
    assert [(entry["file"], entry["sha256"]) for entry in about["gates"]] == [(f, listed[f]["sha256"]) for f in files], stale
    gates = {entry["method"] for entry in about["gates"]}
    assert about["methods"] == [method for method in COMPARED if method not in GATE_KINDS or method in gates], stale


def test_all_other_tables_were_measured_on_the_shipped_weights():
    for table in ("vit_depth", "vit_removals"):
        assert set(read(FOLDER / f"{table}.csv")["vit"]) == {fingerprint(vit("cifar10"))}, f"{table}.csv is stale"
    for table in ("training_scores", "seed_masks"):
        rows = pd.read_csv(FOLDER / f"{table}.csv").groupby("task")["vit"].unique()
        assert {task: list(found) for task, found in rows.items()} == {n: [fingerprint(vit(n))] for n in TASKS}, table


def test_luck_was_measured_on_the_shipped_weights():
    """Every kind of gates that ships and every rival stands beside both twins; and what README says of the gates holds."""
    for name, kinds in {"grid": {"diffmask"}, "cifar10": set(GATE_KINDS)}.items():
        table, sizes = read(FOLDER / f"{name}_luck.csv"), read(FOLDER / f"{name}_sizes.csv")
        assert set(table["vit"]) == set(sizes["vit"]) == {fingerprint(vit(name))}, f"stale; run `experiments/luck.py {name}`"
        assert set(table["method"]) == kinds | set(luck.RIVALS) and not table.duplicated(["method", "twin", "metric"]).any()
        assert len(table) == 4 * table["method"].nunique() and len(sizes) == 50
        np.testing.assert_allclose(table["difference"], table["mask"] - table["luck"], atol=1.6e-4)
        sign = table["metric"].map({"sufficiency": -1, "agreement": 1})
        assert (table["better"] == (np.minimum(sign * table["low"], sign * table["high"]) > 0)).all()
        assert table[table["method"] == "diffmask"]["better"].all(), name
    by_own = read(FOLDER / "cifar10_luck_own.csv")  # gates that learned with another removal than dropping, by theirs
    assert set(by_own["vit"]) == {fingerprint(vit("cifar10"))} and not by_own[by_own["twin"] == "random"]["better"].any()
    assert by_own.groupby(["method", "removal"]).size().to_dict() == {
        ("diffmask_plain", "mean"): 12, ("diffmask_published", "learned"): 12,
    }  # fmt: skip
    own = table[table["method"] == "diffmask"]
    assert own["spread"].min() > 0.05 and own["kept"].max() < 0.25


# Whole or not


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_have_every_row_once_and_curves_of_the_areas_that_are_scored(name):
    about, table, curves = sidecar(name), read(FOLDER / f"{name}.csv"), read(FOLDER / f"{name}_curves.csv")
    gates = Counter(entry["method"] for entry in about["gates"])
    wanted = ["noise"] if is_paper(name) else {"cifar10": ["drop", "noise"]}.get(name, ["drop", "mean", "noise"])
    assert list(table["method"].unique()) == about["methods"] and table.notna().all(axis=None) and about["images"] >= 100
    assert list(table["removal"].unique()) == about["removals"] and set(wanted) <= set(about["removals"])
    for method, rows in table.groupby("method"):
        seeds = compare.DRAWS if method == "random" else gates.get(method.removeprefix(compare.BLUR), 1)
        assert len(rows) == seeds * len(about["removals"]) * about["images"], method
        assert not rows.duplicated(results.KEYS[1:]).any(), method
    np.testing.assert_allclose(table["srg"], table["lerf"] - table["morf"], atol=1.6e-4)
    areas = table.groupby(["method", "removal"])[["morf", "lerf"]].mean()
    for (method, removal, order), rows in curves.groupby(["method", "removal", "order"]):
        assert len(rows) == min(about["steps"], 9 if name == "grid" else 64) + 1 and rows["share"].iloc[[0, -1]].tolist() == [
            0,
            1,
        ]
        assert np.trapezoid(rows["p"], rows["share"]) == pytest.approx(areas.loc[(method, removal), order], abs=2e-4)
    if not is_paper(name):
        probes = {"label leak", "weight randomisation"} | ({"truth"} if name == "grid" else set())
        assert set(results.load(name).probes["probe"]) == probes


def test_the_authors_curves_have_the_areas_that_they_published():
    """Areas by trapezoids over 28 steps of 7 of 196 patches."""
    wanted = {
        "Vision DiffMask": (0.461, 0.779), "gradient x attention": (0.350, 0.609),
        "Grad-CAM": (0.451, 0.526), "attention rollout": (0.671, 0.636),
    }  # fmt: skip
    table = read(FOLDER / "authors_cifar10_curves.csv")
    assert set(table["method"]) == set(wanted)
    for (method, order), rows in table.groupby(["method", "order"]):
        assert rows["patches_removed"].tolist() == list(range(0, 197, 7))
        found = np.trapezoid(rows["p_predicted"], rows["patches_removed"] / 196)
        assert found == pytest.approx(wanted[method][order == "lerf"], abs=6e-4)


def test_the_table_of_lessons_is_whole():
    """Every training is there once, and its history ends where it ended."""
    keys, wanted = ["lesson", "run", "task", "seed"], [(r.lesson, r.name, r.task, seed) for r in RUNS for seed in r.seeds]
    steps = read(FOLDER / "training_scores.csv").set_index(keys)["steps"]
    assert sorted(steps.index) == sorted(wanted)
    every = {(r.lesson, r.name, r.task, seed): r.every for r in RUNS for seed in r.seeds}
    for key, rows in read(FOLDER / "training_histories.csv").groupby(keys):
        assert rows.step.tolist() == list(range(0, steps[key], every[key])) and rows[list(COLUMNS)].notna().all(axis=None)


# Measured again


def alike(again, stored, share=1.0):
    """To rounding. Another processor may swap two patches of nearly equal relevance, but hardly ever, and never random ones."""
    again, stored = np.asarray(again, float), np.asarray(stored, float)
    assert again.shape == stored.shape and len(stored) == 4
    assert np.isclose(again, stored, atol=1e-4, rtol=1e-4).mean() >= share
    assert not np.isclose(again, stored[::-1], atol=1e-2).all(), "the images are alike, so this test sees nothing"


ROWS = [
    ("random", "drop", 1.0), ("random", "mean", 1.0), ("diffmask", "mean", 0.9), ("leave_one_out", "drop", 0.9),
    ("diffmask", "noise", 0.9), ("leave_one_out", "noise", 0.9),
]  # fmt: skip


@pytest.mark.parametrize("name", COMPARISONS)
def test_scores_of_maps_and_masks_come_out_again(name, tmp_path):
    task, about, table = shown(COMPARISONS[name]), sidecar(name), read(FOLDER / f"{name}.csv")
    index, explainer = task.index[:4].tolist(), task.explainers["diffmask"][0]
    if is_paper(name):
        index = [i for i in table["image"].unique() if i in task.index][:4]  # 100 of the 500 that are compared elsewhere
    images = task.images[torch.isin(task.index, torch.tensor(index))]
    assert len(images) == 4
    maps = {"diffmask": explainer.explain(images).score, "leave_one_out": attribution.leave_one_out(task.vit, images)}
    maps["random"] = Comparison(task, cache=tmp_path).maps("random")[0, :4]  # all images share one stream, so all are drawn
    for method, removal, share in [row for row in ROWS if row[1] in about["removals"]]:
        found = faithfulness.evaluate(task.vit, images, {method: maps[method]}, removal, steps=about["steps"], progress=False)
        rows = table[(table.method == method) & (table.removal == removal) & (table.seed == 0) & table.image.isin(index)]
        metrics = [column for column in rows if column not in results.KEYS]
        alike(wide(found.scores)[metrics], rows[metrics], share)
    if name in TASKS:
        keep = {"diffmask": explainer.explain(images).keep}
        removal = about["removals"][0]
        found = wide(faithfulness.mask_scores(task.vit, images, keep, removal))
        rows = read(FOLDER / f"{name}_masks.csv").query("method == 'diffmask' and removal == @removal and seed == 0")
        metrics = [column for column in rows if column not in results.KEYS]
        alike(found[metrics], rows[rows.image.isin(index)][metrics], 0.8)


@pytest.mark.parametrize("task", TASKS)
def test_masks_of_seeds_come_out_again(task):
    """Those of every seed that ships; of the photographs, the cat's."""
    rows = pd.read_csv(FOLDER / "seed_masks.csv", dtype={"image": str}).query("task == @task")
    assert rows.groupby("seed").size().tolist() == [len(rows) // len(seed_agreement.SEEDS)] * len(seed_agreement.SEEDS)
    images = dict(enumerate(ColourGrid(seed_agreement.IMAGES, seed=2024).images))
    images = images if task == "grid" else {"cat": preprocess(vit(task))(cat_photograph())}
    for seed in weights.seeds_of(task):
        masks = 255 * weights.pretrained(task, seed=seed)[1].explain(torch.stack(list(images.values()))).mask.flatten(1)
        found = rows[rows.seed == seed].set_index("image").loc[[str(name) for name in images], "mask"]
        stored = torch.tensor([list(bytes.fromhex(text)) for text in found])
        assert torch.allclose(stored.float(), masks, atol=1), "run python experiments/seed_agreement.py"  # half is rounding
