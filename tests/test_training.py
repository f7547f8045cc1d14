"""`fit`: one step by hand, the multiplier's sign, resume to the bit after any interruption, and bad input."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from diffmask_lite import PUBLISHED, RANKED, DiffMask, fit
from diffmask_lite import vit as see
from diffmask_lite import worth as worth_module
from diffmask_lite.calibration import calibrate
from diffmask_lite.datasets import ColourGrid
from diffmask_lite.diffmask import kl_divergence
from diffmask_lite.faithfulness import hard_mask_scores, pooled_iou
from diffmask_lite.gates import TEMPERATURE, log_odds, log_open
from diffmask_lite.state import epoch_order, stream
from diffmask_lite.weights import folder, load_vit
from diffmask_lite.worth import by_slope, by_worth, correlation, destroyed, top_m, worth
from families import assert_one_sentence, build, shared, some_images

QUICK = {"batch": 4, "progress": False}


@pytest.fixture(scope="module")
def images():
    return some_images(shared("vit"), 10)


def weights(explainer):
    return torch.cat([p.detach().flatten() for p in explainer.state_dict().values()])


class Shaky(Dataset):
    """Items that draw at random, as augmentation does, and items after images, as labels are."""

    def __init__(self, images, on_item=lambda count: None):
        self.images, self.on_item, self.count = images, on_item, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.count += 1
        self.on_item(self.count)
        return self.images[i] + 0.1 * torch.randn(()) + 0.1 * random.random(), i


@pytest.mark.parametrize("sparsity", ["l0", "log"])
def test_one_step_equals_the_formulas_written_out(images, sparsity):
    """The mask of each image, its KL, the loss and the first gradient step of Adam, patch by patch."""
    vit, lr, alpha, eps = shared("vit"), 1e-3, 3.0, 0.07
    seed = next(s for s in range(99) if int(torch.randint(5, (), generator=stream(s, "gates", 0))) == 3)  # gates 0 … 3
    explainer, by_hand = DiffMask(vit, seed=1), DiffMask(vit, seed=1)
    settings = {"sparsity": sparsity, "lr": lr, "warmup": 1, "alpha": alpha, "alpha_lr": 0.5, "eps": eps, "seed": seed}
    history = fit(explainer, images, 1, **settings, **QUICK)

    batch = images[epoch_order(10, seed, 0, 4)]
    draw = stream(seed, "gates", 0)
    k = int(torch.randint(5, (), generator=draw))
    uniform = torch.rand(4, 5, 16, generator=draw)
    states = [torch.nn.functional.layer_norm(s.detach(), (48,)) for s in see.hidden_states(vit, batch)]
    log_open, kl, kept = torch.zeros(()), 0.0, 0
    masks = []
    for b in range(4):
        mask = []
        for n in range(16):
            z, logs = 1.0, 0.0
            for i in range(k + 1):
                logit = by_hand.gates[i](states[0][b, n], states[i][b, n])
                u = uniform[b, i, n]
                s = torch.sigmoid((logit + u.log() - (1 - u).log()) / TEMPERATURE)
                z = z * (s * 1.2 - 0.2).clamp(0, 1)
                logs = logs + torch.sigmoid(logit - TEMPERATURE * torch.tensor(0.2).log()).log()
            mask.append(z)
            log_open = log_open + (logs.exp() if sparsity == "l0" else logs) / 64
        masks.append(torch.stack(mask))
        kept += int((masks[-1] > 0).sum())
        p = vit(batch[b : b + 1]).log_softmax(-1).detach()[0]
        q = see.predict(vit, batch[b : b + 1], masks[-1].view(1, 4, 4), by_hand.placeholder).log_softmax(-1)[0]
        kl = kl + (p.exp() * (p - q)).sum() / 4
    loss = log_open + alpha * (kl - eps)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=lr)
    loss.backward()
    optimizer.step()

    assert history.layer == [k] == [3]
    assert history.kl[0] == pytest.approx(kl.item(), rel=1e-3)
    assert history.kept[0] == pytest.approx(kept / 64)
    assert history.sparsity[0] == pytest.approx(log_open.item(), rel=1e-4)
    assert history.alpha[0] == pytest.approx(alpha + 0.5 * (kl.item() - eps), rel=1e-3)
    moved = weights(explainer) - weights(DiffMask(vit, seed=1))
    wanted = weights(by_hand) - weights(DiffMask(vit, seed=1))
    # Adam's first step is lr · sign(gradient), whatever its size; where the gradient is about 0, rounding picks the sign.
    assert ((moved - wanted).abs() < 1e-5).float().mean() > 0.98 and wanted.abs().max() > 0.9 * lr


@pytest.mark.parametrize("removal", ["drop", "placeholder"])
def test_worth_is_what_kept_patches_add_over_removed_ones(images, removal):
    """Patch by patch: half the mean probability where a patch was kept, less half that where it was removed."""
    vit, target = shared("vit"), torch.tensor([1, 0, 2])
    how = DiffMask(vit).placeholder if removal == "placeholder" else removal
    found = worth(vit, images[:3], target, stream(0, "worth"), how, pairs=40)
    draw, with_it, without = stream(0, "worth"), torch.zeros(3, 16), torch.zeros(3, 16)
    for _ in range(40):
        half = torch.rand(3, 16, generator=draw).argsort(1) < 8
        for keep in (half, ~half):
            p = see.predict(vit, images[:3], keep.view(3, 4, 4), how).softmax(1).detach()
            for b in range(3):
                for n in range(16):
                    (with_it if keep[b, n] else without)[b, n] += p[b, target[b]] / 40  # each happens once in a pair
    torch.testing.assert_close(found, (with_it - without) / 2, atol=1e-6, rtol=1e-4)
    assert (found.std(1) > 0).all() and all(p.grad is None for p in vit.parameters())


@pytest.mark.parametrize("term", [by_slope, by_worth, partial(by_worth, removal="drop"), top_m, destroyed])
def test_each_ranking_term_teaches_the_gates_and_leaves_the_vit_alone(images, term):
    vit = build("vit")
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    explainer = DiffMask(vit, per_class=True)
    score = log_odds(log_open(explainer.read(images[:4])[1]).sum(1))
    loss = term(vit, images[:4], vit(images[:4]).detach(), score, explainer.placeholder, stream(0, "term"))
    (gradient,) = torch.autograd.grad(loss, explainer.gates[-1].first.weight)
    assert loss.ndim == 0 and gradient.isfinite().all() and gradient.abs().max() > 0
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


def test_top_m_keeps_the_best_and_takes_them_away():
    """A score without doubt: then the m that were drawn are the m best, whatever the noise."""
    vit, images, seen = shared("vit"), some_images(shared("vit"), 3), []
    score = (torch.rand(3, 16, generator=stream(0)).argsort(1) * 1000.0).requires_grad_()

    def watched(model, x, keep, removal):
        seen.append(keep.detach())
        return see.predict(model, x, keep, removal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worth_module, "see", SimpleNamespace(predict=watched, anatomy=see.anatomy))
        loss = top_m(vit, images, vit(images).detach(), score, DiffMask(vit).placeholder, stream(1))
    alone, without = (keep.flatten(1) for keep in seen)
    draw = stream(1)
    torch.rand(3, 16, generator=draw)
    m = torch.randint(1, 16, (3, 1), generator=draw)
    best = score.argsort(1, descending=True).argsort(1) < m
    assert torch.allclose(alone, best.float(), atol=1e-5) and torch.allclose(without, 1 - best.float(), atol=1e-5)
    p = vit(images).detach().softmax(1)
    q, r = (see.predict(vit, images, keep, DiffMask(vit).placeholder).detach().softmax(1) for keep in seen)
    kl = (p * (p / q).log()).sum(1)
    wanted = sum(kl[b] + r[b, p[b].argmax()] for b in range(3)) / 3
    assert loss.requires_grad and loss.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_destroyed_is_the_class_left_without_the_mask_and_still_slopes_where_the_mask_is_1():
    vit, images = shared("vit"), some_images(shared("vit"), 2)
    score, logits = torch.linspace(-4, 40, 32).view(2, 16).requires_grad_(), vit(images).detach()
    grey = DiffMask(vit).placeholder
    loss = destroyed(vit, images, logits, score, grey, stream(0))
    wanted = 0.0
    for b in range(2):
        without = 1 - 1 / (1 + (-score[b].detach().double()).exp())
        q = see.predict(vit, images[b : b + 1], without.float().view(1, 4, 4), grey).softmax(1)[0]
        wanted += q[logits[b].argmax()].item() / 2
    assert loss.item() == pytest.approx(wanted, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, score)
    assert (score.sigmoid() == 1).sum() > 8 and (gradient != 0).all()


def test_by_worth_is_minus_the_mean_correlation_with_worth(images):
    vit, x = shared("vit"), images[:3]
    score, logits = torch.randn(3, 16, generator=stream(2)), vit(images[:3]).detach()
    for removal in (None, "drop"):
        grey = DiffMask(vit).placeholder
        found = by_worth(vit, x, logits, score, grey, stream(3), removal=removal, pairs=2)
        value = worth(vit, x, logits.argmax(1), stream(3), removal or grey, pairs=2)
        wanted = [torch.corrcoef(torch.stack([score[b], value[b]]))[0, 1].item() for b in range(3)]
        assert found.item() == pytest.approx(-sum(wanted) / 3, abs=1e-5)
    with pytest.raises(ValueError, match="pairs must be at least 1") as error:
        by_worth(vit, x, logits, score, grey, stream(3), pairs=0)
    assert_one_sentence(error.value)


def test_correlation_agrees_with_torch():
    a, b = torch.randn(3, 9), torch.randn(3, 9)
    wanted = [torch.corrcoef(torch.stack([a[i], b[i]]))[0, 1] for i in range(3)]
    torch.testing.assert_close(correlation(a, b), torch.stack(wanted))
    assert correlation(a, torch.ones(3, 9)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("hole", ["drop", "placeholder"])
def test_by_slope_is_minus_the_mean_correlation_with_the_slope_at_a_random_degree(images, hole):
    vit, x = shared("vit"), images[:3]
    score, logits = torch.randn(3, 16, generator=stream(2)), vit(images[:3]).detach()
    removal = hole if hole == "drop" else DiffMask(vit).placeholder
    share, wanted = torch.rand(3, 1, generator=stream(4)), []
    for b in range(3):
        z = torch.full((1, 4, 4), share[b].item(), requires_grad=True)
        p = see.predict(vit, x[b : b + 1], z, removal).softmax(1)[0, logits[b].argmax()]
        (slope,) = torch.autograd.grad((p / (1 - p)).log(), z)
        wanted.append(torch.corrcoef(torch.stack([score[b], slope.flatten()]))[0, 1].item())
    assert by_slope(vit, x, logits, score, removal, stream(4)).item() == pytest.approx(-sum(wanted) / 3, abs=1e-4)


def test_training_on_the_shown_masks_measures_them_and_still_teaches(images):
    """One step: the constraint is that of the hard mask, the gradient that of the probability to be kept."""
    vit, settings = shared("vit"), {"masks": "shown", "shallowest": 4, "warmup": 1, "alpha": 2.0}
    explainer, by_hand = DiffMask(vit, "drop", seed=1), DiffMask(vit, "drop", seed=1)
    for gates in (explainer.gates, by_hand.gates):
        for gate in gates:
            gate.last.bias.data.fill_(1.5)
            gate.last.weight.data.mul_(8)
    x = images[epoch_order(10, 0, 0, 4)]
    shown = by_hand.explain(x)
    assert 0 < shown.keep.float().mean() < 1
    check = by_hand.verify(x, shown.keep)
    logits, gates = by_hand.read(x)
    mask = log_open(gates).sum(1).exp()
    z = shown.keep.flatten(1).float().requires_grad_()
    kl = kl_divergence(logits, see.predict(vit, x, z.view(4, 4, 4), "drop")).mean()
    (slope,) = torch.autograd.grad(kl, z)
    (mask.mean() + 2.0 * (mask * slope).sum()).backward()  # the same gradient, for slope is now a constant

    history = fit(explainer, images, 1, **settings, **QUICK)
    assert history.kl[0] == pytest.approx(check.kl.mean().item(), rel=1e-3)
    assert history.kept[0] == pytest.approx(shown.keep.float().mean().item())
    before = {name: value.detach().clone() for name, value in by_hand.named_parameters()}
    torch.optim.Adam(by_hand.parameters(), lr=3e-3).step()
    moved = [(new - before[name]).flatten() for name, new in explainer.named_parameters()]
    wanted = [(new - before[name]).flatten() for name, new in by_hand.named_parameters()]
    moved, wanted = torch.cat(moved).detach(), torch.cat(wanted).detach()
    assert ((moved - wanted).abs() < 1e-5).float().mean() > 0.98 and wanted.abs().max() > 2e-3


def test_the_ranking_term_makes_the_order_follow_what_patches_are_worth(images):
    """One image again and again, so that the mean of many looks is known."""
    vit = shared("vit")
    image = images[:1]
    target = vit(image).argmax(1)
    wanted = worth(vit, image, target, stream(5, "looks"), DiffMask(vit).placeholder, pairs=500)
    agreement = {}
    for rank in (0.0, 1.0):
        explainer = DiffMask(vit, seed=2)
        settings = {"rank": rank, "ranking": by_worth, "eps": 50.0, "lr": 1e-2, "shallowest": explainer.body.states - 1}
        fit(explainer, image, 150, **settings, **QUICK)
        agreement[rank] = correlation(explainer.explain(image).score.flatten(1), wanted).item()
    assert agreement[1.0] > 0.8 and agreement[1.0] > agreement[0.0] + 0.3


def test_calibrate_cuts_where_the_shown_masks_have_the_kl_asked_for(images):
    vit = shared("vit")
    explainer = DiffMask(vit, "drop", seed=1)
    with torch.no_grad():
        for gate in explainer.gates:
            gate.last.weight.mul_(8)

    def shown():
        result = explainer.explain(images)
        return explainer.verify(images, result.keep).kl.mean().item(), result.keep.float().mean().item()

    most = explainer.verify(images, torch.zeros(10, 4, 4, dtype=torch.bool)).kl.mean().item()
    kept = {}
    for eps in (most / 8, most / 3):
        measured = calibrate(explainer, images, eps, batch=4)
        kl, kept[eps] = shown()
        assert measured == pytest.approx(kl, rel=1e-4) and kl <= eps
        explainer.cut += 0.7
        assert shown()[0] > eps, "a higher cut met the constraint as well"
    assert kept[most / 8] > kept[most / 3] > 0
    assert calibrate(explainer, images, 100.0) < 100 and explainer.cut == pytest.approx(3, abs=0.01)
    fit(explainer, images, 1, **QUICK)
    assert explainer.cut is None, "a cut is for the gates as they were"
    with pytest.raises(ValueError, match="eps must be above 0") as error:
        calibrate(explainer, images, 0.0)
    assert_one_sentence(error.value)


def test_depths_are_drawn_from_the_shallowest_on(images):
    assert set(fit(DiffMask(shared("vit")), images, 5, shallowest=-1, **QUICK).layer) == {4}
    history = fit(DiffMask(shared("vit")), images, 40, shallowest=2, **QUICK)
    assert set(history.layer) == {2, 3, 4}


def test_the_multiplier_ascends_where_the_constraint_is_broken_and_falls_to_0_where_it_is_kept(images):
    broken = fit(DiffMask(shared("vit")), images, 12, eps=1e-9, alpha=1.0, alpha_lr=0.3, **QUICK)
    kept = fit(DiffMask(shared("vit")), images, 12, eps=50.0, alpha=1.0, alpha_lr=0.3, alpha_bounds=(0.0, 1.5), **QUICK)
    assert min(broken.alpha) > 1 and max(kept.alpha) == 0
    capped = fit(DiffMask(shared("vit")), images, 12, eps=1e-9, alpha=1.0, alpha_lr=1e9, alpha_bounds=(0.1, 1.5), **QUICK)
    assert max(capped.alpha) == 1.5
    floor = fit(DiffMask(shared("vit")), images, 12, eps=50.0, alpha=1.0, alpha_lr=0.3, **QUICK)
    assert min(floor.alpha) == pytest.approx(0.1)


def test_the_vit_is_left_as_it_was(images):
    vit = build("vit").train()
    before = {k: v.clone() for k, v in vit.state_dict().items()}
    flags = [p.requires_grad for p in vit.parameters()]
    fused = [block.attn.fused_attn for block in vit.blocks]
    fit(DiffMask(vit), images, 3, **QUICK)
    assert all(torch.equal(v, before[k]) for k, v in vit.state_dict().items())
    assert [p.requires_grad for p in vit.parameters()] == flags and all(p.grad is None for p in vit.parameters())
    assert all(m.training for m in vit.modules()) and [block.attn.fused_attn for block in vit.blocks] == fused


def test_a_learned_placeholder_learns_and_a_fixed_one_does_not(images):
    for kind, moves in (("learned", True), ("mean", False)):
        explainer = DiffMask(shared("vit"), kind)
        before = explainer.placeholder.detach().clone()
        fit(explainer, images, 3, **QUICK)
        assert torch.equal(explainer.placeholder.detach(), before) != moves


def test_without_masks_the_order_alone_is_learned(images):
    """Neither the allowed KL nor the price of patches then changes a weight; with masks both do."""
    vit, learned = shared("vit"), {}
    for masks in ("none", "shown"):
        for name, more in {"as is": {}, "other": {"eps": 9.0, "alpha": 50.0, "sparsity": "log"}}.items():
            explainer = DiffMask(vit, "drop", seed=1)
            history = fit(explainer, images, 20, rank=1.0, masks=masks, seed=2, **QUICK, **more)
            learned[masks, name] = weights(explainer)
            assert all(map(math.isnan, history.kl)) == (masks == "none") == history.diagnosis().startswith("uncut")
    assert torch.equal(learned["none", "as is"], learned["none", "other"])
    assert not torch.equal(learned["shown", "as is"], learned["shown", "other"])


def test_an_order_that_is_learned_alone_is_that_of_the_term(images):
    """Three steps of `fit` are three steps of Adam on minus the correlation with the slope."""
    vit, lr, seed = shared("vit"), 1e-3, 2
    explainer, by_hand = DiffMask(vit, "drop", seed=1), DiffMask(vit, "drop", seed=1)
    fit(explainer, images, 3, rank=1.0, masks="none", shallowest=-1, seed=seed, lr=lr, warmup=1, **QUICK)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=lr)
    for step in range(3):
        batch, draw = images[epoch_order(10, seed, 4 * step, 4)], stream(seed, "gates", step)
        torch.randint(4, 5, (), generator=draw), torch.rand(4, 5, 16, generator=draw)
        logits, gates = by_hand.read(batch)
        optimizer.zero_grad()
        by_slope(vit, batch, logits, log_odds(log_open(gates).sum(1)), "drop", draw).backward()
        optimizer.step()
    torch.testing.assert_close(weights(explainer), weights(by_hand), atol=1e-5, rtol=1e-4)


def test_muon_moves_the_matrices_that_read_along_all_their_directions_alike(images):
    """Most singular values of its first step are alike, where Adam's differ far more; the rest moves as by Adam."""
    vit, spread, rest = shared("vit"), {}, {}
    for optimizer, lr in {"muon": 0.01, "adam": 0.003}.items():
        explainer, before = DiffMask(vit, "drop"), DiffMask(vit, "drop")
        fit(explainer, images, 1, rank=1.0, masks="none", shallowest=-1, optimizer=optimizer, lr=lr, warmup=1, **QUICK)
        move = (explainer.gates[2].first.weight - before.gates[2].first.weight).detach()
        values = torch.linalg.svdvals(move)
        spread[optimizer] = (values[0] / values.median()).item()
        rest[optimizer] = (explainer.gates[2].last.weight - before.gates[2].last.weight).detach()
    assert spread["muon"] < 3 and spread["adam"] > 10, spread
    sizes = [move.abs() / move.abs().max() for move in rest.values()]  # the first step of Adam is as long for every weight
    assert all((size > 0.99).float().mean() > 0.98 for size in sizes) and torch.equal(rest["muon"].sign(), rest["adam"].sign())


