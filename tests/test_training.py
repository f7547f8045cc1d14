"""`fit`: one step by hand, the objectives, the optimisers, the cut of an order, and what is refused."""

import inspect
import io
import math
import sys
from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import Dataset

from diffmask_lite import CONSTRAINED, RANKED, Constraint, DiffMask, Ranking, fit, fit_with_teacher, teach
from diffmask_lite.attribution import METHODS
from diffmask_lite.datasets import ColourGrid
from diffmask_lite.diffmask import kl_divergence
from diffmask_lite.faithfulness import hard_mask_scores
from diffmask_lite.gates import TEMPERATURE, log_odds, log_open
from diffmask_lite.training import History, recipes
from diffmask_lite.training import teacher as TEACHER
from diffmask_lite.training.data import epoch_order
from diffmask_lite.training.distributed import Draw, Team
from diffmask_lite.training.objective import Step, Taught, by_slope, correlation
from diffmask_lite.training.optimizer import OPTIMIZERS, make_optimizer, set_rate
from diffmask_lite.vit import hidden_states, predict
from diffmask_lite.vit.randomness import stream
from diffmask_lite.weights import pretrained
from families import assert_one_sentence, build, double, left_as_it_was, shared, some_images
from runs import QUICK, Noisy, assert_gradients_agree, gradients, weights


@pytest.fixture(scope="module")
def images():
    return some_images(shared("vit"), 10)


def drawn(generator, batch=4):
    """The random numbers of a step in one process."""
    return Draw(generator, batch, slice(0, batch), torch.device("cpu"))


@pytest.mark.parametrize("sparsity", ["l0", "log"])
def test_one_step_equals_the_formulas_written_out(images, sparsity):
    """The mask of each image, its KL, the loss and its gradient, patch by patch; then Adam's step on that gradient."""
    vit, lr, alpha, eps = shared("vit"), 1e-3, 3.0, 0.07
    seed = next(s for s in range(99) if int(torch.randint(5, (), generator=stream(s, "gates", 0))) == 3)  # gates 0 … 3
    explainer, by_hand = DiffMask(vit, seed=1), DiffMask(vit, seed=1)
    settings = {"sparsity": sparsity, "lr": lr, "warmup": 1, "alpha": alpha, "alpha_lr": 0.5, "eps": eps, "seed": seed}
    history = fit(explainer, images, 1, **settings, **QUICK)

    batch = images[epoch_order(10, seed, 0, 4)]
    draw = stream(seed, "gates", 0)
    k = int(torch.randint(5, (), generator=draw))
    uniform = torch.rand(4, 5, 16, generator=draw)
    states = [torch.nn.functional.layer_norm(s.detach(), (48,)) for s in hidden_states(vit, batch)]
    price, kl, kept = torch.zeros(()), 0.0, 0
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
            price = price + (logs.exp() if sparsity == "l0" else logs) / 64
        kept += sum(int(z > 0) for z in mask)
        p = vit(batch[b : b + 1]).log_softmax(-1).detach()[0]
        q = predict(vit, batch[b : b + 1], torch.stack(mask).view(1, 4, 4), by_hand.placeholder).log_softmax(-1)[0]
        kl = kl + (p.exp() * (p - q)).sum() / 4
    loss = price + alpha * (kl - eps)
    loss.backward()

    assert history.layer == [k] == [3]
    assert history.kl[0] == pytest.approx(kl.item(), rel=1e-3)
    assert history.kept[0] == pytest.approx(kept / 64)
    assert history.sparsity[0] == pytest.approx(price.item(), rel=1e-4)
    assert history.alpha[0] == pytest.approx(alpha + 0.5 * (kl.item() - eps), rel=1e-3)
    assert history.loss == pytest.approx(loss.item(), rel=1e-3)
    assert_gradients_agree(gradients(explainer), gradients(by_hand))
    for p, same in zip(by_hand.parameters(), explainer.parameters(), strict=True):
        p.grad = same.grad
    torch.optim.Adam(by_hand.parameters(), lr=lr).step()
    torch.testing.assert_close(weights(explainer), weights(by_hand), atol=1e-7, rtol=0)
    assert (weights(by_hand) - weights(DiffMask(vit, seed=1))).abs().max() > 0.9 * lr


