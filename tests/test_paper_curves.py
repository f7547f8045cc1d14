"""The paper's experiment: what the script measures, and that the stored tables are whole and not stale."""

import json

import numpy as np
import pandas as pd
import pytest

import paper_curves
from diffmask_lite import comparison, faithfulness, results, weights
from diffmask_lite.diffmask import fingerprint

FOLDER = results.folder()
ABOUT = json.loads((FOLDER / f"{paper_curves.NAME}.json").read_text("utf-8"))
SCORES = results.read(FOLDER / f"{paper_curves.NAME}.csv")
CURVES = results.read(FOLDER / f"{paper_curves.NAME}_curves.csv")
AUTHORS = pd.read_csv(FOLDER / "authors_cifar10_curves.csv")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    task = comparison.prepare("grid", 6)
    folder = tmp_path_factory.mktemp("pieces")
    return task, paper_curves.measure(task, folder, steps=4)


def test_the_script_removes_by_noise_and_measures_what_evaluate_does(measured):
    task, (scores, curves, about) = measured
    assert set(scores["removal"]) == set(curves["removal"]) == {"noise"} and about["removals"] == ["noise"]
    maps = {"centre": comparison.attribution.METHODS["centre"](task.vit, task.images)}
    found = faithfulness.evaluate(task.vit, task.images, maps, "noise", steps=4, progress=False)
    rows = scores[scores["method"] == "centre"]
    assert rows["image"].tolist() == task.index.tolist()
    for metric in paper_curves.METRICS:
        wanted = found.scores.query("metric == @metric")["value"].to_numpy()
        np.testing.assert_allclose(rows[metric], wanted, atol=1e-4)
    assert curves.groupby(["method", "order"]).size().eq(5).all()


def test_the_script_leaves_no_method_out(measured):
    task, (scores, _, about) = measured
    there = [method for method in comparison.METHODS if method not in comparison.GATES or method in task.gates]
    assert about["methods"] == there == list(scores["method"].unique())


def test_stored_numbers_are_of_the_shipped_weights_and_of_all_methods():
    stale = "run python benchmarks/paper_curves.py"
    vit = weights.load_vit(weights.checked("cifar10_vit.safetensors"), "cifar10")
    assert ABOUT["vit"]["fingerprint"] == fingerprint(vit), stale
    listed = weights.manifest()
    files = [
        weights.gates_file("cifar10", kind, s) for kind in comparison.GATES.values() for s in weights.seeds_of("cifar10", kind)
    ]
    assert [(gates["file"], gates["sha256"]) for gates in ABOUT["gates"]] == [(f, listed[f]["sha256"]) for f in files], stale
    gates = {entry["method"] for entry in ABOUT["gates"]}
    there = [method for method in comparison.METHODS if method not in comparison.GATES or method in gates]
    assert list(SCORES["method"].unique()) == there, stale


def test_stored_tables_are_whole():
    assert ABOUT["images"] >= 100 and ABOUT["steps"] == paper_curves.STEPS
    seeds = SCORES.groupby("method")["seed"].nunique()
    assert seeds["random"] == comparison.DRAWS and seeds["diffmask"] == sum(g["method"] == "diffmask" for g in ABOUT["gates"])
    assert SCORES.groupby(["method", "seed"]).size().eq(ABOUT["images"]).all() and SCORES.notna().all(axis=None)
    np.testing.assert_allclose(SCORES["srg"], SCORES["lerf"] - SCORES["morf"], atol=1.6e-4)
    areas = SCORES.groupby("method")[["morf", "lerf"]].mean()
    for (method, order), rows in CURVES.groupby(["method", "order"]):
        assert len(rows) == 29 and rows["share"].iloc[[0, -1]].tolist() == [0, 1]
        assert np.trapezoid(rows["p"], rows["share"]) == pytest.approx(areas.loc[method, order], abs=2e-4)


def test_the_authors_curves_have_the_areas_that_they_published():
    """Areas by trapezoids over 28 steps of 7 of 196 patches."""
    wanted = {
        "Vision DiffMask": (0.461, 0.779), "gradient x attention": (0.350, 0.609),
        "Grad-CAM": (0.451, 0.526), "attention rollout": (0.671, 0.636),
    }  # fmt: skip
    assert set(AUTHORS["method"]) == set(wanted)
    for (method, order), rows in AUTHORS.groupby(["method", "order"]):
        assert rows["patches_removed"].tolist() == list(range(0, 197, 7))
        found = np.trapezoid(rows["p_predicted"], rows["patches_removed"] / 196)
        assert found == pytest.approx(wanted[method][order == "lerf"], abs=6e-4)
