"""The experiments at a hundredth of their size: they measure and store what the package says, and go on after a stop."""

import dataclasses
import io
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import compare
import luck
import manifest
import paper_curves
import tables
import train_gates
import train_vit
from cache import Cache
from compare import COMPARED, DRAWS, Comparison, prepare
from diffmask_lite import RANKED, DiffMask, attribution, faithfulness, weights
from diffmask_lite.course import results
from diffmask_lite.datasets import CIFAR10, ColourGrid
from diffmask_lite.vit import fingerprint, predict
from families import assert_one_sentence, shared, some_images

SOME = {"diffmask": 2, "rollout": 1, "leave_one_out": 1, "random": DRAWS, "centre": 1, "blurred diffmask": 2}  # and their maps
IMAGES, STEPS = 6, 3
ROUNDED = {"atol": 6e-5, "rtol": 0}  # tables hold four decimals


class PowerCut(OSError):
    pass


def cut(*_, **__):
    raise PowerCut("the power went")


# Comparison


def run_compare(out, gates):
    settings = ["--images", IMAGES, "--steps", STEPS, "--removals", "drop", "mean", "--methods", *SOME, "--gates", *gates]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faithfulness, "label_leak", partial(faithfulness.label_leak, folds=2, draws=1))  # most of the time
        compare.main(["grid", *map(str, settings), "--out", str(out), "--cache", str(out / "pieces")])
    return out


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The grid's gates, and a second file with gates that were never trained."""
    path = tmp_path_factory.mktemp("gates") / "grid_gates_1.safetensors"
    DiffMask(weights.pretrained("grid")[0], seed=1).save(path)
    return prepare("grid", IMAGES, gates=[weights.folder() / "grid_gates.safetensors", path])


@pytest.fixture(scope="module")
def stored(tmp_path_factory, task):
    """The folder that the whole command writes."""
    return run_compare(tmp_path_factory.mktemp("whole"), task.gates["diffmask"])


def scores_of(task, maps, removal, steps=STEPS):
    found = faithfulness.evaluate(task.vit, task.images, maps, removal, steps=steps, progress=False).scores
    return found.assign(image=task.index.numpy()[found["image"]])


def kept_by(explainer, images):
    return explainer.explain(images).keep.flatten(1).double().mean(1)


def test_every_score_is_there_once_and_is_that_of_evaluate(stored, task):
    found, keys = results.load("grid", stored), ["method", "seed", "removal", "image", "metric"]
    table = found.scores
    assert list(table) == [*keys, "value"] and not table.duplicated(keys).any() and table.notna().all(axis=None)
    metrics = ["morf", "lerf", "srg"]
    metrics += [f"{name}@{share}%" for name in ("sufficiency", "comprehensiveness", "agreement") for share in (5, 10, 20, 50)]
    assert list(table["metric"].unique()) == metrics
    assert list(table["method"].unique()) == [name for name in COMPARED if name in SOME]
    assert table.groupby("method").size().to_dict() == {name: count * 2 * IMAGES * 15 for name, count in SOME.items()}
    index, test = table["image"].unique().tolist(), ColourGrid(2000, seed=2)  # images are named by their place in the test set
    assert index == task.index.tolist() == sorted(index) and set(prepare("grid", 3).index.tolist()) < set(index)
    assert torch.equal(task.images, test.images[task.index]) and torch.equal(task.truth, test.cells[task.index])
    blurred = [attribution.blurred(explainer.explain(task.images).score) for explainer in task.explainers["diffmask"]]
    maps = {"centre": attribution.METHODS["centre"](task.vit, task.images), "blurred diffmask": torch.stack(blurred)}
    both = scores_of(task, maps, ("drop", "mean")).merge(table, on=keys, how="left", suffixes=("", " stored"))
    np.testing.assert_allclose(both["value stored"], both["value"], **ROUNDED)
    again, whole = (one.set_index(keys).sort_index() for one in (results.long(tables.wide(table)), table))
    pd.testing.assert_frame_equal(again, whole, check_dtype=False, check_names=False)
    areas = table.groupby(["method", "removal", "metric"])["value"].mean()
    for (method, removal, order), rows in found.curves.groupby(["method", "removal", "order"]):
        assert rows["share"].tolist() == [0.0, 0.3333, 0.6667, 1.0] and (rows["n"] == SOME[method] * IMAGES).all()
        assert np.trapezoid(rows["p"], rows["share"]) == pytest.approx(areas[method, removal, order], abs=2e-4)
    about = found.about
    assert about["command"].startswith(f"python experiments/compare.py grid --images {IMAGES} --steps {STEPS} --seed 0")
    assert '"blurred diffmask"' in about["command"] and "--gates grid_gates.safetensors" in about["command"]
    assert [entry["sha256"] for entry in about["gates"]] == [weights.sha256(path) for path in task.gates["diffmask"]]
    assert about["vit"]["fingerprint"] == fingerprint(task.vit) and about["source"] == "generated"
    assert about["commit"] and about["notes"] and about["versions"]["torch"] == torch.__version__.split("+")[0]


