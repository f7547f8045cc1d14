"""The comparison of all methods: what the command stores is what the functions say, and the stored tables are not stale."""

import io
import json
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

import headline
from diffmask_lite import DiffMask, attribution, comparison, faithfulness, pieces, results, weights
from diffmask_lite.__main__ import main, parser
from diffmask_lite.comparison import METHODS, Comparison, prepare
from diffmask_lite.datasets import ColourGrid
from diffmask_lite.diffmask import fingerprint
from families import assert_one_sentence

SOME = ["diffmask", "rollout", "leave_one_out", "random", "centre", "blurred diffmask"]
IMAGES, STEPS = 12, 3


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    """The grid's gates, and a second file with gates that were never trained."""
    vit, _ = weights.pretrained("grid")
    path = tmp_path_factory.mktemp("gates") / "grid_gates_1.safetensors"
    DiffMask(vit, seed=1).save(path)
    return [weights.folder() / "grid_gates.safetensors", path]


def command(out, gates, *more):
    settings = ["--images", IMAGES, "--steps", STEPS, "--removals", "drop", "mean", "--methods", *SOME, "--gates", *gates]
    return ["evaluate", "grid", *map(str, settings), "--out", str(out), "--pieces", str(out / "pieces"), *more]


@pytest.fixture(scope="module")
def stored(tmp_path_factory, gates):
    """The folder that the whole command writes."""
    out = tmp_path_factory.mktemp("whole")
    assert main(command(out, gates)) == 0
    return out


@pytest.fixture(scope="module")
def found(stored):
    return results.load("grid", stored)


@pytest.fixture(scope="module")
def task(gates):
    return prepare("grid", IMAGES, gates=gates)


def contents(folder):
    """The bytes of all files, without the commits: somebody may edit the package while its tests run."""
    found = {path.name: path.read_bytes() for path in folder.glob("grid*.*")}
    found["grid.json"] = re.sub(rb'"commit": \[.*?\]', b"", found["grid.json"], flags=re.DOTALL)
    return found


def seeds_of(method):
    return {"diffmask": 2, "blurred diffmask": 2, "random": comparison.DRAWS}.get(method, 1)


# What is written


def test_every_seed_removal_image_and_metric_is_there_once(found):
    table = found.scores
    assert list(table) == ["method", "seed", "removal", "image", "metric", "value"]
    assert not table.duplicated(["method", "seed", "removal", "image", "metric"]).any() and table.notna().all(axis=None)
    metrics = ["morf", "lerf", "srg"]
    metrics += [f"{name}@{share}%" for name in ("sufficiency", "comprehensiveness", "agreement") for share in (5, 10, 20, 50)]
    assert list(table["metric"].unique()) == metrics
    assert list(table["method"].unique()) == [name for name in METHODS if name in SOME]
    for method, rows in table.groupby("method"):
        assert len(rows) == seeds_of(method) * 2 * IMAGES * len(metrics), method


def test_images_are_named_by_their_place_in_the_test_set(found, task):
    index = found.scores["image"].unique()
    assert len(index) == IMAGES and list(index) == sorted(index) and index.max() > IMAGES
    test = ColourGrid(2000, seed=2)
    assert torch.equal(task.images, test.images[torch.as_tensor(index)])
    assert torch.equal(task.truth, test.cells[torch.as_tensor(index)])
    fewer = prepare("grid", 5).index.tolist()
    assert set(fewer) < set(index), "a smaller sample is a part of a larger one"


def test_scores_are_those_of_evaluate(found, task):
    vit, images = task.vit, task.images
    centre = attribution.METHODS["centre"](vit, images)
    blurred = [attribution.blurred(DiffMask.load(path, vit).explain(images).score) for path in task.gates["diffmask"]]
    maps = {"centre": centre, "blurred diffmask": torch.stack(blurred)}
    wanted = faithfulness.evaluate(vit, images, maps, ("drop", "mean"), steps=STEPS, progress=False).scores
    wanted["image"] = task.index.numpy()[wanted["image"]]
    keys = ["method", "seed", "removal", "image", "metric"]
    both = wanted.merge(found.scores, on=keys, how="left", suffixes=("", " stored"))
    np.testing.assert_allclose(both["value stored"], both["value"], atol=6e-5, rtol=0)