@pytest.mark.parametrize("hole", ["drop", "mean"])
def test_by_slope_is_minus_the_mean_correlation_with_the_slope_at_a_random_degree(images, hole):
    """The slope by finite differences in double precision, a patch at a time."""
    vit = shared("vit")
    explainer, exact, h = DiffMask(vit, hole), double("vit"), 1e-4
    removal = hole if hole == "drop" else explainer.placeholder.double()
    share = torch.rand(3, 1, generator=stream(4)).square().clamp(min=0.01)
    score, wanted = torch.randn(3, 16, generator=stream(2)), []
    logits = vit(images[:3]).detach()
    for b in range(3):
        slope = []
        for n in range(16):
            z = share[b].double().expand(2, 16).clone()
            z[:, n] += torch.tensor([h, -h])
            p = predict(exact, images[[b, b]].double(), z.view(2, 4, 4), removal).softmax(1)[:, logits[b].argmax()]
            slope.append((p / (1 - p)).log().diff()[0].neg() / (2 * h))
        wanted.append(torch.corrcoef(torch.stack([score[b].double(), torch.stack(slope)]))[0, 1].item())
    step = Step(explainer, images[:3], logits, torch.empty(0), torch.empty(0), drawn(stream(4), 3))
    assert by_slope(step, score).item() == pytest.approx(-sum(wanted) / 3, abs=1e-3)
    assert correlation(score, torch.ones(3, 16)).tolist() == [0, 0, 0]


def test_an_order_alone_is_learned_from_the_term_alone(images):
    """The gradient of one step is that of the term by itself, and there is no KL to report."""
    vit, seed = shared("vit"), 2
    explainer, by_hand = DiffMask(vit, "drop", seed=1), DiffMask(vit, "drop", seed=1)
    history = fit(explainer, images, 1, objective=Ranking(), shallowest=-1, seed=seed, **QUICK)
    batch, draw = images[epoch_order(10, seed, 0, 4)], drawn(stream(seed, "gates", 0))
    draw.integer(4, 5), draw.uniform(5, 16)
    logits, gates = by_hand.read(batch)
    score = log_odds(log_open(gates).sum(1))
    by_slope(Step(by_hand, batch, logits, gates, torch.empty(0), draw), score).backward()
    # Weights after three steps of Adam differed by up to 9e-5 between timm's fused attention and the one that `fit` uses on a
    # processor: at one weight of 23,525, whose first gradient was 4e-8 of the largest. With the same attention none differed.
    assert_gradients_agree(gradients(explainer), gradients(by_hand))
    assert math.isnan(history.kl[0]) and math.isnan(history.alpha[0]) and history.kept == [(score > 0).float().mean().item()]
    assert history.words() == f"correlation {-history.loss:.3f}" and history.correlation == -history.loss


def test_fit_finds_the_counted_cells_of_the_colour_grid():
    """The whole method at work; `experiments/grid_seeds.py` does the same on twenty seeds."""
    vit, fresh = pretrained("grid")[0], ColourGrid(500, seed=17)
    explainer = DiffMask(vit, seed=21)
    before = hard_mask_scores(explainer, fresh.images, fresh.cells)
    fit(explainer, ColourGrid(5000, seed=18), 200, seed=21, batch=32, lr=1e-2, progress=False)
    after = hard_mask_scores(explainer, fresh.images, fresh.cells)
    assert before["kept"] == 1 and before["iou"] < 0.6
    assert after["iou"] > 0.99 and abs(after["kept"] - after["truth kept"]) < 0.01
    assert after["kl"] < 0.05 and after["agreement"] > 0.99


