"""Multi-label heads: every number is that of as many two-class problems as there are labels, in every method and metric."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from diffmask_lite import RANKED, DiffMask, Ranking, fit, plots
from diffmask_lite.attribution import METHODS
from diffmask_lite.faithfulness import evaluate, mask_scores
from diffmask_lite.vit import UnfitViT, anatomy, models, predict
from diffmask_lite.vit.head import chosen_classes, kl_divergence, log_odds_of, log_odds_slope, log_p_of, p_of, same_answer
from families import CLASSES, assert_one_sentence, build, some_images, some_keep
from figures import NAMES, altered, data


def labelled(name="vit"):
    """A ViT of a family with a label for each output; its biases make the set of labels differ from image to image."""
    vit = build(name)
    vit.pretrained_cfg["problem_type"] = "multi_label_classification"
    return vit


def two_class(label, name="vit"):
    """The same ViT, asked about one label: present or absent."""
    vit = build(name)
    row, bias = vit.head.weight[label], vit.head.bias[label]
    vit.head = nn.Linear(len(row), 2)
    with torch.no_grad():
        vit.head.weight.copy_(torch.stack([row, 0 * row])), vit.head.bias.copy_(torch.stack([bias, 0 * bias]))
    return vit


VIT, PAIRS = labelled(), [two_class(label) for label in range(CLASSES)]
IMAGES = some_images(VIT)
LOGITS, MASKED = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).mul(3).unbind()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_numbers_of_labels_equal_a_loop_over_them():
    sign = chosen_classes(LOGITS, None, True)
    for b in range(5):
        kl, log_p, odds = 0.0, 0.0, 0.0
        for x, y in zip(LOGITS[b].tolist(), MASKED[b].tolist(), strict=True):
            p, q = sigmoid(x), sigmoid(y)
            kl += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            log_p += math.log(max(p, 1 - p))
            odds += abs(x)
        assert kl_divergence(LOGITS, MASKED, True)[b].item() == pytest.approx(kl, rel=1e-4)
        assert log_p_of(LOGITS, sign)[b].item() == pytest.approx(log_p, rel=1e-4)
        assert p_of(LOGITS, sign)[b].item() == pytest.approx(math.exp(log_p), rel=1e-4)
        assert log_odds_of(LOGITS, sign)[b].item() == pytest.approx(odds, rel=1e-4)
        assert bool(same_answer(LOGITS, MASKED, True)[b]) == bool(((LOGITS[b] > 0) == (MASKED[b] > 0)).all())
    assert p_of(LOGITS, chosen_classes(LOGITS, 2, True)).tolist() == pytest.approx([sigmoid(x) for x in LOGITS[:, 2].tolist()])


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("target", [None, 2])
def test_slopes_are_those_of_the_log_odds(multilabel, target):
    logits = LOGITS.double().requires_grad_()
    chosen = chosen_classes(logits, target, multilabel)
    (slope,) = torch.autograd.grad(log_odds_of(logits, chosen).sum(), logits)
    torch.testing.assert_close(log_odds_slope(LOGITS.double(), chosen), slope, rtol=1e-5, atol=1e-6)


def test_all_labels_cannot_go_off_unseen():
    """A softmax sees no difference, since all logits fall alike."""
    on, off = torch.full((1, 3), 2.0), torch.full((1, 3), -2.0)
    assert kl_divergence(on, off).item() == 0 and same_answer(on, off)
    assert kl_divergence(on, off, True).item() == pytest.approx(3 * (sigmoid(2) - sigmoid(-2)) * 2)
    assert not same_answer(on, off, True)


@pytest.mark.parametrize("name", METHODS)
def test_the_map_of_a_label_is_that_of_its_own_two_class_problem(name):
    """So the other labels' rows of the head do not matter."""
    for label in (0, 7):
        found, wanted = METHODS[name](VIT, IMAGES, label), METHODS[name](PAIRS[label], IMAGES, 0)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