def test_curves_are_the_ones_whose_areas_are_scored(found):
    areas = found.scores.groupby(["method", "removal", "metric"])["value"].mean()
    assert set(found.curves["n"].unique()) == {IMAGES, 2 * IMAGES, comparison.DRAWS * IMAGES}
    for (method, removal, order), rows in found.curves.groupby(["method", "removal", "order"]):
        assert rows["share"].tolist() == [0.0, 0.3333, 0.6667, 1.0]
        assert np.trapezoid(rows["p"], rows["share"]) == pytest.approx(areas[method, removal, order], abs=2e-4)
        assert (rows["n"] == seeds_of(method) * IMAGES).all()


def test_srg_is_lerf_minus_morf(found):
    wide = results.wide(found.scores)
    np.testing.assert_allclose(wide["srg"], wide["lerf"] - wide["morf"], atol=1.6e-4)


def test_masks_are_compared_at_the_same_number_of_patches(found, task):
    rows = found.masks.pivot(index=["method", "seed", "removal", "image"], columns="metric", values="value")
    assert list(found.masks["method"].unique()) == ["diffmask", *found.about["masks compared with"]]
    kept = rows["kept"].unstack("method")
    assert (kept.sub(kept["diffmask"], axis=0) == 0).all(axis=None)
    shown = torch.stack([DiffMask.load(path, task.vit).explain(task.images).keep for path in task.gates["diffmask"]])
    share = kept["diffmask"].unstack("removal")["drop"].unstack("seed").to_numpy().T
    np.testing.assert_allclose(share, shown.flatten(2).double().mean(2), atol=6e-5)
    assert not np.array_equal(share[0], share[1]), "the two seeds keep alike, so this test sees nothing"


def test_shown_masks_score_as_verify_says(found, task):
    masks = found.masks.query("method == 'diffmask' and removal == 'drop'")
    for seed, path in enumerate(task.gates["diffmask"]):
        explainer = DiffMask.load(path, task.vit)
        check = explainer.verify(task.images, explainer.explain(task.images).keep, removal="drop")
        rows = masks[masks["seed"] == seed]
        for metric, wanted in (("sufficiency", check.kl), ("agreement", check.agree)):
            got = rows.loc[rows["metric"] == metric, "value"]
            np.testing.assert_allclose(got, wanted, atol=1e-4, err_msg=metric)


def test_sets_of_equal_size_are_the_best_of_a_map(task, stored):
    run = Comparison(task, methods=["diffmask", "leave_one_out"], steps=STEPS, pieces=stored / "pieces")
    (maps,) = run.maps("leave_one_out")
    chosen = run.equal_size("leave_one_out")[:, 0]
    assert torch.equal(chosen.flatten(2).sum(2), run.explained("diffmask")["keep"].flatten(2).sum(2))
    for keep in chosen:
        for one, kept in zip(maps, keep, strict=True):
            if kept.any() and not kept.all():
                assert one[kept].min() >= one[~kept].max()
    assert run.equal_size("random").shape[:2] == (2, comparison.DRAWS)


def test_random_sets_are_averaged_over_draws(found, task, stored):
    run = Comparison(task, steps=STEPS, pieces=stored / "pieces")
    draws = run.equal_size("random")[1]  # (D, n, h, w), of the size of the second gates' masks
    each = faithfulness.mask_scores(task.vit, task.images, {"random": draws}, "mean")
    wanted = each.query("metric == 'sufficiency'").groupby("image")["value"].mean()
    got = found.masks.query("method == 'random' and removal == 'mean' and seed == 1 and metric == 'sufficiency'")
    np.testing.assert_allclose(got["value"], wanted, atol=6e-5)