def test_gates_that_are_taught_follow_the_map_of_each_image_in_every_epoch(images):
    """The maps come from `integrated_drop`, and each step takes those of its own images, in whatever order they are drawn."""
    vit = shared("vit")
    objective = teach(vit, [(image, 0) for image in images], batch=4, progress=False)
    maps = METHODS["integrated_drop"](vit, images)
    torch.testing.assert_close(objective.term.maps, maps.flatten(1), rtol=1e-4, atol=1e-5)
    explainer, seen = DiffMask(vit, **RANKED["explainer"]), []

    def spy(step, score):
        seen.append(step.indices)
        torch.testing.assert_close(step.images, images[list(step.indices)])
        wanted = [torch.corrcoef(torch.stack([score[b], maps[i].flatten()]))[0, 1] for b, i in enumerate(step.indices)]
        loss = objective.term(step, score)
        torch.testing.assert_close(loss, -torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)
        return loss

    before = -objective.term(step_of(explainer, images), explainer.explain(images).score.flatten(1))
    settings = RANKED["fit"] | {"objective": Ranking(spy), "batch": 5, "warmup": 1}
    fit(explainer, images, 30, progress=False, **settings)
    after = -objective.term(step_of(explainer, images), explainer.explain(images).score.flatten(1))
    assert after > max(0.9, before + 0.1) and sorted(seen[0] + seen[1]) == list(range(10))
    assert Ranking(Taught(maps)).config() != Ranking(Taught(maps + 1)).config()
    for wrong, words in ((maps[:3], "There are 3 maps of 16 patches"), (maps[:, :2], "10 maps of 8 patches")):
        with pytest.raises(ValueError, match=words) as error:
            fit(explainer, images, 2, progress=False, **RANKED["fit"] | {"objective": Ranking(Taught(wrong))})
        assert_one_sentence(error.value)
    with pytest.raises(ValueError, match="NaN"):
        Taught(maps / 0 * 0)


def step_of(explainer, images):
    return Step(explainer, images, *explainer.read(images), torch.empty(0), None, range(len(images)))


def test_depths_are_drawn_from_the_shallowest_on(images):
    assert set(fit(DiffMask(shared("vit")), images, 5, shallowest=-1, **QUICK).layer) == {4}
    assert set(fit(DiffMask(shared("vit")), images, 20, shallowest=3, **QUICK).layer) == {3, 4}


def test_the_multiplier_ascends_where_the_constraint_is_broken_and_falls_where_it_is_kept(images):
    def alphas(**settings):
        return fit(DiffMask(shared("vit")), images, 12, **{"alpha": 1.0, "alpha_lr": 0.3, **settings}, **QUICK).alpha

    assert min(alphas(eps=1e-9)) > 1 and max(alphas(eps=1e-9, alpha_lr=1e9, alpha_bounds=(0.1, 1.5))) == 1.5
    assert max(alphas(eps=50.0, alpha_bounds=(0.0, 1.5))) == 0 and min(alphas(eps=50.0)) == pytest.approx(0.1)
    constraint, explainer = Constraint(eps=0.1), DiffMask(shared("vit"))  # each depth has a multiplier of its own
    constraint.start(5, alphas=[1.0, 2.0, 3.0, 4.0, 5.0])
    step = Step(explainer, images, *explainer.read(images, last=2), torch.rand(10, 3, 16, generator=stream(1)), None)
    found = {name: value.item() for name, value in constraint.terms(step).items()}
    assert found["loss"] == pytest.approx(found["sparsity"] + 3 * (found["kl"] - 0.1), abs=1e-5)
    constraint.update(2, 1.1)
    assert constraint.alphas.tolist() == pytest.approx([1, 2, 3.3, 4, 5])


