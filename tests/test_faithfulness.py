"""The metrics are themselves tested: against analytic cases, slow loops over images and steps, and scipy; wrong ones fail."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import timm
import torch
from torch import nn

from diffmask_lite import DiffMask, faithfulness
from diffmask_lite import vit as see
from diffmask_lite.diffmask import kl_divergence
from diffmask_lite.faithfulness import (
    best,
    compare,
    differences,
    evaluate,
    image_auroc,
    intervals,
    label_leak,
    mask_scores,
    midranks,
    pooled_auroc,
    pooled_iou,
    removal_agreement,
    removal_order,
    spearman,
    summary,
    truth_differences,
    truth_scores,
    weight_randomisation,
)
from diffmask_lite.faithfulness.ranking import removal_ranks, tie_orders
from diffmask_lite.faithfulness.statistics import image_weights
from families import FAMILIES, assert_one_sentence, build, shared, some_images

REMOVALS = ("drop", "mean", "noise", "placeholder")


def some_maps(vit, n, seed=0, seeds=None):
    shape = (n, *see.anatomy(vit).grid) if seeds is None else (seeds, n, *see.anatomy(vit).grid)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def score(scores, metric, method="a", removal="drop", seed=0):
    """The per-image values of one method, (n,)."""
    rows = scores[(scores["metric"] == metric) & (scores["method"] == method) & (scores["removal"] == removal)]
    return rows[rows["seed"] == seed].sort_values("image")["value"].to_numpy()


def curve(curves, order, method="a", removal="drop", seed=0):
    """The curves of one method as (n, points)."""
    rows = curves[(curves["order"] == order) & (curves["method"] == method) & (curves["removal"] == removal)]
    return rows[rows["seed"] == seed].pivot(index="image", columns="share", values="p").to_numpy()


def run(vit, images, maps, removal="drop", **options):
    maps = maps if isinstance(maps, dict) else {"a": maps}
    return evaluate(vit, images, maps, removal, progress=False, **options)


@pytest.fixture(scope="module")
def vit():
    return shared("vit")  # 4 × 4 patches, ten classes


@pytest.fixture(scope="module")
def images(vit):
    return some_images(vit, 5)


# A model whose curves are known: two classes, and a logit that is the mean of one number a patch


def linear_vit(classes=2):
    """No attention, no layer norm, average pooling: logit = mean over the patches left of what each patch says."""
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, embed_dim=16, depth=1, num_heads=2, num_classes=classes, class_token=False,
        global_pool="avg", fc_norm=False,
    ).eval()  # fmt: skip
    vit.norm = nn.Identity()
    with torch.no_grad():
        for block in vit.blocks:
            for last in (block.attn.proj, block.mlp.fc2):
                last.weight.zero_(), last.bias.zero_()
        vit.head.weight.normal_(0, 3, generator=torch.Generator().manual_seed(0))
        vit.pos_embed.zero_()
    return vit


@torch.no_grad()
def says(vit, images):
    """What each patch says for the class that is predicted, (n, N), and what a mean patch says, (n,)."""
    grey = vit.patch_embed(torch.zeros_like(images[:1]))[0, 0]
    states = vit.patch_embed(images)  # (n, N, D)
    direction = vit.head.weight[1] - vit.head.weight[0]
    bias = vit.head.bias[1] - vit.head.bias[0]
    sign = torch.where(vit(images).argmax(1) == 1, 1.0, -1.0)[:, None]
    return (states @ direction + bias) * sign, (grey @ direction + bias) * sign[:, 0]


def test_linear_model_curves_are_the_analytic_ones():
    vit = linear_vit()
    images = some_images(vit, 6)
    patches, grey = says(vit, images)
    found = run(vit, images, patches.view(-1, 3, 3), ("drop", "mean"))
    for order in ("morf", "lerf"):
        ordered = patches.sort(1, descending=order == "morf").values
        left = [ordered[:, c:] for c in range(10)]  # those still there with c patches gone
        drop = torch.stack([torch.sigmoid(kept.mean(1)) if kept.shape[1] else torch.full((6,), 0.5) for kept in left], 1)
        mean = torch.stack([torch.sigmoid((kept.sum(1) + (9 - kept.shape[1]) * grey) / 9) for kept in left], 1)
        np.testing.assert_allclose(curve(found.curves, order), drop, atol=1e-5)
        np.testing.assert_allclose(curve(found.curves, order, removal="mean"), mean, atol=1e-5)
        wanted = torch.trapezoid(drop, dx=1 / 9, dim=1)
        np.testing.assert_allclose(score(found.scores, order), wanted, atol=1e-5)


def test_linear_model_true_ranking_beats_every_other():
    vit = linear_vit()
    images = some_images(vit, 3)
    truth = says(vit, images)[0].view(-1, 3, 3)
    others = torch.stack([some_maps(vit, 3, seed) for seed in range(60)])
    found = run(vit, images, {"true": truth, "other": others}).scores
    for metric, better in {"morf": np.less, "lerf": np.greater, "srg": np.greater}.items():
        true = score(found, metric, "true")
        for seed in range(60):
            assert better(true, score(found, metric, "other", seed=seed)).all(), (metric, seed)


def test_constant_model_has_no_gap_and_flat_curves():
    vit = linear_vit()
    with torch.no_grad():
        vit.head.weight.zero_(), vit.head.bias.copy_(torch.tensor([0.0, 1.0]))
    images = some_images(vit, 4)
    found = run(vit, images, some_maps(vit, 4), ("mean", "noise"))
    wanted = torch.tensor(1.0).sigmoid().item()
    assert np.allclose(found.curves["p"], wanted)
    for removal in ("mean", "noise"):
        assert (score(found.scores, "srg", removal=removal) == 0).all()
        np.testing.assert_allclose(score(found.scores, "morf", removal=removal), wanted)
        np.testing.assert_allclose(score(found.scores, "sufficiency@10%", removal=removal), 0, atol=1e-6)


# Against a slow loop per image and step


def slow_order(relevance, tie, order):
    """Patches in the order of their removal, by Python's own sort: (relevance, place among ties)."""
    place = {patch: i for i, patch in enumerate(tie.tolist())}
    sign = -1 if order == "morf" else 1
    return sorted(range(len(relevance)), key=lambda patch: (sign * relevance[patch].item(), place[patch]))