def test_probes_say_what_they_should(found, task):
    probes = found.probes
    assert set(probes["probe"]) == {"label leak", "weight randomisation", "truth"}
    assert probes[["mean", "low", "high"]].notna().all(axis=None)
    leak = probes[probes["probe"] == "label leak"]
    assert set(leak.loc[leak["method"] == "diffmask", "seed"]) == {0, 1} and not set(leak["method"]) & {"random", "centre"}
    most = max(np.unique(task.logits.argmax(1), return_counts=True)[1]) / IMAGES
    np.testing.assert_allclose(leak.loc[leak["what"] == "majority class", "mean"], most, atol=6e-5)
    forgot = probes[probes["probe"] == "weight randomisation"].set_index(["method", "seed", "what"])["mean"]
    assert forgot.index.levels[0].tolist() == ["diffmask", "leave_one_out", "rollout"]
    assert (forgot.xs("trained", level="what") == 1).all()
    assert forgot["rollout", 0, "head"] == 1, "rollout does not look at the head"
    assert forgot["diffmask", 0, "embedding"] < 0.99
    truth = probes[probes["probe"] == "truth"]
    assert truth["seed"].isna().all() and set(truth["method"]) == set(SOME)
    keep = torch.stack([DiffMask.load(path, task.vit).explain(task.images).keep for path in task.gates["diffmask"]])
    iou = np.mean([faithfulness.pooled_iou(one, task.truth) for one in keep])
    assert truth.query("method == 'diffmask' and what == 'iou'")["mean"].item() == pytest.approx(iou, abs=6e-5)


def test_weights_are_forgotten_on_images_of_all_kinds(task, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "PROBED", 4)
    assert Comparison(task, pieces=tmp_path).probed.tolist() == [0, 4, 7, 11]


def test_the_sidecar_says_how_to_make_it_again(found, gates):
    about = found.about
    assert about["command"].startswith(f"python -m diffmask_lite evaluate grid --images {IMAGES} --steps {STEPS} --seed 0")
    assert '"blurred diffmask"' in about["command"] and "--gates grid_gates.safetensors" in about["command"]
    assert [entry["sha256"] for entry in about["gates"]] == [weights.sha256(path) for path in gates]
    assert about["vit"]["fingerprint"] == fingerprint(weights.pretrained("grid")[0])
    assert about["source"] == "generated" and about["versions"]["torch"] == torch.__version__.split("+")[0]
    assert about["commit"] and about["notes"]


# Pieces


class PowerCut(OSError):
    pass


def test_a_stopped_run_goes_on_to_the_same_bytes(stored, tmp_path, gates, monkeypatch, capsys):
    evaluate, asked = faithfulness.evaluate, []

    def fail_later(*arguments, **options):
        asked.append(list(arguments[2]))
        if len(asked) == 4:
            raise PowerCut("the power went")
        return evaluate(*arguments, **options)

    monkeypatch.setattr(faithfulness, "evaluate", fail_later)
    assert main(command(tmp_path, gates)) == 1
    assert "the power went" in capsys.readouterr().err
    assert main(command(tmp_path, gates)) == 0
    assert len(asked) == 1 + 2 * len(SOME), "a finished piece was measured again"
    last = [line for line in capsys.readouterr().out.splitlines() if " of " in line][-1]
    assert re.match(r"(\d+) of \1: truth, ", last), "the count of pieces is off"
    assert contents(tmp_path) == contents(stored)
    assert main(command(tmp_path, gates)) == 0
    assert " of " not in capsys.readouterr().out
    assert len(asked) == 1 + 2 * len(SOME) and contents(tmp_path) == contents(stored)


def test_new_gates_leave_what_was_measured_of_other_methods(tmp_path, gates, monkeypatch):
    evaluate, asked = faithfulness.evaluate, []

    def counted(*arguments, **options):
        asked.extend(arguments[2])
        return evaluate(*arguments, **options)

    monkeypatch.setattr(faithfulness, "evaluate", counted)
    first, second = (results_of(tmp_path, [path]) for path in gates)
    assert sorted(asked[2 * len(SOME) :]) == sorted(2 * ["diffmask", "blurred diffmask"])
    differs = [name for name in SOME if not first[name].equals(second[name])]
    assert differs == ["diffmask", "blurred diffmask"]


def results_of(out, gates):
    """The scores that the command writes for these gates, by method."""
    assert main(command(out, gates)) == 0
    table = results.load("grid", out).scores
    return {name: rows.drop(columns="seed").reset_index(drop=True) for name, rows in table.groupby("method")}