def test_training_on_the_shown_masks_measures_them_and_still_teaches():
    """One step: the constraint is that of the hard mask, the gradient that of the probability to be kept."""
    vit, images = shared("vit"), some_images(shared("vit"), 10)
    explainer, by_hand = DiffMask(vit, "drop", seed=1), DiffMask(vit, "drop", seed=1)
    for gate in (*explainer.gates, *by_hand.gates):
        gate.last.bias.data.fill_(1.5)
        gate.last.weight.data.mul_(8)
    x = images[epoch_order(10, 0, 0, 4)]
    keep = by_hand.explain(x).keep
    logits, gates = by_hand.read(x)
    mask, z = log_open(gates).sum(1).exp(), keep.flatten(1).float().requires_grad_()
    (slope,) = torch.autograd.grad(kl_divergence(logits, predict(vit, x, z.view(4, 4, 4), "drop")).mean(), z)
    (mask.mean() + 2.0 * (mask * slope).sum()).backward()  # the same gradient, for slope is now a constant
    history = fit(explainer, images, 1, alpha=2.0, shown=True, shallowest=-1, **QUICK)
    assert history.kl[0] == pytest.approx(by_hand.verify(x, keep).kl.mean().item(), rel=1e-3)
    assert history.kept[0] == pytest.approx(keep.float().mean().item()) and 0 < history.kept[0] < 1
    assert_gradients_agree(gradients(explainer), gradients(by_hand))


def test_maps_that_were_made_are_not_made_again_after_a_stop(images, tmp_path, monkeypatch):
    vit, path, right, asked = shared("vit"), tmp_path / "maps", TEACHER.integrated_drop, []
    whole = teach(vit, images, batch=4, progress=False)

    def made(vit, some, stop=True):
        asked.append(len(some))
        if stop and len(asked) == 2:
            raise KeyboardInterrupt
        return right(vit, some)

    monkeypatch.setattr(TEACHER, "integrated_drop", made)
    with pytest.raises(KeyboardInterrupt):
        teach(vit, images, batch=4, progress=False, checkpoint=path)
    monkeypatch.setattr(TEACHER, "integrated_drop", lambda *some: made(*some, stop=False))
    again = teach(vit, images, batch=4, progress=False, checkpoint=path)
    assert sum(asked) == len(images) + 4  # the stopped batch is the only one that is asked about twice
    torch.testing.assert_close(again.term.maps, whole.term.maps)
    with pytest.raises(ValueError, match="is of another run: data was"):
        teach(vit, images + 1, batch=4, progress=False, checkpoint=path)
    other = build("vit")
    other.head.bias.data += 1
    with pytest.raises(ValueError, match="is of another run: vit was"):
        teach(other, images, batch=4, progress=False, checkpoint=path)


def test_an_image_without_a_map_is_named_at_once_and_its_batch_is_not_kept(images, tmp_path, monkeypatch):
    right, seen = TEACHER.integrated_drop, []
    monkeypatch.setattr(TEACHER, "integrated_drop", lambda vit, some: seen.append(1) or right(vit, some) / (len(seen) != 2))
    with pytest.raises(ValueError, match="The map of image 4 of the data set holds NaN or infinite values") as error:
        teach(shared("vit"), images, batch=4, progress=False, checkpoint=tmp_path / "maps")
    assert_one_sentence(error.value)
    assert len(seen) == 2 and len(torch.load(tmp_path / "maps", weights_only=True)["maps"]) == 4


