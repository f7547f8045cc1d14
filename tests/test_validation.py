"""Held-out images: which they are, when gates are scored on them, and that the scores are those of `faithfulness`."""

import pandas as pd
import pytest
import torch

from diffmask_lite import DiffMask, fit, results, weights
from diffmask_lite import vit as see
from diffmask_lite.__main__ import GATES
from diffmask_lite.calibration import calibrate
from diffmask_lite.datasets import CIFAR10
from diffmask_lite.faithfulness import evaluate
from diffmask_lite.validation import Validation, hold_out
from families import assert_one_sentence, shared, some_images


@pytest.fixture
def explainer():
    return DiffMask(shared("vit"), "drop", seed=3)


def test_what_is_held_out_is_not_learned_from():
    learned, held_out = hold_out(range(50), share=0.2)
    assert len(held_out) == 10 and sorted([*learned, *held_out]) == list(range(50))
    assert list(held_out) == list(hold_out(range(50), share=0.2)[1]) != list(hold_out(range(50), share=0.2, seed=1)[1])
    assert sorted(held_out) != list(range(10)) and len(hold_out(range(30), share=0.01)[1]) == 2
    with pytest.raises(ValueError) as error:
        hold_out(range(2))
    assert_one_sentence(str(error.value))


def test_scores_are_those_of_curves_and_masks_written_out(explainer):
    """SRG by a loop over steps, and masks that are cut by the images that are not scored."""
    vit, images = shared("vit"), some_images(shared("vit"), 6)
    row = Validation(explainer, images, eps=0.01, scored=2, removals=("mean",), steps=4).score()
    assert explainer.cut is None
    shown, p = explainer.explain(images[:2]), vit(images[:2]).softmax(1)
    target, order = p.argmax(1), shown.score.flatten(1).argsort(1, descending=True)
    rank = order.argsort(1)
    area = {}
    for name, place in (("morf", rank), ("lerf", 15 - rank)):
        points = []
        for removed in (0, 4, 8, 12, 16):
            keep = (place >= removed).unflatten(1, (4, 4))
            points.append(see.predict(vit, images[:2], keep, "mean").softmax(1).gather(1, target[:, None]))
        area[name] = torch.trapezoid(torch.cat(points, 1), dx=0.25).mean().item()
    assert row["srg mean"] == pytest.approx(area["lerf"] - area["morf"], abs=1e-5)
    calibrate(explainer, images[2:], 0.01)
    keep = explainer.explain(images[:2]).keep
    assert row["kept"] == pytest.approx(keep.float().mean().item()) and 0 < row["kept"] < 1
    assert row["kl"] == pytest.approx(explainer.verify(images[:2], keep).kl.mean().item(), abs=1e-6)


def test_fit_calls_at_every_stop_and_a_resumed_run_goes_on_with_the_table(tmp_path, explainer):
    """The interrupted run learns and scores what the whole one does, and scoring changes nothing of what is learned."""
    images, held_out = some_images(shared("vit"), 12).split(8)
    options = {"batch": 4, "progress": False, "every": 4, "seed": 1}
    unwatched = DiffMask(shared("vit"), "drop", seed=3)
    fit(unwatched, images, 10, **options)
    whole = Validation(explainer, held_out, scored=2, steps=2)
    fit(explainer, images, 10, watch=whole, **options)
    assert whole.table["step"].tolist() == [4, 8, 10]
    assert all(torch.equal(a, b) for a, b in zip(explainer.parameters(), unwatched.parameters(), strict=True))

    class Stopped(Exception):
        pass

    def stopping(step):
        part(step)
        if step == 8:
            raise Stopped

    again, file, checkpoint = DiffMask(shared("vit"), "drop", seed=3), tmp_path / "log" / "run.csv", tmp_path / "run"
    part = Validation(again, held_out, scored=2, steps=2, file=file)
    with pytest.raises(Stopped):
        fit(again, images, 10, watch=stopping, checkpoint=checkpoint, **options)
    assert results.read(file)["step"].tolist() == [4, 8]
    fit(again, images, 10, watch=Validation(again, held_out, scored=2, steps=2, file=file), checkpoint=checkpoint, **options)
    assert file.read_text() == results.text(whole.table)


def test_one_image_cannot_be_scored_and_cut_by(explainer):
    with pytest.raises(ValueError) as error:
        Validation(explainer, some_images(shared("vit"), 1))
    assert_one_sentence(str(error.value))


def test_tables_of_several_runs_share_a_file(tmp_path):
    file = tmp_path / "new" / "runs.csv"
    results.merge(file, pd.DataFrame({"step": [1, 2], "kl": [0.5, 0.25]}), {"seed": 1, "steps": 2})
    results.merge(file, pd.DataFrame({"step": [1, 2], "kl": [1.0, 0.75]}), {"seed": 0, "steps": 2})
    results.merge(file, pd.DataFrame({"step": [1], "kl": [0.125]}), {"seed": 1, "steps": 1})
    results.merge(file, pd.DataFrame({"step": [1], "kl": [0.0625]}), {"seed": 1, "steps": 2})
    assert file.read_text() == "seed,steps,step,kl\n0,2,1,1\n0,2,2,0.75\n1,1,1,0.125\n1,2,1,0.0625\n"


def test_the_stored_curves_end_at_the_shipped_gates():
    """For each of their seeds, with the SRG that its map has on the held-out images."""
    table, steps = results.read(results.folder() / "cifar10_validation.csv"), GATES["cifar10"][1]["steps"]
    ends = table[(table["steps"] == steps) & (table["step"] == steps)].set_index("seed")
    assert ends.index.tolist() == weights.seeds_of("cifar10"), "run python -m diffmask_lite train-gates cifar10"
    try:
        data = CIFAR10("train")
    except FileNotFoundError as error:
        pytest.skip(f"Skipped: {error}")
    if data.source != (source := weights.manifest()["cifar10_gates_1.safetensors"]["scores"]["source"]):
        pytest.skip(f"Skipped: the table is of source {source!r}; put that copy of CIFAR-10 under $DIFFMASK_DATA")
    images = torch.stack([hold_out(data)[1][i][0] for i in range(300)])
    vit, explainer = weights.pretrained("cifar10", seed=1)
    scores = evaluate(vit, images, {"gates": explainer.explain(images).score}, "drop", orders=1, progress=False).scores
    srg = scores.loc[scores["metric"] == "srg", "value"].mean()
    assert srg == pytest.approx(ends.loc[1, "srg drop"], abs=2e-4)