def test_masks_are_compared_at_the_same_number_of_patches(stored, task):
    """Shown masks score as `verify` says; those of a map are its best patches; random ones are averaged over draws."""
    found = results.load("grid", stored)
    masks = found.masks.pivot(index=["method", "seed", "removal", "image"], columns="metric", values="value")
    assert list(found.masks["method"].unique()) == ["diffmask", *found.about["masks compared with"]]
    kept = masks["kept"].unstack("method")
    assert (kept.sub(kept["diffmask"], axis=0) == 0).all(axis=None)
    for seed, explainer in enumerate(task.explainers["diffmask"]):
        check = explainer.verify(task.images, explainer.explain(task.images).keep, removal="drop")
        for metric, wanted in (("sufficiency", check.kl), ("agreement", check.agree), ("kept", check.kept)):
            np.testing.assert_allclose(masks.loc["diffmask", seed, "drop"][metric], wanted.double(), atol=1e-4, rtol=0)
    assert not np.array_equal(*(kept["diffmask"].xs(seed, level="seed") for seed in (0, 1))), "seeds keep alike"
    run = Comparison(task, steps=STEPS, cache=stored / "pieces")
    (maps,), chosen = run.maps("leave_one_out"), run.equal_size("leave_one_out")[:, 0]
    assert torch.equal(chosen.flatten(2).sum(2), run.explained("diffmask")["keep"].flatten(2).sum(2))
    for one, keep in ((one, keep) for seed in chosen for one, keep in zip(maps, seed, strict=True) if 0 < keep.sum() < 9):
        assert one[keep].min() >= one[~keep].max()
    draws = run.equal_size("random")
    each = faithfulness.mask_scores(task.vit, task.images, {"random": draws[1]}, "mean").query("metric == 'sufficiency'")
    wanted = each.groupby("image")["value"].mean()
    assert draws.shape[:2] == (2, DRAWS)
    np.testing.assert_allclose(masks.loc["random", 1, "mean"]["sufficiency"], wanted, **ROUNDED)


def test_probes_say_what_they_should(stored, task):
    table = results.load("grid", stored).probes
    probes = table.set_index(["probe", "method", "seed", "what"])["mean"].sort_index()
    leak, forgot, truth = (probes[probe] for probe in ("label leak", "weight randomisation", "truth"))
    assert table[["mean", "low", "high"]].notna().all(axis=None) and set(truth.index.unique("method")) == set(SOME)
    assert set(leak["diffmask"].index.unique("seed")) == {0, 1} and not {"random", "centre"} & set(leak.index.unique("method"))
    assert set(forgot.index.unique("method")) == {"diffmask", "leave_one_out", "rollout"}
    assert (forgot.xs("trained", level="what") == 1).all() and forgot["diffmask", 0, "embedding"] < 0.99
    assert forgot["rollout", 0, "head"] == 1, "rollout does not look at the head"
    iou = [faithfulness.pooled_iou(gates.explain(task.images).keep, task.truth) for gates in task.explainers["diffmask"]]
    assert truth["diffmask"].xs("iou", level="what").item() == pytest.approx(np.mean(iou), abs=6e-5)