def slow(vit, images, maps, how, counts, ties):
    """p of the predicted class (2, n, C) and the two KLs at four patches, one forward pass for each image, step and order."""
    body = see.anatomy(vit)
    p, kl = torch.zeros(2, len(images), len(counts)), torch.zeros(2, len(images))
    for i, image in enumerate(images):
        with torch.no_grad():
            whole = vit(image[None])
        for j, order in enumerate(("morf", "lerf")):
            for tie in ties[:, i]:
                order_of = slow_order(maps[i].flatten(), tie, order)

                def look(count, order_of=order_of, image=image):
                    keep = torch.ones(1, body.patches, dtype=torch.bool)
                    keep[0, order_of[:count]] = False
                    generator = faithfulness.curves.stream(0, "noise")
                    with torch.no_grad():
                        return see.predict(vit, image[None], keep.view(1, *body.grid), how, generator)

                for k, count in enumerate(counts):
                    p[j, i, k] += look(count).softmax(1)[0, whole.argmax()] / len(ties)
                count = 4 if order == "morf" else body.patches - 4
                kl[j, i] += kl_divergence(whole, look(count))[0] / len(ties)
    return p, kl


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("tied", [False, True], ids=["no ties", "ties"])
def test_equal_to_a_slow_loop(vit, images, removal, tied):
    images, explainer = images[:3], DiffMask(vit, "learned")
    with torch.no_grad():
        explainer.placeholder.normal_(generator=torch.Generator().manual_seed(3))
    maps = some_maps(vit, 3)
    maps = (4 * maps).round() if tied else maps
    counts, draws = [0, 4, 8, 12, 16], 2 if tied else 1
    found = run(vit, images, maps, removal, explainer=explainer, steps=4, shares=(0.25,), orders=draws, batch=7)
    how = explainer.placeholder if removal == "placeholder" else removal
    p, kl = slow(vit, images, maps, how, counts, tie_orders(3, 16, draws))
    for j, order in enumerate(("morf", "lerf")):
        np.testing.assert_allclose(curve(found.curves, order, removal=removal), p[j], atol=2e-6)
        area = torch.trapezoid(p[j], dx=1 / 4)
        np.testing.assert_allclose(score(found.scores, order, removal=removal), area, atol=2e-6)
    np.testing.assert_allclose(score(found.scores, "comprehensiveness@25%", removal=removal), kl[0], atol=1e-5)
    np.testing.assert_allclose(score(found.scores, "sufficiency@25%", removal=removal), kl[1], atol=1e-5)


def test_agreement_is_that_of_the_best_alone(vit, images):
    maps = some_maps(vit, len(images))
    found = run(vit, images, maps, "drop", shares=(0.2,)).scores
    alone = see.predict(vit, images, best(maps, 3), "drop").argmax(1)  # 0.2 · 16 is 3 patches
    np.testing.assert_array_equal(score(found, "agreement@20%"), (alone == vit(images).argmax(1)).numpy())
    assert 0 < score(found, "agreement@20%").mean() < 1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_evaluated(family):
    model = shared(family)
    found = run(model, some_images(model, 2), some_maps(model, 2), ("drop", "mean") if family != "one_channel" else "mean",
                steps=2, shares=(0.5,))  # fmt: skip
    assert np.isfinite(found.scores["value"]).all() and np.isfinite(found.curves["p"]).all()


