"""A training that was stopped goes on to bitwise the same gates; a checkpoint of another run, or no checkpoint, is refused."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from diffmask_lite import PUBLISHED, RANKED, DiffMask, Ranking, fit
from diffmask_lite.training.checkpoint import save_checkpoint
from diffmask_lite.training.objective import by_slope
from families import assert_one_sentence, build, shared, some_images
from runs import QUICK, Noisy, weights

TESTS = os.path.dirname(__file__)
RECIPES = {
    "default": {}, "published": PUBLISHED["fit"], "ranked": RANKED["fit"],
    "muon": {"sparsity": "log", "decay": True, "optimizer": "muon"},
}  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return some_images(shared("vit"), 10)


# Going on


@pytest.mark.parametrize("name", RECIPES)
def test_resuming_gives_bitwise_what_an_uninterrupted_run_gives(tmp_path, images, name):
    options = {**QUICK, **RECIPES[name], "warmup": 5, "every": 4, "batch": 4}
    whole, part, again, done = (DiffMask(shared("vit"), "learned", seed=seed) for seed in (0, 0, 99, 0))
    wanted = fit(whole, Noisy(images), 11, **options)

    def stop(count):
        if count == 4 * 7 + 2:
            raise OSError("the power went")

    with pytest.raises(OSError, match="power"):
        fit(part, Noisy(images, stop), 11, checkpoint=tmp_path / "run", **options)
    found = fit(again, Noisy(images), 11, checkpoint=tmp_path / "run", **options)
    assert torch.equal(weights(again), weights(whole)) and not torch.equal(weights(part), weights(whole))
    assert found.frame().equals(wanted.frame())
    assert len(fit(done, Noisy(images), 11, checkpoint=tmp_path / "run", **options)) == 11  # nothing left to do
    assert torch.equal(weights(done), weights(whole)) and os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_after_the_step_with_what_was_learned_and_goes_on(tmp_path, images, capsys, number):
    """So does SIGTERM, which ends the program as well."""
    whole, explainer, outside = DiffMask(shared("vit")), DiffMask(shared("vit")), signal.getsignal(number)
    fit(whole, Noisy(images), 8, **QUICK)

    def press(count):
        if count == 4 * 4 + 1:
            signal.raise_signal(number)

    plain = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, plain)  # a shell that starts tests in the background has Ctrl-C ignored
    ends = nullcontext() if number == signal.SIGINT else pytest.raises(SystemExit, match="143")
    try:
        with ends:
            history = fit(explainer, Noisy(images, press), 8, checkpoint=tmp_path / "run", every=100, **QUICK)
            assert history.interrupted and len(history) == 5
        assert signal.getsignal(number) == plain and "step 4" in capsys.readouterr().out
    finally:
        signal.signal(number, outside)
    history = fit(explainer, Noisy(images), 8, checkpoint=tmp_path / "run", **QUICK)
    assert len(history) == 8 and not history.interrupted and torch.equal(weights(explainer), weights(whole))


def test_a_run_that_is_killed_while_it_writes_resumes_to_bitwise_the_same_weights(tmp_path):
    """The worst moment: the third checkpoint is written, and not yet in the place of the second."""
    code = f"""
import os, signal, sys, torch
sys.path[:0] = [{TESTS!r}, {os.path.dirname(TESTS)!r}]
from families import shared, some_images
from diffmask_lite import DiffMask, fit
replace, count = os.replace, [0]
def dying(*paths):
    count[0] += 1
    os.kill(os.getpid(), signal.SIGKILL) if count[0] == 3 else replace(*paths)