def contents(folder):
    """The bytes of all files, without the commits: somebody may edit the package while its tests run."""
    found = {path.name: path.read_bytes() for path in folder.glob("grid*.*")}
    return found | {"grid.json": re.sub(rb'"commit": \[.*?\]', b"", found["grid.json"], flags=re.DOTALL)}


def test_a_stopped_run_goes_on_to_the_same_bytes_and_new_gates_leave_the_rest(stored, task, tmp_path, monkeypatch, capsys):
    asked, evaluate, gates = [], faithfulness.evaluate, task.gates["diffmask"]
    monkeypatch.setattr(faithfulness, "evaluate", lambda *a, **k: asked.extend(a[2]) or evaluate(*a, **k))
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(faithfulness, "mask_scores", cut)
        run_compare(tmp_path, gates)
    assert len(asked) == 2 * len(SOME)
    run_compare(tmp_path, gates)
    assert len(asked) == 2 * len(SOME), "a finished piece was measured again"
    last = [line for line in capsys.readouterr().out.splitlines() if " of " in line][-1]
    assert re.match(r"(\d+) of \1: truth, ", last), "the count of pieces is off"
    assert contents(tmp_path) == contents(stored)
    asked.clear()
    run_compare(tmp_path, gates[1:])
    assert sorted(asked) == sorted(2 * ["diffmask", "blurred diffmask"])

    def piece(seed, make):
        made = Cache(tmp_path, {"task": "grid", "seed": seed}, report=lambda line: None).tables("a, b", make)
        return made["scores"]["x"].item()

    with pytest.raises(PowerCut):
        piece(0, cut)
    one, two = (lambda: {"scores": pd.DataFrame({"x": [0.12344]})}), (lambda: {"scores": pd.DataFrame({"x": [0.5]})})
    assert [piece(0, one), piece(0, two), piece(1, two)] == [0.1234, 0.1234, 0.5]  # rounded as in the files