SUMS = (
    "leave_one_out", "occlusion", "gradient_drop", "integrated_drop", "direct", "direct_paths", "gradient_input",
    "integrated_gradients",
)  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_without_a_target_the_predicted_set_of_labels_is_explained(name):
    found = METHODS[name](VIT, IMAGES)
    assert found.shape == (3, 4, 4) and found.isfinite().all()
    if name in SUMS:  # over labels, each as it is predicted; a raw logit of 0, for "absent", has no slope: minus the other's
        present = VIT(IMAGES) > 0
        assert 0 < present.sum() < present.numel()
        wanted = 0
        for label, vit in enumerate(PAIRS):
            maps = METHODS[name](vit, IMAGES, 0)
            absent = METHODS[name](vit, IMAGES, 1) if name in ("leave_one_out", "occlusion") else -maps
            wanted = wanted + torch.where(present[:, label, None, None], maps, absent)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_masks_and_curves_are_scored_by_labels():
    keep, whole = some_keep(VIT, [4, 9, 13]), VIT(IMAGES)
    masked = predict(VIT, IMAGES, keep)
    check = DiffMask(VIT, "drop").verify(IMAGES, keep)
    wanted = sum(kl_divergence(pair(IMAGES), predict(pair, IMAGES, keep)) for pair in PAIRS)
    torch.testing.assert_close(check.kl, wanted, rtol=1e-4, atol=1e-5)
    assert check.agree.tolist() == [bool(((whole > 0) == (masked > 0))[b].all()) for b in range(3)]
    scores = mask_scores(VIT, IMAGES, {"one": keep}).set_index(["metric", "image"])["value"]
    assert scores["sufficiency"].tolist() == pytest.approx(check.kl.tolist(), rel=1e-4)
    assert scores["agreement"].tolist() == check.agree.double().tolist()
    maps = {"one": torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))}
    for target in (None, 7):
        curves = evaluate(VIT, IMAGES, maps, target=target, progress=False).curves
        ends = curves[curves["share"] == 0].groupby("image")["p"].first().tolist()
        labels = range(CLASSES) if target is None else [target]
        each = [[sigmoid(abs(x) if target is None else x) for x in row[labels].tolist()] for row in whole]
        assert ends == pytest.approx([math.prod(row) for row in each], rel=1e-5)


@pytest.mark.parametrize("kind", ["constraint", "ranking", "class-aware"])
def test_gates_learn_and_explain(kind, tmp_path):
    options, settings = RANKED["explainer"], RANKED["fit"]
    if kind != "class-aware":
        options, settings = {"placeholder": "drop"}, {"objective": Ranking()} if kind == "ranking" else {}
    explainer = DiffMask(VIT, **options)
    history = fit(explainer, some_images(VIT, 8), 2, batch=4, progress=False, **settings)
    if kind == "constraint":
        assert min(history.kl) > 0
    explainer.save(tmp_path / "gates")
    result = DiffMask.load(tmp_path / "gates", VIT).explain(IMAGES)
    assert result.multilabel and torch.equal(result.mask, explainer.explain(IMAGES).mask)
    with pytest.raises(ValueError, match="multilabel True, but this one has multilabel False") as error:
        DiffMask.load(tmp_path / "gates", build("vit"))
    assert_one_sentence(error.value)
    if kind == "class-aware":  # a label's mask is its own, whatever the other rows of the head
        other = labelled()
        with torch.no_grad():
            other.head.weight[:7].mul_(-3)
        moved = DiffMask(other, **options)
        moved.load_state_dict(explainer.state_dict())
        one, two = (each.explain(IMAGES, target=7).score for each in (explainer, moved))
        torch.testing.assert_close(one, two)
        assert not torch.allclose(explainer.explain(IMAGES).score, moved.explain(IMAGES).score)


def test_figures_name_every_label():
    pictures, result, check = data()
    result = altered(result, multilabel=True, logits=torch.tensor([[3.0, -1, 2, -4], [-1, -2, -3, -4]]))
    p = torch.sigmoid(result.logits)
    said = plots.alt_text(plots.explanations(pictures, result, check, NAMES))
    assert f"says airplane ({p[0, 0]:.2f}), bird ({p[0, 2]:.2f});" in said and "says no label;" in said
    first, _, second, _ = plots.gallery(pictures, result, check, NAMES, columns=2).axes
    assert [first.get_title(), second.get_title()] == [f"airplane +1\n{p[0, 0]:.2f}", f"no label\n{p[1, 0]:.2f}"]
    page = plots.explained(pictures[0], pictures[0], result, check, NAMES)
    bars = [bar.get_width() for bar in page.axes[3].containers[0]]
    assert sorted(bars) == pytest.approx(sorted(p[0].tolist()), abs=1e-6)
    bars = plots.probabilities(result.logits[0], check.logits[0], NAMES, multilabel=True).axes[0].containers[0]
    np.testing.assert_allclose([bar.get_width() for bar in bars], p[0], atol=1e-6)
    for draw in (plots.gallery, plots.explanations):
        with pytest.raises(ValueError, match="truth is one class") as error:
            draw(pictures, result, check, NAMES, truth=[0, 1])
        assert_one_sentence(error.value)


def test_heads_that_predict_no_class_are_refused_by_name():
    for problem in ("regression", "ranking"):
        vit = build("vit")
        vit.pretrained_cfg["problem_type"] = problem
        with pytest.raises(UnfitViT, match=f"is '{problem}'") as error:
            anatomy(vit)
        assert_one_sentence(error.value)


def test_a_single_label_is_a_two_class_problem():
    one = labelled()
    one.head = nn.Linear(48, 1)
    assert anatomy(one).classes == 1
    keep, two = some_keep(one, [4, 9, 13]), models.two_class(one)
    assert not anatomy(two).multilabel and models.class_names(one) == ["class 0"]
    kl, wanted = (DiffMask(vit).verify(IMAGES, keep).kl for vit in (one, two))
    torch.testing.assert_close(kl, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(UnfitViT, match="head of one logit"):
        one.pretrained_cfg["problem_type"] = None
        anatomy(one)