os.replace = dying
torch.set_num_threads({torch.get_num_threads()})
vit = shared("vit")
vit.load_state_dict(torch.load("vit"))
fit(DiffMask(vit), some_images(vit, 10), 30, batch=4, every=5, progress=False, checkpoint="run")
"""
    vit, seen = shared("vit"), []
    torch.save(vit.state_dict(), tmp_path / "vit")
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == -signal.SIGKILL
    again, whole, run = DiffMask(vit), DiffMask(vit), {"dataset": some_images(vit, 10), "steps": 30, "every": 5, **QUICK}
    fit(again, checkpoint=tmp_path / "run", watch=seen.append, **run)
    fit(whole, **run)
    assert seen == [10, 15, 20, 25, 30] and torch.equal(weights(again), weights(whole))


# What is refused


def attempt(path, words, explainer, data, steps=2, **settings):
    """It is refused in one sentence, and leaves the gates as they were."""
    before = weights(explainer)
    with pytest.raises(ValueError, match=words) as error:
        fit(explainer, data, steps, checkpoint=path, **{**QUICK, **settings})
    assert torch.equal(weights(explainer), before), words
    assert str(path) in assert_one_sentence(error.value)


def another_head():
    vit = build("vit")
    with torch.no_grad():
        vit.head.weight.mul_(1.5)
    return vit


CHANGES = {
    "eps": {"eps": 0.2}, "seed": {"seed": 3}, "sparsity": {"sparsity": "log"}, "objective": {"objective": Ranking()},
    "alpha_bounds": {"alpha_bounds": (0.0, 200.0)}, "shallowest": {"shallowest": 2}, "decay": {"decay": True},
    "optimizer": {"optimizer": "muon"}, "batch": {"batch": 5}, "lr": {"lr": 1e-4}, "warmup": {"warmup": 1},
    "arithmetic": {"autocast": torch.bfloat16},
}  # fmt: skip


def scaled(step, score, by=1.0):
    return by * by_slope(step, score)


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, images):
    """Other settings, another ViT with the same patch embedding, other images of the same number, gates of another kind."""
    path, vit, other = tmp_path / "run", shared("vit"), images.clone()
    other[0] += 0.1
    fit(DiffMask(vit), images, 2, checkpoint=path, **QUICK)
    for word, change in CHANGES.items():
        attempt(path, f"another run: {word} was", DiffMask(vit), images, **change)
    decaying = tmp_path / "decaying"
    fit(DiffMask(vit), images, 2, checkpoint=decaying, decay=True, **QUICK)
    attempt(decaying, "another run: steps was 2 and is now 4", DiffMask(vit), images, steps=4, decay=True)
    attempt(path, "another run: vit was", DiffMask(another_head()), images)
    attempt(path, "another run: hidden was", DiffMask(vit, hidden=9), images)
    attempt(path, "another run: data was", DiffMask(vit), other)
    attempt(path, "another run: images was", DiffMask(vit), images[:9])
    explainer = DiffMask(copy.deepcopy(vit))  # the same ViT in another place, and more steps: the same run
    assert fit(explainer, images, 5, checkpoint=path, **QUICK).step == [0, 1, 2, 3, 4]
    attempt(path, "has 5 steps behind it, more than the 3", DiffMask(vit), images, 3)

    path = tmp_path / "ranked"  # the objective's term and its options
    fit(DiffMask(vit), images, 1, checkpoint=path, objective=Ranking(partial(scaled, by=2.0)), **QUICK)
    for term in (by_slope, scaled, partial(scaled, by=3.0), partial(by_slope, by=2.0)):
        attempt(path, "another run: term was", DiffMask(vit), images, objective=Ranking(term))
    assert len(fit(DiffMask(vit), images, 2, checkpoint=path, objective=Ranking(partial(scaled, by=2.0)), **QUICK)) == 2


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_what_is_no_checkpoint_is_refused_and_never_executed(tmp_path, images):
    path, sprung, vit = tmp_path / "run", tmp_path / "sprung", shared("vit")
    fit(DiffMask(vit), images, 1, checkpoint=path, **QUICK)
    whole, trap = path.read_bytes(), {"run": "{}", "step": 1, "trap": Trap(sprung)}
    state = torch.load(path, weights_only=True)
    for content in (pickle.dumps(trap, 2), b"", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        attempt(path, "is not a whole checkpoint", DiffMask(vit, seed=4), images)
    deep = "[" * 100_000
    for content in (trap, {"a": 1}, {"run": "[1]", "step": 1}, {"run": deep}, torch.ones(2)):
        torch.save(content, path)
        attempt(path, "is not a whole checkpoint", DiffMask(vit, seed=4), images)
    for part in state.keys() - {"run"}:
        torch.save({key: value for key, value in state.items() if key != part}, path)
        attempt(path, rf"not a whole checkpoint \(it lacks {part}\)", DiffMask(vit, seed=4), images)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:  # small on the disk, large in memory
        archive.writestr("run/data.pkl", bytes(1_000_000))
    attempt(path, "claims to hold more than its size", DiffMask(vit, seed=4), images)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(trap))
    assert sprung.exists(), "the trap is a real one"
    save_checkpoint(path, {"kind": "train-vit"}, step=1)
    attempt(path, "not a checkpoint of this kind", DiffMask(vit), images)