def test_gates_of_every_seed_and_kind_are_found_and_plain_ones_are_a_method_of_their_own(tmp_path):
    """Plain gates are scored by their own masks, and have no say in how many patches the others are compared at."""
    vit, trained = weights.pretrained("grid")
    other = DiffMask(vit, seed=9)
    with torch.no_grad():
        for gate in other.gates:
            gate.last.bias.fill_(2.0)
            gate.last.weight.mul_(8)
    shutil.copy(weights.folder() / "grid_vit.safetensors", tmp_path)
    manifest.register(tmp_path / "grid_vit.safetensors", "", 0, "float32", {})
    with pytest.raises(ValueError, match=r"train_gates\.py grid") as error:
        prepare("grid", root=tmp_path)
    assert_one_sentence(error.value)
    seeds = ["grid_gates.safetensors", "grid_gates_2.safetensors", "grid_gates_10.safetensors"]
    other.save(tmp_path / "grid_plain_gates.safetensors")
    for name in (*seeds, "grid_gates_a.safetensors", "cifar10_gates_1.safetensors"):
        trained.save(tmp_path / name)
    for path in tmp_path.glob("*gates*"):
        manifest.register(path, "", 0, "float32", {})
    task = prepare("grid", 6, root=tmp_path)
    found = {method: [path.name for path in paths] for method, paths in task.gates.items()}
    assert found == {"diffmask": seeds, "diffmask_plain": ["grid_plain_gates.safetensors"]}
    run = Comparison(task, methods=["diffmask_plain", "centre"], steps=3, cache=tmp_path / "pieces")
    assert run.removals == ["drop", "mean", "noise"]
    wanted = scores_of(task, {"diffmask_plain": other.explain(task.images).score}, "mean").query("metric == 'srg'")["value"]
    np.testing.assert_allclose(run.curves("diffmask_plain", "mean")["scores"]["srg"], wanted, **ROUNDED)
    for method, whose in (("diffmask_plain", other), ("random", trained)):
        kept = run.masks(method, "mean").query("seed == 0")["kept"]
        np.testing.assert_allclose(kept, kept_by(whose, task.images), **ROUNDED)
    DiffMask(vit, "learned").save(tmp_path / "learned")
    task = prepare("grid", 3, gates=[tmp_path / "learned"])
    assert Comparison(task, cache=tmp_path).removals[3:] == ["placeholder"], "a placeholder of its own is one more removal"
    for call, words in (
        (lambda: prepare("grid", 2001), "2000 images"),
        (lambda: Comparison(task, methods=["x"]), "no method 'x'"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert_one_sentence(error.value)


def test_the_papers_curves_remove_by_noise_and_leave_no_method_out(tmp_path):
    task = prepare("grid", 3)
    scores, curves, about = paper_curves.measure(task, tmp_path, steps=2)
    assert set(scores["removal"]) == set(curves["removal"]) == {"noise"} and about["removals"] == ["noise"]
    there = [method for method in COMPARED if method not in compare.GATE_KINDS or method in task.gates]
    assert about["methods"] == there == list(scores["method"].unique())
    wanted = scores_of(task, {"centre": attribution.METHODS["centre"](task.vit, task.images)}, "noise", 2)
    rows = scores[scores["method"] == "centre"]
    assert rows["image"].tolist() == task.index.tolist() and curves.groupby(["method", "order"]).size().eq(3).all()
    for metric in paper_curves.METRICS:
        np.testing.assert_allclose(rows[metric], wanted.query("metric == @metric")["value"], **ROUNDED)


def test_numbers_are_stored_short_and_read_back_the_same():
    table = pd.DataFrame({"method": ["a"] * 5, "seed": [0, 1, 2, 3, None], "x": [1 / 3, 1.0, -0.00001, 12.30004, 0.5]})
    text = tables.text(table)
    assert text.splitlines()[1:] == ["a,0,0.3333", "a,1,1", "a,2,0", "a,3,12.3", "a,,0.5"]
    again = results.read(io.StringIO(text))
    assert tables.text(again) == text and again["x"].tolist() == [0.3333, 1.0, 0.0, 12.3, 0.5] and again["seed"][3] == 3


# Training the ViTs and the gates that ship


def test_train_vit_resumes_to_bitwise_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setitem(train_vit.RECIPES, "grid", dataclasses.replace(train_vit.RECIPES["grid"], batch=8))
    monkeypatch.setattr(train_vit, "ColourGrid", lambda n, seed: ColourGrid(100, seed=seed))
    whole, right = train_vit.train_vit("grid", steps=6, progress=False), train_vit.save_checkpoint
    monkeypatch.setattr(train_vit, "EVERY", 4)
    with monkeypatch.context() as patch, pytest.raises(PowerCut):  # a checkpoint at step 4, then the power goes
        patch.setattr(train_vit, "save_checkpoint", lambda *a, **k: (right(*a, **k), cut()))
        train_vit.train_vit("grid", steps=6, progress=False, checkpoint=tmp_path / "vit")
    again = train_vit.train_vit("grid", steps=6, progress=False, checkpoint=tmp_path / "vit")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in whole.state_dict().items())
    for word, change in (("steps", {"steps": 7}), ("seed", {"steps": 6, "seed": 1})):
        with pytest.raises(ValueError, match=f"another run: {word}") as error:
            train_vit.train_vit("grid", progress=False, checkpoint=tmp_path / "vit", **change)
        assert_one_sentence(error.value)


def test_the_learning_rate_rises_stays_and_falls_to_0_and_muon_gets_the_matrices():
    recipe = train_vit.Recipe(steps=100, warmup=10, decay=0.4)
    rates = [train_vit._rate(recipe, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:61] == [1.0] * 52 and rates[100] == pytest.approx(0)
    assert rates[80] == pytest.approx(0.5) and rates[61:] == sorted(rates[61:], reverse=True)
    assert train_vit._rate(train_vit.Recipe(steps=100, warmup=1), 50, 100) == pytest.approx(0.5)
    model = weights.build("cifar10")
    optimizer = train_vit._optimizer(model, train_vit.RECIPES["cifar10"])
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    uses = {name: "momentum_buffer" in optimizer.state[p] for name, p in model.named_parameters()}
    assert uses["blocks.0.attn.qkv.weight"] and uses["patch_embed.proj.weight"]
    assert not uses["pos_embed"] and not uses["blocks.0.norm1.weight"] and not uses["blocks.0.attn.qkv.bias"]


def test_trainings_that_end_at_once_lose_none_of_each_others_entries(tmp_path):
    def end(seed):
        path = tmp_path / str(seed)
        path.write_text("weights")
        for _ in range(5):
            manifest.register(path, "a command", seed, "float32", {})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end, range(4)))
    assert list(weights.manifest(tmp_path)) == ["0", "1", "2", "3"]