# What must hold of every map and model


@pytest.mark.parametrize("tied", [False, True])
def test_a_map_and_its_negative_mirror_each_other_exactly(vit, images, tied):
    maps = some_maps(vit, len(images))
    maps = (2 * maps).round() if tied else maps
    a, b = run(vit, images, maps), run(vit, images, -maps)
    assert (score(a.scores, "srg") == -score(b.scores, "srg")).all()
    assert (curve(a.curves, "morf") == curve(b.curves, "lerf")).all()
    assert score(a.scores, "srg").std() > 0


def test_reversing_one_order_to_get_the_other_would_not_mirror():
    """The wrong rule that `removal_order` warns of: with ties, the negative's order is another."""
    maps, ties = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([[2, 3, 0, 1]])
    assert removal_order(maps, ties).tolist() == [[2, 0, 3, 1]]
    assert removal_order(maps, ties, lerf=True).tolist() == [[3, 1, 2, 0]]
    assert torch.equal(removal_order(-maps, ties), removal_order(maps, ties, lerf=True))
    assert not torch.equal(removal_order(-maps, ties), removal_order(maps, ties).flip(1))


def test_curves_share_end_points_and_start_at_the_prediction(vit, images):
    maps = {"a": some_maps(vit, 5), "b": some_maps(vit, 5, 1)}
    found = run(vit, images, maps, ("drop", "mean"), steps=3)
    p = vit(images).double().softmax(1).amax(1).detach().numpy()
    for removal in ("drop", "mean"):
        ends = [curve(found.curves, order, name, removal)[:, [0, -1]] for order in ("morf", "lerf") for name in "ab"]
        for end in ends:
            assert (end == ends[0]).all()
            np.testing.assert_allclose(end[:, 0], p, rtol=0, atol=1e-7)
    shares = sorted(found.curves["share"].unique())
    assert shares == [0, 5 / 16, 11 / 16, 1]


def test_with_nothing_left_to_pool_the_end_point_is_uniform():
    model = shared("average_pooling")
    found = run(model, some_images(model), some_maps(model, 3), "drop")
    np.testing.assert_allclose(curve(found.curves, "morf")[:, -1], 0.1)


def test_small_grids_are_walked_patch_by_patch(vit, images):
    assert curve(run(vit, images, some_maps(vit, 5), steps=100).curves, "morf").shape == (5, 17)
    assert curve(run(vit, images, some_maps(vit, 5), steps=4).curves, "morf").shape == (5, 5)


def test_a_constant_map_is_no_better_than_chance_and_ties_are_shared(vit, images):
    found = run(vit, images, {"zero": torch.zeros(5, 4, 4), "one": torch.ones(5, 4, 4)}).scores
    assert (score(found, "srg", "zero") == 0).all()  # MoRF and LeRF take the very same orders
    assert (score(found, "morf", "zero") == score(found, "morf", "one")).all()


def test_ties_are_averaged_over_the_orders_asked_for(vit, images):
    flat = torch.zeros(5, 4, 4)
    by_hand = []
    for tie in tie_orders(5, 16, 5):
        relevance = torch.empty(5, 16).scatter_(1, tie, torch.arange(16.0).flip(0).expand(5, -1))
        by_hand.append(score(run(vit, images, relevance.view(5, 4, 4)).scores, "morf"))
    np.testing.assert_allclose(score(run(vit, images, flat).scores, "morf"), np.mean(by_hand, 0), atol=1e-7)
    assert np.ptp(by_hand, axis=0).max() > 1e-3  # the orders do differ


def test_only_the_order_of_values_counts(vit, images):
    maps = some_maps(vit, 5)
    same = run(vit, images, {"a": maps, "b": maps.exp() * 7 - 3}).scores
    assert (score(same, "srg") == score(same, "srg", "b")).all()


def test_neither_batch_nor_company_changes_a_score(vit, images):
    maps = some_maps(vit, 5)
    alone = run(vit, images, maps).scores
    company = run(vit, images, {"b": some_maps(vit, 5, 1), "a": maps}, ("mean", "drop"), batch=3).scores
    for metric in ("morf", "lerf", "srg", "sufficiency@10%"):
        np.testing.assert_allclose(score(alone, metric), score(company, metric), atol=1e-6)