@pytest.mark.parametrize(
    "recipe",
    [{}, PUBLISHED["fit"], {"decay": True, "rank": 1.0, "masks": "shown"}, RANKED["fit"]],
    ids=["default", "published", "ranks", "ranked"],
)
def test_resuming_gives_bitwise_what_an_uninterrupted_run_gives(tmp_path, images, recipe):
    vit, options = shared("vit"), {**QUICK, **recipe, "warmup": 5, "every": 4}
    whole = DiffMask(vit, "learned")
    wanted = fit(whole, Shaky(images), 11, **options)

    def stop(count):
        if count == 4 * 7 + 2:
            raise OSError("the power went")

    part, checkpoint = DiffMask(vit, "learned"), tmp_path / "run.safetensors"
    with pytest.raises(OSError, match="power"):
        fit(part, Shaky(images, stop), 11, checkpoint=checkpoint, **options)
    again = DiffMask(vit, "learned", seed=99)  # its first weights do not matter
    found = fit(again, Shaky(images), 11, checkpoint=checkpoint, **options)
    assert torch.equal(weights(again), weights(whole)) and not torch.equal(weights(part), weights(whole))
    assert found.frame().equals(wanted.frame())
    once_more = DiffMask(vit, "learned")
    assert len(fit(once_more, Shaky(images), 11, checkpoint=checkpoint, **options)) == 11  # nothing left to do
    assert torch.equal(weights(once_more), weights(whole))