def test_accuracy_counts_right_labels_and_can_drop_patches():
    vit, data = weights.pretrained("grid")[0], ColourGrid(200, seed=8)
    flawed = [(image, count if i % 4 else (count + 1) % 10) for i, (image, count, _) in enumerate(data)]
    assert train_vit.accuracy(vit, flawed) == pytest.approx(0.75, abs=0.01)
    nothing = train_vit.accuracy(vit, data, share=0.0)  # without any patch every image gets the same answer
    assert nothing <= max(data.cells.flatten(1).sum(1).bincount()) / 200 + 1e-6
    assert nothing < train_vit.accuracy(vit, data, share=8 / 9) < train_vit.accuracy(vit, data, batch=77)


def test_the_two_scripts_train_score_and_register(tmp_path, monkeypatch, capsys):
    """On three images a class, where a class has a colour of its own; in float32, which no processor emulates."""
    data, out = tmp_path / "data", tmp_path / "out"
    for split in ("train", "test"):
        for label, name in enumerate(CIFAR10.classes):
            folder = data / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (32, 32), (25 * label, 100 + 10 * i, 250 - 25 * label)).save(folder / f"{i}.png")
    recipe = train_vit.RECIPES["cifar10"]
    monkeypatch.setitem(train_vit.RECIPES, "cifar10", dataclasses.replace(recipe, batch=4, mean_every=2, warmup=1))
    for kind, (build, settings) in train_gates.GATE_RECIPES.items():
        monkeypatch.setitem(train_gates.GATE_RECIPES, kind, (build | {"hidden": 8}, settings | {"batch": 4}))
    for script in (train_vit, train_gates):
        monkeypatch.setattr(script, "fast_bfloat16", lambda device: False)
    common = ["--data", str(data), "--out", str(out), "--steps", "2"]
    train_vit.main(["cifar10", *common, "--checkpoint", str(tmp_path / "vit.checkpoint")])
    for kind in weights.KINDS:
        words = [*common, "--checkpoint", str(tmp_path / f"{kind}.checkpoint"), "--eps", "0.2"]
        assert train_gates.main(["cifar10", *words, *([] if kind == "diffmask" else [f"--{kind}"])]) == 0
    said, printed = json.loads((out / "manifest.json").read_text()), capsys.readouterr().out
    assert set(said) == {f"cifar10_{file}.safetensors" for file in ("vit", *weights.KINDS.values())}
    vit, gates = (said[f"cifar10_{part}.safetensors"] for part in ("vit", "gates"))
    assert vit["command"] == "python experiments/train_vit.py cifar10 --seed 0 --steps 2"
    assert gates["command"] == "python experiments/train_gates.py cifar10 --seed 0 --steps 2 --eps 0.2"
    assert vit["arithmetic"] == gates["arithmetic"] == "float32" and 0 <= vit["scores"]["test accuracy"] <= 1
    assert set(gates["scores"]) == {"kl", "agreement", "kept", "test images", "source"}
    assert "test accuracy" in printed
    kinds = {kind: weights.pretrained("cifar10", out, kind=kind)[1] for kind in weights.KINDS}
    assert {kind: explainer.kind for kind, explainer in kinds.items()} == {
        "diffmask": "drop", "plain": "mean", "published": "learned",
    }  # fmt: skip
    start = DiffMask(weights.pretrained("cifar10", out)[0], **RANKED["explainer"], hidden=8)
    assert not torch.equal(kinds["diffmask"].gates[0].first.weight, start.gates[0].first.weight)
    monkeypatch.setattr(train_gates, "fast_bfloat16", lambda device: True)
    assert [train_gates.autocast_for(name) for name in weights.NAMES] == [None, torch.bfloat16]