def test_logits_at_hand_save_a_pass_over_whole_images(vit, images, monkeypatch):
    maps, keep = {"a": some_maps(vit, 5)}, {"a": some_maps(vit, 5) > 0.5}
    wanted = run(vit, images, maps).scores, mask_scores(vit, images, keep)
    logits, real = see.predict(vit, images), see.predict

    def watched(model, some, keep=None, *args):
        assert keep is not None, "the whole images were asked about again"
        return real(model, some, keep, *args)

    monkeypatch.setattr(see, "predict", watched)
    pd.testing.assert_frame_equal(run(vit, images, maps, logits=logits).scores, wanted[0])
    pd.testing.assert_frame_equal(mask_scores(vit, images, keep, logits=logits), wanted[1])
    for call in (
        lambda: run(vit, images, maps, logits=logits[:4]),
        lambda: mask_scores(vit, images, keep, logits=logits[:, :9]),
    ):
        with pytest.raises(ValueError, match="logits have shape") as error:
            call()
        assert_one_sentence(error.value)


def test_seeds_of_a_method_are_rows_of_their_own(vit, images):
    maps = some_maps(vit, 5, seeds=3)
    found = run(vit, images, {"random": maps}).scores
    assert found.columns.tolist() == ["method", "seed", "removal", "image", "metric", "value"]
    for seed in range(3):
        one = run(vit, images, maps[seed]).scores
        np.testing.assert_allclose(score(found, "srg", "random", seed=seed), score(one, "srg"), atol=1e-6)


def test_no_image_is_asked_twice_about_the_same_patches(vit, images, monkeypatch):
    asked = []
    real = see.predict

    def counted(model, some, keep=None, *args):
        asked.append((len(some), None if keep is None else int(keep[0].sum())))
        return real(model, some, keep, *args)

    monkeypatch.setattr(see, "predict", counted)
    maps = some_maps(vit, 5)
    run(vit, images, {"a": maps, "again": maps, "negative": -maps}, shares=())
    assert sum(n for n, kept in asked if kept is None) == 5
    assert sum(n for n, kept in asked if kept == 0) == 5
    assert sum(n for n, kept in asked if kept == 12) == 10  # MoRF and LeRF, not six orders
    assert all(kept != 16 for _, kept in asked)  # the whole image is known already


def test_the_vit_is_left_as_it_was(images):
    vit = build("vit").train()
    before = copy.deepcopy(vit.state_dict())
    run(vit, images, some_maps(vit, 5), ("drop", "mean"))
    assert vit.training and all(weight.requires_grad for weight in vit.parameters())
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


def test_progress_goes_to_stdout_and_can_be_turned_off(vit, images, capsys):
    evaluate(vit, images, {"a": some_maps(vit, 5)}, steps=2)
    shown = capsys.readouterr()
    assert "removal" in shown.out and not shown.err
    run(vit, images, some_maps(vit, 5), steps=2)
    assert capsys.readouterr().out == ""


# Input that does not fit


def nan_at_2(maps):
    maps[2, 0, 0] = float("nan")
    return maps


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda m: {"maps": {"rollout": m[:, :3]}}, ['"rollout"', "(5, 3, 4)", "(5, 4, 4)"]),
        (lambda m: {"maps": {"rollout": m[:4]}}, ['"rollout"', "5 images"]),
        (lambda m: {"maps": {"rollout": m.flatten(1)}}, ['"rollout"', "(5, 16)"]),
        (lambda m: {"maps": {"ok": m.clone(), "LeGrad": nan_at_2(m)}}, ['"LeGrad"', "NaN", "[2]"]),
        (lambda m: {"maps": {}}, ["at least one"]),
        (lambda m: {"maps": m}, ["dictionary"]),
        (lambda m: {"removal": "blur"}, ["'blur'", "'drop'", "'placeholder'"]),
        (lambda m: {"removal": ("drop", "placeholder")}, ["explainer="]),
        (lambda m: {"removal": ()}, ["at least one removal"]),
        (lambda m: {"removal": "placeholder", "explainer": DiffMask(build("vit"))}, ["another ViT"]),
        (lambda m: {"steps": 0}, ["steps"]),
        (lambda m: {"shares": (0.1, 1.0)}, ["shares"]),
    ],
)
def test_bad_input_gets_one_sentence(vit, images, change, names):
    options = {"maps": {"a": some_maps(vit, 5)}, "progress": False} | change(some_maps(vit, 5))
    with pytest.raises(ValueError) as caught:
        evaluate(vit, images, **options)
    message = assert_one_sentence(caught.value)
    assert all(name in message for name in names), message


# Hard masks