def test_fit_with_teacher_is_the_two_halves_and_only_the_first_images_teach(images, tmp_path, monkeypatch):
    """The maps are made once: gates that learned the order have no more need of them, also after a stop."""
    vit, kind, made, right = shared("vit"), RANKED["explainer"], [], recipes.teach
    fitted = recipes.fit
    monkeypatch.setattr(recipes, "teach", lambda vit, some, *a, **k: made.append(len(some)) or right(vit, some, *a, **k))
    by_hand, at_once, stopped = (DiffMask(vit, **kind) for _ in range(3))
    first = images[:5]
    fit(by_hand, first, 2, **QUICK, **RANKED["fit"] | {"objective": teach(vit, first, progress=False)})
    fit(by_hand, images, 3, **QUICK, **CONSTRAINED["fit"] | {"eps": 0.4})
    history = fit_with_teacher(at_once, images, 5, eps=0.4, taught=5, checkpoint=tmp_path / "gates", **QUICK)
    torch.testing.assert_close(weights(at_once), weights(by_hand))
    assert made == [5] and len(history) == 3 and history.eps == 0.4
    assert {path.name for path in tmp_path.iterdir()} == {"gates", "gates.order", "gates.maps"}

    def killed(*arguments, **settings):  # between the two halves
        if "objective" not in settings:
            raise KeyboardInterrupt
        return fitted(*arguments, **settings)

    asked, teacher = [], TEACHER.integrated_drop
    monkeypatch.setattr(TEACHER, "integrated_drop", lambda vit, some: asked.extend(some) or teacher(vit, some))
    monkeypatch.setattr(recipes, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        fit_with_teacher(stopped, images, 5, eps=0.4, taught=5, checkpoint=tmp_path / "again", **QUICK)
    monkeypatch.setattr(recipes, "fit", fitted)
    again = DiffMask(vit, **kind)
    fit_with_teacher(again, images, 5, eps=0.4, taught=5, checkpoint=tmp_path / "again", **QUICK)
    assert torch.equal(weights(again), weights(at_once)) and len(asked) == 5
    fit_with_teacher(again, images, 5, eps=0.4, taught=5, checkpoint=tmp_path / "again", **QUICK)  # it is finished
    assert torch.equal(weights(again), weights(at_once)) and len(asked) == 5


WRONG_RECIPES = {
    "one step": ({"steps": 1}, "steps must be at least 2, one for each half, but it is 1"),
    "a bound of nothing": ({"eps": 0}, "eps must be above 0, but it is 0"),
    "never saved": ({"every": 0}, "every must be above 0"),
    "taught nothing": ({"taught": 0}, "taught must be above 0"),
    "a rate": ({"lr": 0.1}, "fit_with_teacher has no setting lr; leave it out"),
    "a slip": ({"alph": 1}, "fit_with_teacher has no setting alph; leave it out"),
}


@pytest.mark.parametrize("settings, words", WRONG_RECIPES.values(), ids=WRONG_RECIPES)
def test_what_the_recipe_cannot_do_is_said_before_a_map_is_made(images, monkeypatch, settings, words):
    monkeypatch.setattr(recipes, "teach", None)
    with pytest.raises(ValueError, match=words) as error:
        fit_with_teacher(DiffMask(shared("vit"), **RANKED["explainer"]), images, **{"steps": 4, "progress": False} | settings)
    assert_one_sentence(error.value)


@pytest.mark.parametrize("settings", [{}, {"objective": Ranking()}], ids=["constraint", "ranking"])
def test_the_vit_is_left_as_it_was_and_a_placeholder_moves_if_it_is_learned(images, settings):
    vit = build("vit").train()
    vit.set_grad_checkpointing()  # recomputed in the backward pass, hidden states would be those of a ViT without hooks
    with left_as_it_was(vit):
        for kind in ("learned", "mean"):
            explainer = DiffMask(vit, kind)
            before = explainer.placeholder.detach().clone()
            fit(explainer, images, 2, **settings, **QUICK)
            moves = kind == "learned" and not settings  # by_slope takes the placeholder as it is
            assert torch.equal(explainer.placeholder.detach(), before) != moves
    assert all(p.grad is None for p in vit.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gates_and_a_learned_placeholder_of_a_vit_in_half_precision_learn_in_single(images, dtype):
    """Adam's second moments are below the smallest number of float16: its steps were infinite."""
    vit = build("vit").to(dtype)
    for options, settings in (({"placeholder": "learned"}, {}), (RANKED["explainer"], RANKED["fit"])):
        explainer = DiffMask(vit, **options)
        before = weights(explainer)
        fit(explainer, images.to(dtype), 3, **QUICK, **settings)
        moved = (weights(explainer) - before).abs()
        assert 0 < moved.max() < 0.1 and {p.dtype for p in explainer.parameters()} == {torch.float32}
        with pytest.raises(ValueError, match=rf"step 0: Images are torch.float32, .* use images.to\({dtype}\)") as error:
            fit(explainer, images, 3, **QUICK, **settings)
        assert_one_sentence(error.value)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_makes_no_difference(images, mode):
    """Gates are those of a training outside; what was made under inference_mode itself can learn nothing."""
    found, settings = [], {**QUICK, **RANKED["fit"]}
    for context in (nullcontext, mode):
        explainer = DiffMask(shared("vit"), **RANKED["explainer"])
        with context():
            data = images.clone()
            fit(explainer, data, 2, **settings | {"objective": teach(explainer.vit, data, progress=False)})
            fit(explainer, data, 2, **QUICK, **CONSTRAINED["fit"])
        found.append(weights(explainer))
    assert torch.equal(*found)
    if mode is torch.inference_mode:
        with torch.inference_mode():
            explainer = DiffMask(shared("vit"))
        with pytest.raises(ValueError, match=r"made under torch\.inference_mode") as error:
            fit(explainer, images, 1, **QUICK)
        assert_one_sentence(error.value)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_output_in_any_encoding_stops_no_training(images, monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    assert len(fit(DiffMask(shared("vit")), images, 20, batch=4)) == 20
    sys.stdout.flush()
    assert r"\u03b1" in sys.stdout.buffer.getvalue().decode(encoding)


def test_autocast_changes_the_arithmetic_and_little_else(images):
    exact, rough = (
        fit(DiffMask(shared("vit"), "drop"), images, 2, autocast=dtype, eps=1.0, **QUICK) for dtype in (None, torch.bfloat16)
    )
    assert exact.kl != rough.kl and exact.layer == rough.layer
    assert exact.sparsity == pytest.approx(rough.sparsity, rel=0.02)


# The optimisers


def test_muon_moves_the_matrices_that_read_along_all_their_directions_alike():
    """Its step has singular values of about one size, where the gradient's differ a thousandfold; the rest moves as by Adam."""
    left, right = (torch.linalg.qr(torch.randn(n, 48, generator=stream(n)))[0] for n in (48, 96))
    steep, spread = left @ torch.diag(torch.logspace(0, -3, 48)) @ right.T, {}
    for name, lr in {"muon": 0.01, "adam": 0.003}.items():
        explainer = DiffMask(shared("vit"), "learned")
        parts = [explainer.gates[0].first.weight, explainer.gates[0].last.weight, explainer.placeholder]
        before = [part.detach().clone() for part in parts]
        for p in explainer.parameters():
            p.grad = steep.clone() if p.shape == steep.shape else torch.ones_like(p)
        make_optimizer(name, explainer, lr).step()
        first, last, placeholder = ((part - was).detach() for part, was in zip(parts, before, strict=True))
        values = torch.linalg.svdvals(first)
        spread[name] = (values[0] / values[-1]).item()
        assert last.max() < 0 and last.max().item() == pytest.approx(last.min().item(), rel=1e-3)
        share = (placeholder.mean() / last.mean()).item()
        assert share == pytest.approx(1e-3 / 0.003, rel=1e-3), "a placeholder has its own rate, and the rest 0.3 of Muon's"
    assert spread["muon"] < 6 and spread["adam"] > 12, spread


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_rises_and_then_stays_or_falls_to_0(name):
    optimizer = make_optimizer(name, DiffMask(shared("vit"), "learned"), 0.01)
    first = [group["lr"] for group in optimizer.param_groups]
    for step, decay, share in [(0, 0, 0.1), (4, 0, 0.5), (9, 0, 1), (99, 0, 1), (50, 100, 0.5), (4, 8, 0.25), (100, 100, 0)]:
        set_rate(optimizer, step, 10, decay)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([share * lr for lr in first])


# What a step costs


def test_fit_looks_at_its_input_once_a_step_and_waits_once_for_the_device(images, monkeypatch):
    """To look at all pixels makes a GPU wait, and so does every number that is read back."""
    looked, waited, mean = [], [], Team.mean
    for name, module in list(sys.modules.items()):
        if name.startswith("diffmask_lite") and hasattr(module, "require_images"):
            right = module.require_images
            monkeypatch.setattr(module, "require_images", lambda *a, right=right, **k: looked.append(1) or right(*a, **k))
    monkeypatch.setattr(Team, "mean", lambda *arguments: waited.append(1) or mean(*arguments))
    for settings in ({}, {"objective": Ranking()}):
        explainer = DiffMask(shared("vit"), "drop")
        looked.clear(), waited.clear()
        fit(explainer, images, 3, **settings, **QUICK)
        assert len(looked) == len(waited) == 3


def test_fit_reads_in_one_piece():
    assert len(inspect.getsource(fit).splitlines()) <= 100
    with pytest.raises(TypeError):
        History(0.1).add(0, 0.5, 0.9)  # rows have names, not places


def test_the_progress_bar_goes_to_stdout_with_kl_kept_and_alpha(images, capsys):
    fit(DiffMask(shared("vit")), images, 3, batch=4, progress=True)
    said = capsys.readouterr()
    assert said.err == "" and "gates" in said.out and "moving: 3 steps" in said.out


# What goes wrong


def test_nan_names_the_step_and_the_item_and_leaves_the_gates_as_they_were(images):
    bad, explainer = images.clone(), DiffMask(shared("vit"))
    step = next(s for s in range(9) if 7 in epoch_order(10, 0, 4 * s, 4))
    for value, said in ((math.nan, r"Items \[7\] of the data set hold NaN"), (200.0, r"items \[7\] of the data set reach 200")):
        bad[7, 0, 3, 3] = value
        with pytest.raises(ValueError, match=rf"step {step}: (Pixels of )?{said}") as error:
            fit(explainer, bad, 9, **QUICK)
        assert_one_sentence(error.value)
    explainer.placeholder.fill_(float("nan"))
    before = weights(explainer).nan_to_num()
    with pytest.raises(FloatingPointError, match="step 0") as error:
        fit(explainer, images, 3, **QUICK)
    assert_one_sentence(error.value)
    assert torch.equal(weights(explainer).nan_to_num(), before)


class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return self.item


GOOD = Items(torch.zeros(3, 64, 64))
BAD_DATA = [
    ([], "empty"), ({"a": 1}, "dict"), (iter([torch.zeros(3, 64, 64)]), "length"), (Items({"image": 0}), "Item .* dict"),
    (Items((3, torch.zeros(3, 64, 64))), "Item .* int"), (Items(torch.zeros(64, 64)), r"shape \(64, 64\)"),
    (Items(torch.zeros(3, 32, 32)), "Images are 3 × 32 × 32"), (Items(torch.full((3, 64, 64), 200.0)), "step 0: Pixels of"),
    (Items(torch.zeros(3, 64, 64, dtype=torch.uint8)), "uint8"),
]  # fmt: skip
BAD_SETTINGS = [
    ({"eps": 0}, "eps must be above 0"), ({"eps": math.nan}, "eps"), ({"steps": 0}, "steps"), ({"batch": 0}, "batch"),
    ({"lr": -1}, "lr"), ({"every": 0}, "every must be above 0"), ({"sparsity": "l1"}, "sparsity"),
    ({"optimizer": "sgd"}, "optimizer"), ({"shallowest": 5}, "shallowest"), ({"shallowest": -2}, "shallowest"),
    ({"rank": 1.0}, r"no longer takes rank: .*objective=Ranking\(\)"),
    ({"masks": "none"}, r"no longer takes masks: .*objective=Ranking\(\)"),
    ({"rank": 1.0, "ranking": by_slope}, "no longer takes rank and ranking: .* by objective"),
    ({"objective": Ranking(), "eps": 0.2}, "eps would be lost: .* objective"),
]  # fmt: skip
BAD = [(data, {}, words) for data, words in BAD_DATA] + [(GOOD, settings, words) for settings, words in BAD_SETTINGS]


@pytest.mark.parametrize(("dataset", "options", "words"), BAD, ids=[words for _, _, words in BAD])
def test_bad_input_gets_one_sentence(dataset, options, words):
    with pytest.raises(ValueError, match=words) as error:
        fit(DiffMask(shared("vit")), dataset, **{"steps": 2, **QUICK, **options})
    assert_one_sentence(error.value)


def test_without_a_checkpoint_no_more_images_are_read_than_are_learned_from(images):
    data = Noisy(images)
    fit(DiffMask(shared("vit")), data, 3, **QUICK)
    assert len(data.looked_at) == 3 * QUICK["batch"]