def test_gates_that_learned_with_another_removal_are_asked_by_their_own():
    """Each training with its own placeholder; those that learned with the common removal are left out."""
    vit, images = shared("vit"), some_images(shared("vit"), 5)
    kinds = {
        "drops": [DiffMask(vit, "drop")],
        "means": [DiffMask(vit, "mean")],
        "learns": [DiffMask(vit, "learned") for _ in (0, 1)],
    }
    kinds["learns"][1].placeholder.data += 1
    kept = {name: torch.rand(len(those), 5, 4, 4) < 0.5 for name, those in kinds.items()}
    task = SimpleNamespace(vit=vit, images=images, logits=predict(vit, images), explainers=kinds)
    found = luck.by_own_removal(task, kept, "drop")
    assert found.groupby(["method", "seed", "removal"]).size().to_dict() == {
        ("means", 0, "mean"): 4, ("learns", 0, "learned"): 4, ("learns", 1, "learned"): 4,
    }  # fmt: skip
    for seed, explainer in enumerate(kinds["learns"]):
        row = found.query("method == 'learns' and seed == @seed and twin == 'random' and metric == 'sufficiency'")
        assert row["mask"].item() == pytest.approx(explainer.verify(images, kept["learns"][seed]).kl.mean().item(), rel=1e-4)


def test_where_weights_are_forgotten_gates_are_asked_about_the_class_of_the_trained_vit(tmp_path):
    """Else maps would change because another class is explained, and not because the ViT forgot."""
    vit, path = shared("vit"), tmp_path / "gates.safetensors"
    explainer, images = DiffMask(vit, **RANKED["explainer"]), some_images(vit, 6)
    for i, weight in enumerate(explainer.gates.parameters()):
        weight.data += torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    explainer.save(path)
    run = object.__new__(compare.Comparison)
    run.task = SimpleNamespace(
        vit=vit, images=images, logits=predict(vit, images), gates={"diffmask": [path]}, explainers={"diffmask": [explainer]}
    )
    run.seed, run.cache = 0, SimpleNamespace(tables=lambda name, probe, shared: probe())
    found = run.randomised("diffmask").set_index("what")["mean"]

    def asked(target):
        def maps(other):
            return DiffMask.load(path, other, same_vit=False).explain(images, target=target).score

        return faithfulness.weight_randomisation(vit, maps, progress=False).groupby("stage")["value"].mean()

    wanted, free = asked(run.task.logits.argmax(1)), asked(None)
    np.testing.assert_allclose(found[wanted.index], wanted, atol=1e-6)
    assert (wanted - free).abs().max() > 0.05, "here it makes a difference"


@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_train_nothing_and_write_nothing(tmp_path, steps):
    """Else untrained weights would take the place of shipped ones, or the full length would be trained."""
    common = ["grid", "--steps", str(steps), "--out", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "checkpoint")]
    with pytest.raises(ValueError, match="steps must be"):
        train_vit.main(common)
    with pytest.raises(ValueError, match="steps must be"):
        train_gates.main([*common, "--vit", str(weights.folder() / "grid_vit.safetensors")])
    assert not list(tmp_path.iterdir())