def test_mask_scores_are_those_of_verify(vit, images):
    explainer = DiffMask(vit)
    keep = some_maps(vit, 5) > torch.linspace(0.1, 0.9, 5)[:, None, None]  # sets of different size
    found = mask_scores(vit, images, {"a": keep}, REMOVALS, explainer=explainer, batch=3)
    for removal in ("drop", "mean", "placeholder"):
        how = None if removal == "placeholder" else removal
        check, without = explainer.verify(images, keep, removal=how), explainer.verify(images, ~keep, removal=how)
        np.testing.assert_allclose(score(found, "sufficiency", removal=removal), check.kl, atol=1e-5)
        np.testing.assert_allclose(score(found, "comprehensiveness", removal=removal), without.kl, atol=1e-5)
        np.testing.assert_array_equal(score(found, "agreement", removal=removal), check.agree)
        np.testing.assert_allclose(score(found, "kept", removal=removal), check.kept)
    with pytest.raises(ValueError, match="must be bool"):
        mask_scores(vit, images, {"a": keep.float()})


def test_masks_of_all_and_of_nothing(vit, images):
    full = torch.ones(5, 4, 4, dtype=torch.bool)
    found = mask_scores(vit, images, {"all": full, "nothing": ~full})
    assert (score(found, "sufficiency", "all") == 0).all() and (score(found, "agreement", "all") == 1).all()
    assert (score(found, "sufficiency", "nothing") == score(found, "comprehensiveness", "all")).all()
    assert (score(found, "sufficiency", "nothing") > 0.01).all()


def test_a_hard_mask_and_the_best_patches_of_its_map_agree(vit, images):
    maps = some_maps(vit, 5)
    curves = run(vit, images, maps, shares=(0.25,)).scores
    hard = mask_scores(vit, images, {"a": best(maps, 4)})
    for metric in ("sufficiency", "comprehensiveness", "agreement"):
        np.testing.assert_allclose(score(hard, metric), score(curves, f"{metric}@25%"), atol=1e-6)


# Ranks and ground truth