def test_pieces_of_another_run_are_not_taken(tmp_path):
    def tables(run, value):
        kept = pieces.Pieces(tmp_path, run, report=lambda line: None)
        return kept.tables("a, b", lambda: {"scores": pd.DataFrame({"x": [value]})})["scores"]["x"].item()

    assert tables({"task": "grid", "seed": 0}, 0.12344) == 0.1234  # as in the files
    assert tables({"task": "grid", "seed": 0}, 0.5) == 0.1234
    assert tables({"task": "grid", "seed": 1}, 0.5) == 0.5
    assert len(list(tmp_path.iterdir())) == 2


def test_a_piece_that_was_cut_short_is_made_again(tmp_path):
    kept = pieces.Pieces(tmp_path, {"task": "grid"}, report=lambda line: None)
    with pytest.raises(PowerCut):
        kept.tables("a", lambda: (_ for _ in ()).throw(PowerCut()))
    assert kept.commits == [] and kept.tables("a", lambda: {"x": pd.DataFrame({"y": [1]})})["x"]["y"].item() == 1
    assert len(kept.commits) == 1


@pytest.mark.skipif(not shutil.which("git"), reason="Skipped: no git; install it")
def test_the_commit_says_whether_files_differ_from_it(tmp_path):
    file = tmp_path / "package" / "module.py"
    file.parent.mkdir()
    file.write_text("a = 1\n")

    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True, capture_output=True
        )

    assert pieces.commit(file) == "unknown"
    git("init", "--quiet")
    assert pieces.commit(file) == "unknown"
    git("add", "."), git("commit", "--quiet", "-m", "First")
    (tmp_path / "elsewhere").touch()
    assert re.fullmatch("[0-9a-f]{40}", pieces.commit(file))
    file.write_text("a = 2\n")
    assert re.fullmatch("[0-9a-f]{40}-dirty", pieces.commit(file))


# What is asked for


def test_a_placeholder_of_its_own_is_one_more_removal(task, tmp_path, gates):
    plain = Comparison(task, pieces=tmp_path)
    assert plain.removals == ["drop", "mean", "noise"] and plain.about("")["notes"]
    maps = {"centre": attribution.METHODS["centre"](task.vit, task.images)}
    explainer = task.explainers["diffmask"][0]
    scores = faithfulness.evaluate(task.vit, task.images, maps, ("mean", "placeholder"), explainer=explainer, steps=3).scores
    same = scores.pivot(index=["image", "metric"], columns="removal", values="value")
    np.testing.assert_allclose(same["placeholder"], same["mean"], atol=1e-4)  # what the note says
    learned = tmp_path / "gates.safetensors"
    DiffMask(task.vit, "learned").save(learned)
    run = Comparison(prepare("grid", 4, gates=[learned]), pieces=tmp_path)
    assert run.removals == ["drop", "mean", "noise", "placeholder"] and not run.about("")["notes"]