def test_ctrl_c_ends_after_the_step_with_what_was_learned_and_goes_on(tmp_path, images, capsys):
    vit, checkpoint = shared("vit"), tmp_path / "run.safetensors"
    whole = DiffMask(vit)
    fit(whole, Shaky(images), 8, **QUICK)

    def press(count):
        if count == 4 * 4 + 1:
            signal.raise_signal(signal.SIGINT)

    explainer, outside = DiffMask(vit), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
    try:
        history = fit(explainer, Shaky(images, press), 8, checkpoint=checkpoint, every=100, **QUICK)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)
    assert history.interrupted and len(history) == 5
    assert "step 4" in capsys.readouterr().out
    history = fit(explainer, Shaky(images), 8, checkpoint=checkpoint, **QUICK)
    assert len(history) == 8 and not history.interrupted and torch.equal(weights(explainer), weights(whole))


SCRIPT = """
import sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
torch.set_num_threads(1)
torch.manual_seed(0)
from families import shared, some_images
from diffmask_lite import DiffMask, fit
explainer = DiffMask(shared("vit"))
fit(explainer, some_images(shared("vit"), 10), 60, batch=4, every=1, progress=False, checkpoint={checkpoint!r})
explainer.save({result!r})
"""


def test_a_run_killed_at_any_moment_resumes_to_bitwise_the_same_weights(tmp_path):
    tests = os.path.dirname(__file__)

    def start(name, result):
        names = {"checkpoint": str(tmp_path / name), "result": str(tmp_path / result)}
        code = SCRIPT.format(tests=tests, root=os.path.dirname(tests), **names)
        return subprocess.Popen([sys.executable, "-c", code])

    assert start("whole", "whole.safetensors").wait() == 0
    killed = start("part", "part.safetensors")
    while not (tmp_path / "part").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    killed.kill()
    assert killed.wait() != 0 and not (tmp_path / "part.safetensors").exists()
    assert start("part", "part.safetensors").wait() == 0
    assert (tmp_path / "part.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, images):
    checkpoint = tmp_path / "run.safetensors"
    fit(DiffMask(shared("vit")), images, 2, checkpoint=checkpoint, **QUICK)
    changes = {"eps": 0.2, "seed": 3, "sparsity": "log", "rank": 1.0, "shallowest": 2}
    for word, change in ((word, {word: value}) for word, value in changes.items()):
        with pytest.raises(ValueError, match=f"another run: {word}") as error:
            fit(DiffMask(shared("vit")), images, 2, checkpoint=checkpoint, **{**QUICK, **change})
        assert_one_sentence(error.value)
    history = fit(DiffMask(shared("vit")), images, 5, checkpoint=checkpoint, **QUICK)  # longer is the same run
    assert history.step == [0, 1, 2, 3, 4]


def test_a_checkpoint_knows_the_ranking_term_and_its_options(tmp_path, images):
    checkpoint = tmp_path / "run.safetensors"
    fit(DiffMask(shared("vit")), images, 1, checkpoint=checkpoint, rank=1.0, ranking=partial(by_worth, pairs=2), **QUICK)
    for other in (by_worth, destroyed, partial(by_worth, pairs=1), partial(by_worth, pairs=2, removal="drop")):
        with pytest.raises(ValueError, match="another run: rank"):
            fit(DiffMask(shared("vit")), images, 2, checkpoint=checkpoint, rank=1.0, ranking=other, **QUICK)
    same = partial(by_worth, pairs=2)
    assert len(fit(DiffMask(shared("vit")), images, 2, checkpoint=checkpoint, rank=1.0, ranking=same, **QUICK)) == 2


def test_worker_processes_give_the_same_batches(images):
    one, two = DiffMask(shared("vit")), DiffMask(shared("vit"))
    fit(one, Shaky(images), 3, workers=0, **QUICK)
    fit(two, Shaky(images), 3, workers=2, **QUICK)
    assert torch.equal(weights(one), weights(two))


def test_training_leaves_the_callers_random_numbers_alone(images):
    torch.manual_seed(1)
    random.seed(1)
    wanted = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    fit(DiffMask(shared("vit")), Shaky(images), 2, **QUICK)
    assert (torch.rand(1), random.random()) == wanted


def test_the_progress_bar_goes_to_stdout_with_kl_kept_and_alpha(images, capsys):
    fit(DiffMask(shared("vit")), images, 3, batch=4, progress=True)
    said = capsys.readouterr()
    assert said.err == ""
    assert "gates" in said.out


def test_nan_in_the_data_names_the_step_and_the_item(images):
    bad = images.clone()
    bad[7, 0, 3, 3] = float("nan")
    step = next(s for s in range(9) if 7 in epoch_order(10, 0, 4 * s, 4))
    with pytest.raises(ValueError, match=rf"step {step}: items \[7\]") as error:
        fit(DiffMask(shared("vit")), bad, 9, **QUICK)
    assert_one_sentence(error.value)


def test_nan_in_the_loss_names_the_step_and_leaves_the_gates_as_they_were(images):
    explainer = DiffMask(shared("vit"))
    explainer.placeholder.fill_(float("nan"))
    before = weights(explainer)
    with pytest.raises(FloatingPointError, match="step 0") as error:
        fit(explainer, images, 3, **QUICK)
    assert_one_sentence(error.value)
    assert torch.equal(weights(explainer).nan_to_num(), before.nan_to_num())


class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.item


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ([], {}, "empty"),
        (Items({"image": 0}), {}, "Item .* dict"),
        (Items(3), {}, "Item .* int"),
        (Items((3, torch.zeros(3, 64, 64))), {}, "Item .* int"),
        (Items(torch.zeros(64, 64)), {}, r"shape \(64, 64\)"),
        (Items(torch.zeros(3, 32, 32)), {}, "Images are 3 × 32 × 32"),
        (Items(torch.zeros(3, 64, 64, dtype=torch.uint8)), {}, "uint8"),
        (Items(torch.full((3, 64, 64), 200.0)), {}, "200"),
        ({"a": 1}, {}, "dict"),
        (iter([torch.zeros(3, 64, 64)]), {}, "length"),
        (Items(torch.zeros(3, 64, 64)), {"eps": 0}, "eps must be above 0"),
        (Items(torch.zeros(3, 64, 64)), {"eps": float("nan")}, "eps"),
        (Items(torch.zeros(3, 64, 64)), {"steps": 0}, "steps"),
        (Items(torch.zeros(3, 64, 64)), {"batch": 0}, "batch"),
        (Items(torch.zeros(3, 64, 64)), {"lr": -1}, "lr"),
        (Items(torch.zeros(3, 64, 64)), {"every": 0}, "every must be above 0"),
        (Items(torch.zeros(3, 64, 64)), {"masks": "none"}, "give rank, say rank=1"),
        (Items(torch.zeros(3, 64, 64)), {"sparsity": "l1"}, "sparsity"),
        (Items(torch.zeros(3, 64, 64)), {"optimizer": "sgd"}, "optimizer"),
        (Items(torch.zeros(3, 64, 64)), {"masks": "soft"}, 'Unknown masks .* "sampled" or "shown" or "none"'),
        (Items(torch.zeros(3, 64, 64)), {"rank": -1}, "rank must be 0 or more"),
        (Items(torch.zeros(3, 64, 64)), {"shallowest": 5}, "shallowest"),
        (Items(torch.zeros(3, 64, 64)), {"shallowest": -2}, "shallowest"),
    ],
)
def test_bad_input_gets_one_sentence(dataset, options, words):
    with pytest.raises(ValueError, match=words) as error:
        fit(DiffMask(shared("vit")), dataset, **{"steps": 2, **QUICK, **options})
    assert_one_sentence(error.value)


def test_pooled_iou_counts_images_with_an_empty_truth():
    keep = torch.tensor([[True, True], [True, False]])
    truth = torch.tensor([[True, False], [False, False]])
    assert pooled_iou(keep, truth) == pytest.approx(1 / 3) and pooled_iou(truth, truth) == 1
    assert pooled_iou(truth & False, truth & False) == 1
    with pytest.raises(ValueError, match="shape"):
        pooled_iou(keep, truth[:1])


def test_fit_finds_the_counted_cells_of_the_colour_grid():
    """The whole method at work; `benchmarks/grid_seeds.py` does the same on twenty seeds."""
    vit, fresh = load_vit(folder() / "grid_vit.safetensors", "grid"), ColourGrid(500, seed=17)
    explainer = DiffMask(vit, seed=21)
    before = hard_mask_scores(explainer, fresh.images, fresh.cells)
    fit(explainer, ColourGrid(5000, seed=18), 600, seed=21, progress=False)
    after = hard_mask_scores(explainer, fresh.images, fresh.cells)
    assert before["kept"] == 1 and before["iou"] < 0.6
    assert after["iou"] > 0.99 and abs(after["kept"] - after["truth kept"]) < 0.01
    assert after["kl"] < 0.05 and after["agreement"] > 0.99