def test_best_keeps_exactly_so_many():
    maps = torch.tensor([[[3.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert best(maps, 2)[0].tolist() == [[True, False], [True, False]]
    for count in range(5):
        assert best(maps, count).flatten(1).sum(1).tolist() == [count, count]
    assert best(maps, torch.tensor([1, 3])).flatten(1).sum(1).tolist() == [1, 3]


def test_ranks_count_those_gone_before():
    maps, ties = torch.tensor([[0.1, 0.9, 0.4]]), torch.tensor([[0, 1, 2]])
    assert removal_ranks(maps, ties).tolist() == [[2, 0, 1]]
    assert removal_ranks(maps, ties, lerf=True).tolist() == [[0, 2, 1]]


def test_midranks_and_spearman_are_scipys():
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 5, (20, 16), generator=draw).float() for _ in range(2))
    np.testing.assert_allclose(midranks(a), scipy.stats.rankdata(a, axis=1))
    wanted = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman(a, b), wanted, atol=1e-12)
    assert spearman(a, torch.zeros_like(a)).tolist() == [0] * 20


def slow_auroc(values, truth):
    wins = [float(p > q) + 0.5 * float(p == q) for p in values[truth] for q in values[~truth]]
    return np.mean(wins) if wins else np.nan


@pytest.mark.parametrize("tied", [False, True])
def test_auroc_is_the_share_of_pairs_won(tied):
    draw = torch.Generator().manual_seed(1)
    maps, truth = torch.rand(6, 3, 3, generator=draw), torch.rand(6, 3, 3, generator=draw) > 0.6
    truth[0], truth[1] = False, True
    maps = (3 * maps).round() if tied else maps
    assert pooled_auroc(maps, truth) == pytest.approx(slow_auroc(maps, truth))
    u = scipy.stats.mannwhitneyu(maps[truth], maps[~truth]).statistic / (truth.sum() * (~truth).sum())
    assert pooled_auroc(maps, truth) == pytest.approx(u.item())
    wanted = [slow_auroc(m, t) for m, t in zip(maps, truth, strict=True)]
    np.testing.assert_allclose(image_auroc(maps, truth), wanted)
    assert np.isnan(wanted[:2]).all()
    assert pooled_auroc(truth.float(), truth) == 1 and pooled_auroc(-truth.float(), truth) == 0
    assert pooled_auroc(torch.zeros(6, 3, 3), truth) == 0.5


def test_pooled_iou_counts_images_with_nothing_to_find():
    truth = torch.zeros(2, 2, 2, dtype=torch.bool)
    truth[0, 0, 0] = True
    keep = truth.clone()
    assert pooled_iou(keep, truth) == 1
    keep[1, 0, 0] = True  # a patch kept where there is nothing; a mean of per-image IoUs over images with truth would miss it
    assert pooled_iou(keep, truth) == 0.5
    assert pooled_iou(~truth & truth, truth & ~truth) == 1
    with pytest.raises(ValueError, match="truth has"):
        pooled_iou(keep[:1], truth)


def some_truth(n=40):
    draw = torch.Generator().manual_seed(2)
    truth = torch.rand(n, 3, 3, generator=draw) < torch.rand(n, 1, 1, generator=draw)
    noisy = (4 * (truth + 0.8 * torch.randn(2, n, 3, 3, generator=draw))).round() / 4  # two seeds, with ties
    return truth, noisy


def test_truth_scores_are_the_pooled_metrics():
    truth, noisy = some_truth()
    table = truth_scores({"noisy": noisy, "hard": noisy[0] > 0.5}, truth, draws=50).set_index(["method", "metric"])
    found = table["mean"]
    assert found["noisy", "auroc"] == pytest.approx(np.mean([pooled_auroc(m, truth) for m in noisy]))
    assert found["noisy", "auroc in image"] == pytest.approx(np.mean([image_auroc(m, truth).nanmean() for m in noisy]))
    chosen = [pooled_iou(best(m, truth.flatten(1).sum(1)), truth) for m in noisy]
    assert found["noisy", "iou of best"] == pytest.approx(np.mean(chosen))
    assert found["hard", "iou"] == pytest.approx(pooled_iou(noisy[0] > 0.5, truth))
    assert found["hard", "kept"] == pytest.approx((noisy[0] > 0.5).float().mean().item())
    assert found["hard", "truth kept"] == pytest.approx(truth.float().mean().item())
    assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()


def test_truth_intervals_are_those_of_images_drawn_again():
    truth, noisy = some_truth()
    maps, hard = noisy[0], noisy[0] > 0.5
    table = truth_scores({"maps": maps, "hard": hard}, truth, draws=60, seed=4).set_index(["method", "metric"])
    metrics = {
        ("maps", "auroc"): lambda rows: pooled_auroc(maps[rows], truth[rows]),
        ("maps", "auroc in image"): lambda rows: image_auroc(maps[rows], truth[rows]).nanmean().item(),
        ("hard", "iou"): lambda rows: pooled_iou(hard[rows], truth[rows]),
    }
    times = (image_weights(40, 60, seed=4) * 40).round().astype(int)
    for key, metric in metrics.items():
        again = [metric(torch.arange(40).repeat_interleave(torch.tensor(count))) for count in times]
        low, high = np.quantile(again, [0.025, 0.975])
        assert (table.loc[key, "low"], table.loc[key, "high"]) == pytest.approx((low, high), abs=1e-9), key


def test_truth_differences_are_paired():
    truth, noisy = some_truth()
    maps = {"a": noisy[0], "better": noisy[0] + 0.5 * truth, "same": noisy[0].clone()}
    found = truth_differences(maps, truth, draws=100).set_index(["a", "b"])
    assert found.loc[("a", "better"), "mean"] == pytest.approx(
        pooled_auroc(maps["a"], truth) - pooled_auroc(maps["better"], truth)
    )
    assert found.loc[("a", "better"), "differs"] and found.loc[("a", "better"), "high"] < 0
    assert found.loc[("a", "same"), ["mean", "low", "high"]].tolist() == [0, 0, 0] and not found.loc[("a", "same"), "differs"]
    with pytest.raises(ValueError, match="bool tensor"):
        truth_scores(maps, truth.float())


# Statistics


def table_of(values, metric="srg"):
    """A long table from name -> (n,) or (S, n)."""
    frames = []
    for name, value in values.items():
        value = np.atleast_2d(value)
        rows = {"method": name, "seed": np.repeat(range(len(value)), value.shape[1]), "removal": "drop"}
        rows |= {"image": np.tile(range(value.shape[1]), len(value)), "metric": metric, "value": value.ravel()}
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def test_image_weights_are_a_bootstrap():
    weights = image_weights(30, 4000, seed=1)
    np.testing.assert_allclose(weights.sum(1), 1)
    counts = weights * 30
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.1)
    np.testing.assert_allclose(counts.var(0), 29 / 30, atol=0.15)
    assert np.array_equal(weights, image_weights(30, 4000, seed=1)) and not np.array_equal(
        weights, image_weights(30, 4000, seed=2)
    )