def test_bad_input_is_one_sentence(task, tmp_path, capsys):
    with pytest.raises(ValueError, match="2000 images") as error:
        prepare("grid", 2001)
    assert_one_sentence(error.value)
    with pytest.raises(ValueError, match="no method 'lime'") as error:
        Comparison(task, methods=["lime"], pieces=tmp_path)
    assert_one_sentence(error.value)
    for path in weights.folder().glob("grid_vit*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"grid_vit.safetensors": weights.manifest()["grid_vit.safetensors"]}))
    with pytest.raises(ValueError, match="train-gates grid") as error:
        prepare("grid", root=tmp_path)
    assert_one_sentence(error.value)
    with pytest.raises(FileNotFoundError, match="python -m diffmask_lite evaluate grid") as error:
        results.load("grid", tmp_path)
    assert_one_sentence(error.value)


def test_gates_of_every_seed_are_found_in_order(tmp_path):
    names = ["grid_gates_10.safetensors", "grid_gates_2.safetensors", "grid_gates.safetensors", "grid_gates_a.safetensors"]
    shutil.copy(weights.folder() / "grid_vit.safetensors", tmp_path)
    weights.register(tmp_path / "grid_vit.safetensors", "train-vit", 0, {})
    for name in (*names, "cifar10_gates_1.safetensors"):
        shutil.copy(weights.folder() / "grid_gates.safetensors", tmp_path / name)
        weights.register(tmp_path / name, "train-gates", 0, {})
    assert weights.seeds_of("grid", root=tmp_path) == [0, 2, 10]
    assert [path.name for path in prepare("grid", 2, root=tmp_path).gates["diffmask"]] == [names[2], names[1], names[0]]


def test_plain_gates_are_a_method_of_their_own(tmp_path):
    """Scored by their own masks, and without a say in how many patches the others are compared at."""
    for file in ("grid_vit.safetensors", "grid_gates.safetensors"):
        shutil.copy(weights.folder() / file, tmp_path)
        weights.register(tmp_path / file, "train", 0, {})
    vit, trained = weights.pretrained("grid")
    other = DiffMask(vit, seed=9)
    with torch.no_grad():
        for gate in other.gates:
            gate.last.bias.fill_(2.0)
            gate.last.weight.mul_(8)
    other.save(tmp_path / "grid_plain_gates.safetensors")
    weights.register(tmp_path / "grid_plain_gates.safetensors", "train", 0, {})
    task = prepare("grid", 6, root=tmp_path)
    run = Comparison(
        task, methods=["diffmask", "diffmask_plain", "centre"], removals=["mean"], steps=3, pieces=tmp_path / "pieces"
    )
    tables = run.measure()
    assert {(entry["method"], entry["file"]) for entry in run.about("")["gates"]} == {
        ("diffmask", "grid_gates.safetensors"), ("diffmask_plain", "grid_plain_gates.safetensors")
    }  # fmt: skip
    maps = {"diffmask_plain": other.explain(task.images).score}
    wanted = faithfulness.evaluate(vit, task.images, maps, "mean", steps=3, progress=False).scores.query("metric == 'srg'")
    np.testing.assert_allclose(tables["scores"].query("method == 'diffmask_plain'")["srg"], wanted["value"], atol=6e-5)
    kept = tables["masks"].set_index(["method", "image"])["kept"]
    assert not np.allclose(kept["diffmask_plain"], kept["diffmask"])
    np.testing.assert_allclose(kept["diffmask_plain"], other.explain(task.images).keep.flatten(1).double().mean(1), atol=6e-5)
    np.testing.assert_allclose(kept["random"], trained.explain(task.images).keep.flatten(1).double().mean(1), atol=6e-5)


def test_every_option_is_explained():
    (commands,) = (action for action in parser()._actions if action.choices)
    for action in commands.choices["evaluate"]._actions:
        assert action.help and len(action.help) > 20, action.dest


def test_numbers_are_stored_short_and_read_back_the_same():
    table = pd.DataFrame({"method": ["a"] * 5, "seed": [0, 1, 2, 3, None], "x": [1 / 3, 1.0, -0.00001, 12.30004, 0.5]})
    text = results.text(table)
    assert text.splitlines()[1:] == ["a,0,0.3333", "a,1,1", "a,2,0", "a,3,12.3", "a,,0.5"]
    again = results.read(io.StringIO(text))
    assert results.text(again) == text and again["x"].tolist() == [0.3333, 1.0, 0.0, 12.3, 0.5]
    assert again["seed"].isna().tolist() == [False] * 4 + [True] and again["seed"][3] == 3


def test_long_and_wide_are_inverse(found):
    again = results.long(results.wide(found.scores))
    keys = ["method", "seed", "removal", "image", "metric"]
    pd.testing.assert_frame_equal(*(table.set_index(keys).sort_index() for table in (again, found.scores)), check_dtype=False)


# The tables that come with the repository


@pytest.fixture(scope="module", params=weights.NAMES)
def shipped(request):
    return request.param, results.load(request.param)


def test_shipped_tables_were_measured_on_the_shipped_weights(shipped):
    name, found = shipped
    stale = f"run python -m diffmask_lite evaluate {name}"
    vit, _ = weights.pretrained(name)
    assert found.about["vit"]["fingerprint"] == fingerprint(vit), stale
    assert found.about["vit"]["sha256"] == weights.manifest()[f"{name}_vit.safetensors"]["sha256"], stale
    files = [
        weights.gates_file(name, kind, seed) for kind in comparison.GATES.values() for seed in weights.seeds_of(name, kind)
    ]
    wanted = [(file, weights.manifest()[file]["sha256"]) for file in files]
    assert [(entry["file"], entry["sha256"]) for entry in found.about["gates"]] == wanted, stale


def test_shipped_tables_are_whole(shipped):
    name, found = shipped
    about = found.about
    gates = Counter(entry["method"] for entry in about["gates"])
    there = [method for method in METHODS if method not in comparison.GATES or method in gates]
    assert about["methods"] == there == list(found.scores["method"].unique())
    assert list(found.scores["removal"].unique()) == about["removals"] and {"drop", "mean", "noise"} <= set(about["removals"])
    table = results.wide(found.scores)
    for method, rows in table.groupby("method"):
        seeds = comparison.DRAWS if method == "random" else gates.get(method.removeprefix(comparison.BLUR), 1)
        assert len(rows) == seeds * len(about["removals"]) * about["images"] == len(rows.drop_duplicates(results.KEYS[1:])), (
            method
        )
    np.testing.assert_allclose(table["srg"], table["lerf"] - table["morf"], atol=1.6e-4)
    areas = found.scores.groupby(["method", "removal", "metric"])["value"].mean()
    for (method, removal, order), rows in found.curves.groupby(["method", "removal", "order"]):
        assert np.trapezoid(rows["p"], rows["share"]) == pytest.approx(areas[method, removal, order], abs=2e-4)
    assert set(found.probes["probe"]) == {"label leak", "weight randomisation"} | ({"truth"} if name == "grid" else set())


def recomputed(name, method, removal, images, folder):
    """How a few rows of the shipped table read when they are measured again, and how they are stored."""
    found = results.load(name)
    task = prepare(name, found.about["images"], seed=found.about["seed"])
    wide = results.wide(found.scores).query("method == @method and removal == @removal and seed == 0")
    wide = wide[wide["image"].isin(task.index[:images].tolist())]
    shown = task.images[:images]
    if method == "diffmask":
        maps = task.explainers["diffmask"][0].explain(shown).score
    elif method == "random":  # all images share one stream, so all maps are drawn
        maps = Comparison(task, pieces=folder).maps(method)[0, :images]
    else:
        maps = attribution.METHODS[method](task.vit, shown)
    again = faithfulness.evaluate(task.vit, shown, {method: maps}, removal, steps=found.about["steps"], progress=False)
    metrics = [column for column in wide if column not in results.KEYS]
    return results.wide(again.scores)[metrics].to_numpy(), wide[metrics].to_numpy()


ROWS = [("random", "drop", 1.0), ("random", "mean", 1.0), ("diffmask", "mean", 0.9), ("leave_one_out", "drop", 0.9)]


@pytest.mark.parametrize(("method", "removal", "share"), ROWS)
@pytest.mark.parametrize("name", weights.NAMES)
def test_shipped_rows_come_out_again(name, method, removal, share, tmp_path):
    """To rounding. Another processor may swap two patches of nearly equal relevance, but hardly ever, and never random ones."""
    source = results.load(name).about["source"]
    try:
        here = comparison.test_set(name).source
    except FileNotFoundError as error:
        pytest.skip(f"Skipped: {error}")
    if here != source:
        pytest.skip(f"Skipped: the table is of source {source!r}; put that copy of CIFAR-10 under $DIFFMASK_DATA")
    again, stored = recomputed(name, method, removal, 4, tmp_path)
    assert again.shape == stored.shape == (4, 15)
    assert np.isclose(again, stored, atol=1e-4, rtol=1e-4).mean() >= share
    assert not np.isclose(again, stored[::-1], atol=1e-2).all(), "the images are alike, so this test sees nothing"


# The README


def test_the_headline_is_that_of_the_stored_tables():
    readme = headline.README.read_text("utf-8")
    assert headline.rewritten(readme, results.load("cifar10"), weights.manifest()) == readme, "run python tools/headline.py"
    shown = headline.PLACE.search(readme)[0]
    table = pd.read_csv(results.folder() / "cifar10.csv")
    rows = re.findall(r"^\| \**(\w[\w ]+?)\** \| (−?\d\.\d\d) \[", shown, flags=re.MULTILINE)
    assert len(rows) == len(METHODS)
    for method, value in rows:
        mean = table[(table["method"] == method) & (table["removal"] == "drop")]["srg"].mean()
        assert float(value.replace("−", "-")) == pytest.approx(mean, abs=0.0051)
    values = [float(value.replace("−", "-")) for _, value in rows]
    assert values == sorted(values, reverse=True)


def test_what_the_gates_keep_is_that_of_the_manifest():
    scores = {"kl": 0.123, "agreement": 0.9514, "kept": 0.246, "test images": 10000, "source": "folder"}
    manifest = {
        "cifar10_gates_1.safetensors": {"seed": 1, "scores": scores | {"kept": 0.5, "kl": 0.2, "agreement": 0.9}},
        "cifar10_gates.safetensors": {"seed": 0, "scores": scores},
        "cifar10_plain_gates.safetensors": {"seed": 0, "scores": scores | {"kept": 0.99}},
        "grid_gates.safetensors": {"seed": 0, "scores": scores | {"kept": 0.99}},
    }
    words = (
        "hard masks keep 25 % of the patches at KL 0.12 nats, and the class stays for 95.1 % of the images (10,000 test images"
    )
    one = headline.kept_row({name: manifest[name] for name in list(manifest)[1:]})
    assert f"| {words}, JPEG mirror, seed 0) |" in one
    assert f"| {words}, JPEG mirror, seed 0; seed 1: 50 %, 0.20 nats, 90.0 %) |" in headline.kept_row(manifest)
    third = manifest | {"cifar10_gates_2.safetensors": {"seed": 2, "scores": scores}}
    assert "seeds 1 and 2: 50 % and 25 %, 0.20 and 0.12 nats, 90.0 % and 95.1 %)" in headline.kept_row(third)


def test_the_readme_must_have_the_row():
    readme = headline.README.read_text("utf-8")
    with pytest.raises(ValueError, match="no row"):
        headline.rewritten(headline.KEPT.sub("", readme), results.load("cifar10"), weights.manifest())


NEITHER = "neither is shown to be better"
VERDICTS = [(0.6, "better", "better"), (0.3, NEITHER, "better"), (0.15, "worse", "better"), (0.0, "worse", NEITHER),
            (-0.3, "worse", "worse")]  # fmt: skip


@pytest.mark.parametrize(("shift", "of_all", "of_cheap"), VERDICTS)
def test_the_headline_prints_a_loss_like_a_win(found, shift, of_all, of_cheap):
    """DiffMask lies `shift` above the best method of one pass, which lies 0.3 below the best of all; no baseline is a rival."""
    base = found.scores[(found.scores["method"] == "rollout") & (found.scores["metric"] == "srg")].assign(value=0.1)
    noise = np.random.default_rng(0).normal(0, 0.05, IMAGES)
    above = {"rollout": 0.0, "grad_cam": -0.1, "leave_one_out": 0.3, "occlusion": 0.2}
    above |= dict.fromkeys(["random", "centre", "blurred leave_one_out", "blurred diffmask", "diffmask_plain"], 2.0)
    scores = [base.assign(method=method, value=base["value"] + gap) for method, gap in above.items()]
    scores += [base.assign(method="diffmask", value=base["value"] + shift + np.tile(noise - noise.mean(), 2))]
    about = found.about | {"source": "folder"}
    text = headline.table(results.Results(pd.concat(scores), found.curves, found.masks, found.probes, about))
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert [line.split(":")[0] for line in lines] == ["- tokens dropped", "- mean patch instead"]
    wanted = [
        ("the best of all, leave_one_out", shift - 0.3, of_all),
        ("the best that asks the ViT once, rollout", shift, of_cheap),
    ]
    for line in lines:
        gaps = line.split(": ", 1)[1].split("; ")
        for gap, (rival, mean, verdict) in zip(gaps, wanted, strict=True):
            number = r"([+−]?\d\.\d\d)"
            parts = re.fullmatch(rf"{number} \[{number}, {number}\] against {rival}: {verdict}", gap)
            assert parts, gap
            middle, low, high = (float(part.replace("−", "-")) for part in parts.groups())
            assert middle == pytest.approx(mean, abs=0.0051) and low < middle < high
            assert (low < 0 < high) == (verdict == NEITHER)
            assert not mean or parts[1].startswith("+" if mean > 0 else "−")