def test_interval_of_a_mean_is_that_of_the_normal_theory():
    values = np.random.default_rng(0).normal(3, 1, 400)
    row = intervals(table_of({"a": values})).iloc[0]
    half = 1.96 * values.std() / 20
    assert row["mean"] == pytest.approx(values.mean())
    assert (row["low"], row["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)
    narrow = intervals(table_of({"a": values}), level=0.5).iloc[0]
    assert narrow["high"] - narrow["low"] == pytest.approx(2 * 0.674 * values.std() / 20, rel=0.1)


def test_differences_are_paired_over_images():
    """Images differ far more than the methods do: paired, the difference shows; unpaired intervals would overlap."""
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1, 200)
    scores = table_of({"a": hard + 0.05, "b": hard + rng.normal(0, 0.02, 200), "c": hard + rng.normal(0, 1, 200)})
    found = compare(scores, "a", "b")
    assert found.differs and found.high - found.low < 0.01 and found.mean == pytest.approx(0.05, abs=0.01)
    apart = intervals(scores).set_index("method")
    assert apart.loc["a", "low"] < apart.loc["b", "high"]
    back = compare(scores, "b", "a")
    assert back == pytest.approx((-found.mean, -found.high, -found.low))
    pairs = differences(scores).set_index(["a", "b"])
    assert pairs.index.tolist() == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs.loc[("a", "b"), "differs"] and not pairs.loc[("b", "c"), "differs"]
    assert pairs.loc[("a", "b"), "low"] == found.low


def test_seeds_are_resampled_too():
    """Two hundred images of a method whose seeds differ: images alone would give an interval far too narrow."""
    rng = np.random.default_rng(2)
    seeds = rng.normal(0, 1, 8)[:, None] + rng.normal(0, 0.1, (8, 200))
    row = intervals(table_of({"a": seeds})).iloc[0]
    half = 1.96 * seeds.mean(1).std() / 8**0.5
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half, rel=0.1)
    merged = intervals(table_of({"a": seeds.mean(0)})).iloc[0]  # the wrong way
    assert merged["high"] - merged["low"] < (row["high"] - row["low"]) / 10


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        row = intervals(table_of({"a": rng.normal(0, 1, 100)}), draws=200).iloc[0]
        hits += row["low"] < 0 < row["high"]
    assert 0.88 <= hits / 100 <= 0.99


def test_summary_is_ready_to_print():
    scores = pd.concat([table_of({"b": [1.0, 2.0], "a": [0.0, 1.0]}, metric) for metric in ("morf", "srg", "sufficiency@10%")])
    table = summary(scores)
    assert table.columns.tolist() == ["morf ↓", "srg ↑", "sufficiency@10% ↓"]
    assert table.index.tolist() == [("drop", "b"), ("drop", "a")]  # the order of the scores, not of the alphabet
    assert table.loc[("drop", "b"), "srg ↑"] == "1.500 [1.000, 2.000]"
    assert summary(scores, ["srg"]).columns.tolist() == ["srg ↑"]
    truth, noisy = some_truth()
    table = summary(truth_scores({"noisy": noisy, "hard": noisy[0] > 0}, truth, draws=20), ["auroc", "iou", "truth kept"])
    assert table.columns.tolist() == ["auroc ↑", "iou ↑", "truth kept"] and table.index.tolist() == ["noisy", "hard"]
    assert table.loc["noisy", "iou ↑"] == "–" and table.loc["hard", "auroc ↑"] == "–"  # maps have no threshold, masks no order


def test_statistics_name_what_is_missing():
    scores = table_of({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError) as caught:
        compare(scores, "a", "rollout")
    message = assert_one_sentence(caught.value)
    assert '"rollout"' in message and "a, b" in message and "srg" in message
    with pytest.raises(ValueError, match="same images"):
        compare(pd.concat([scores, table_of({"c": [1.0, 2.0, 3.0]})]), "a", "c")
    with pytest.raises(ValueError, match="lacks"):
        compare(pd.concat([scores, table_of({"c": [[1.0, 2.0], [3.0, np.nan]]})]), "a", "c")
    with pytest.raises(ValueError, match="between 0 and 1"):
        compare(scores, "a", "b", level=95)


def test_removal_agreement_compares_rankings():
    means = {"drop": (1.0, 2.0, 3.0), "mean": (10.0, 20.0, 90.0), "noise": (3.0, 2.0, 1.0)}
    tables = [table_of({m: [v, v] for m, v in zip("abc", group, strict=True)}).assign(removal=r) for r, group in means.items()]
    found = removal_agreement(pd.concat(tables))
    assert found.index.tolist() == ["drop", "mean", "noise"]
    assert found.loc["drop", "mean"] == 1 and found.loc["drop", "noise"] == -1


# Probes


def leaking(n=300, classes=4, seed=0):
    """Masks that keep a row of patches by class, and labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=draw)
    masks = torch.zeros(n, 4, 4, dtype=torch.bool)
    masks[torch.arange(n), labels] = True
    return masks, labels


def test_label_leak_finds_masks_that_spell_the_class():
    masks, labels = leaking()
    found = label_leak(masks, labels)
    assert found.columns.tolist() == ["mean", "low", "high"]
    assert found.loc["mask", "mean"] == 1
    assert found.loc["random mask of equal size", "mean"] < 0.4  # all have four patches, so size says nothing
    assert found.loc["majority class", "mean"] == pytest.approx(labels.bincount().max() / 300)
    difference = found.loc["mask", "mean"] - found.loc["random mask of equal size", "mean"]
    assert found.loc["mask − random", "mean"] == pytest.approx(difference) and found.loc["mask − random", "low"] > 0.5


def test_label_leak_finds_nothing_in_masks_of_chance():
    masks, labels = leaking()
    masks = masks[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    found = label_leak(masks, labels)  # a classifier scored on its own training masks would beat chance here
    assert found.loc["mask", "mean"] < 0.35 and found.loc["mask − random", "low"] < 0 < found.loc["mask − random", "high"]


def test_label_leak_random_mask_keeps_the_size():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (300,), generator=draw)
    masks = best(torch.rand(300, 4, 4, generator=draw), torch.where(labels == 0, 4, 12))
    found = label_leak(masks, labels)  # size alone tells the class, of both alike
    assert found.loc["mask", "mean"] > 0.99 and found.loc["random mask of equal size", "mean"] > 0.99
    assert torch.equal(torch.tensor(label_leak(masks, labels).to_numpy()), torch.tensor(found.to_numpy()))  # seeded


def test_label_leak_classifier_is_at_its_optimum():
    draw = torch.Generator().manual_seed(0)
    train, labels = torch.rand(80, 5, generator=draw), torch.randint(0, 3, (80,), generator=draw)
    x = ((train - train.mean(0)) / train.std(0)).double().numpy()
    hot = np.eye(3)[labels]

    def loss(flat):
        weight, bias = flat[:15].reshape(5, 3), flat[15:]
        logits = x @ weight + bias
        return (scipy.special.logsumexp(logits, axis=1) - (logits * hot).sum(1)).sum() + (weight**2).sum() / 2

    solution = scipy.optimize.minimize(loss, np.zeros(18)).x
    wanted = (x @ solution[:15].reshape(5, 3) + solution[15:]).argmax(1)
    got = faithfulness.probes._classify(train, labels, train, 3)
    assert (got.numpy() == wanted).mean() > 0.98


def test_label_leak_refuses_what_does_not_fit():
    masks, labels = leaking(20)
    for wrong in ((masks, labels[:5]), (masks.flatten(1), labels), (masks[:3], labels[:3])):
        with pytest.raises(ValueError) as caught:
            label_leak(*wrong)
        assert_one_sentence(caught.value)


def test_weight_randomisation_tells_methods_that_see_the_weights(images):
    vit = build("vit")
    before = copy.deepcopy(vit.state_dict())
    target = vit(images).argmax(1)

    def saliency(model):
        with torch.enable_grad():
            some = images.clone().requires_grad_()
            model(some).gather(1, target[:, None]).sum().backward()
        return torch.nn.functional.avg_pool2d((some.grad * images).sum(1), 16)

    def edges(_model):  # sees the image alone
        return torch.nn.functional.avg_pool2d(images.square().sum(1), 16)

    blind = weight_randomisation(vit, edges, progress=False)
    assert blind["stage"].unique().tolist() == ["trained", "head", "block 3", "block 2", "block 1", "embedding"]
    assert (blind["value"] == 1).all()
    seeing = weight_randomisation(vit, saliency, progress=False).groupby("stage", sort=False)["value"].mean()
    assert seeing["trained"] == 1 and (seeing.iloc[1:].abs() < 0.6).all()
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_randomisation_goes_from_the_head_to_the_embedding(family):
    """At each stage the logits change, and what lies below the stage is still as it was."""
    model, logits, states = shared(family), [], []
    images = some_images(model, 2)
    grid = see.anatomy(model).grid

    def record(fresh):
        logits.append(fresh(images).detach())
        states.append([state.clone() for state in see.hidden_states(fresh, images)])
        return torch.zeros(2, *grid)

    with torch.no_grad():
        weight_randomisation(model, record, progress=False)
    for before, after in itertools.pairwise(logits):
        assert not torch.allclose(before, after, atol=1e-4)
    depth = 3
    for stage in range(1, depth + 2):  # head, block 3, …: h_0 … h_i, i blocks from the end, are untouched
        untouched = depth + 2 - stage
        for i in range(untouched + 1 if stage == 1 else untouched):
            assert torch.equal(states[stage][i], states[0][i]), (stage, i)
    assert not torch.allclose(states[-1][0], states[0][0], atol=1e-4)
    named = [name for _, group in faithfulness.probes._cascade(model) for name, _ in group]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())


def test_weight_randomisation_refuses_maps_that_do_not_fit(vit):
    with pytest.raises(ValueError) as caught:
        weight_randomisation(vit, lambda model: torch.zeros(2, 3, 3), progress=False)
    assert "trained" in assert_one_sentence(caught.value)
