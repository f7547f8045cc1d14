"""The metrics are themselves tested: against analytic cases, slow loops over images and steps, and scipy; wrong ones fail."""

import itertools
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from diffmask_lite import RANKED, DiffMask
from diffmask_lite.attribution import METHODS
from diffmask_lite.diffmask import kl_divergence
from diffmask_lite.faithfulness import curves, hard_mask_scores, luck, mask_scores, twins
from diffmask_lite.faithfulness.curves import NAMED_REMOVALS, ask, evaluate
from diffmask_lite.faithfulness.probes import _cascade, _classify, label_leak, weight_randomisation
from diffmask_lite.faithfulness.ranking import best, midranks, removal_order, removal_ranks, spearman, tie_orders
from diffmask_lite.faithfulness.statistics import compare, differences, image_weights, intervals, removal_agreement, summary
from diffmask_lite.faithfulness.truth import image_auroc, pooled_auroc, pooled_iou, truth_differences, truth_scores
from diffmask_lite.vit import anatomy, hidden_states, predict
from diffmask_lite.vit.randomness import stream
from families import FAMILIES, REPRESENTATIVES, assert_one_sentence, build, left_as_it_was, odd, shared, some_images
from linear import linear_vit, says


def some_maps(vit, *n, seed=0):
    return torch.rand(*n, *anatomy(vit).grid, generator=torch.Generator().manual_seed(seed))


def score(scores, metric, method="a", removal="drop", seed=0):
    """The per-image values of one method, (n,)."""
    rows = scores[(scores["metric"] == metric) & (scores["method"] == method) & (scores["removal"] == removal)]
    return rows[rows["seed"] == seed].sort_values("image")["value"].to_numpy()


def curve(table, order, method="a", removal="drop", seed=0):
    """The curves of one method as (n, points)."""
    rows = table[(table["order"] == order) & (table["method"] == method) & (table["removal"] == removal)]
    return rows[rows["seed"] == seed].pivot(index="image", columns="share", values="p").to_numpy()


def run(vit, images, maps, removal="drop", **options):
    maps = maps if isinstance(maps, dict) else {"a": maps}
    return evaluate(vit, images, maps, removal, progress=False, **options)


def watch(monkeypatch):
    """Every question to the ViT from here on: the images asked about and the patches left of them, or None for all."""
    asked, right = [], curves.predict_unchecked

    def watched(model, some, keep=None, *rest):
        asked.append((some, keep))
        return right(model, some, keep, *rest)

    monkeypatch.setattr(curves, "predict_unchecked", watched)
    return asked


@pytest.fixture(scope="module")
def vit():
    return shared("vit")  # 4 × 4 patches, ten classes


@pytest.fixture(scope="module")
def images(vit):
    return some_images(vit, 5)


# A model whose curves are known


def test_linear_model_curves_are_the_analytic_ones():
    vit = linear_vit()
    images = some_images(vit, 6)
    patches, grey = says(vit, images)
    with torch.no_grad():
        sign = 1 - 2 * vit(images).argmax(1)[:, None]  # for the class that is predicted
    patches, grey = patches.flatten(1) * sign, grey * sign[:, 0]
    found = run(vit, images, patches.view(-1, 4, 4), ("drop", "mean"))
    for order in ("morf", "lerf"):
        ordered = patches.sort(1, descending=order == "morf").values
        left = [ordered[:, c:] for c in range(17)]  # those still there with c patches gone; p is that of two logits ±y
        drop = torch.stack([torch.sigmoid(2 * kept.mean(1)) if kept.shape[1] else torch.full((6,), 0.5) for kept in left], 1)
        mean = torch.stack([torch.sigmoid((kept.sum(1) + (16 - kept.shape[1]) * grey) / 8) for kept in left], 1)
        np.testing.assert_allclose(curve(found.curves, order), drop, atol=1e-5)
        np.testing.assert_allclose(curve(found.curves, order, removal="mean"), mean, atol=1e-5)
        np.testing.assert_allclose(score(found.scores, order), torch.trapezoid(drop, dx=1 / 16, dim=1), atol=1e-5)

    others = torch.stack([some_maps(vit, 6, seed=seed) for seed in range(20)])
    scores = run(vit, images, {"true": patches.view(-1, 4, 4), "other": others}).scores  # the true ranking beats every other
    for metric, better in {"morf": np.less, "lerf": np.greater, "srg": np.greater}.items():
        for seed in range(20):
            assert better(score(scores, metric, "true"), score(scores, metric, "other", seed=seed)).all(), (metric, seed)


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


@torch.no_grad()
def slow(vit, images, maps, how, counts, ties):
    """Of the predicted class p (2, n, C), and KL and agreement (2, n) at four patches, one forward for each step and order."""
    patches, grid = anatomy(vit).patches, anatomy(vit).grid
    p, kl, agree = torch.zeros(2, len(images), len(counts)), torch.zeros(2, len(images)), torch.zeros(2, len(images))
    for i, image in enumerate(images):
        whole = vit(image[None])
        for j, tie in itertools.product(range(2), ties[:, i].tolist()):  # most relevant first, then least
            by_sort = sorted(tie, key=lambda patch: (2 * j - 1) * maps[i].flatten()[patch])
            for k, count in enumerate([*counts, patches - 4 if j else 4]):
                keep = torch.ones(1, patches, dtype=torch.bool)
                keep[0, by_sort[:count]] = False
                logits = predict(vit, image[None], keep.view(1, *grid), how, stream(0, "noise"))
                if k < len(counts):
                    p[j, i, k] += logits.softmax(1)[0, whole.argmax()] / len(ties)
                else:
                    kl[j, i] += kl_divergence(whole, logits)[0] / len(ties)
                    agree[j, i] += (logits.argmax() == whole.argmax()) / len(ties)
    return p, kl, agree


@pytest.mark.parametrize("removal", NAMED_REMOVALS)
def test_equal_to_a_slow_loop(vit, images, removal):
    images, explainer = images[:3], DiffMask(vit, "learned")
    with torch.no_grad():
        explainer.placeholder.normal_(generator=torch.Generator().manual_seed(3))
    maps = (4 * some_maps(vit, 3)).round()  # some tie, some do not
    found = run(vit, images, maps, removal, explainer=explainer, steps=4, shares=(0.23,), orders=2, batch=7)  # 4 patches
    how = explainer.placeholder if removal == "placeholder" else removal
    p, kl, agree = slow(vit, images, maps, how, [0, 4, 8, 12, 16], tie_orders(3, 16, 2))
    wanted = {"comprehensiveness@23%": kl[0], "sufficiency@23%": kl[1], "agreement@23%": agree[1]}
    for j, order in enumerate(("morf", "lerf")):
        np.testing.assert_allclose(curve(found.curves, order, removal=removal), p[j], atol=1e-5)
        wanted[order] = torch.trapezoid(p[j], dx=1 / 4)
    for metric, values in wanted.items():
        np.testing.assert_allclose(score(found.scores, metric, removal=removal), values, atol=1e-5, err_msg=metric)


@pytest.mark.parametrize("removal", ["drop", "noise"])
def test_no_pair_is_asked_twice_and_each_has_its_own_answer(vit, images, removal, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    some = torch.rand(6, 16, generator=draw) < torch.tensor([0.1, 0.4, 0.4, 0.7, 0.9, 2.0])[:, None]
    rows = torch.randint(0, 6 * 5, (200,), generator=draw)  # 30 pairs of image and mask, each about seven times
    which, keep = rows % 5, some[rows // 5]
    whole = vit(images).detach()
    asked = watch(monkeypatch)
    found = ask(vit, images, whole, which, keep, removal, batch=7, seed=4)
    pairs = [(seen.sum().item(), *left.flatten().tolist()) for batch in asked for seen, left in zip(*batch, strict=True)]
    assert len(pairs) == len(set(pairs)) <= len(rows.unique())
    for row in rows.unique():
        i, mask = row % 5, some[row // 5]
        logits = predict(vit, images[i : i + 1], mask.view(1, 4, 4), removal, stream(4, "noise")).detach()
        target = whole[i].argmax()
        wanted = [logits.softmax(1)[0, target], kl_divergence(whole[i], logits)[0], (logits.argmax() == target).float()]
        own = found[:, rows == row]
        np.testing.assert_allclose(own, torch.stack(wanted)[:, None].expand_as(own), atol=1e-5)


def test_evaluate_asks_about_each_set_of_patches_once(vit, images, monkeypatch):
    asked, maps = watch(monkeypatch), some_maps(vit, 5)
    run(vit, images, {"a": maps, "again": maps, "negative": -maps}, shares=())
    counts = [16 if keep is None else int(left.sum()) for some, keep in asked for left in (some if keep is None else keep)]
    assert counts.count(0) == 5 and counts.count(12) == 10  # MoRF and LeRF, not six orders
    assert counts.count(16) == 5 and asked[0][1] is None  # the whole image is known already


# What must hold of every map and model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_evaluated(family):
    model = shared(family)
    found = run(model, some_images(model, 2), some_maps(model, 2), ("drop", "mean"), steps=2, shares=(0.5,))
    assert np.isfinite(found.scores["value"]).all() and np.isfinite(found.curves["p"]).all()
    forgotten = [name for _, group in _cascade(model) for name, _ in group]  # by weight_randomisation, in the end
    assert sorted(forgotten) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_a_map_and_its_negative_mirror_each_other_exactly(vit, images, tied):
    maps = some_maps(vit, len(images))
    maps = (2 * maps).round() if tied else maps
    a, b = run(vit, images, maps), run(vit, images, -maps)
    assert (score(a.scores, "srg") == -score(b.scores, "srg")).all()
    assert (curve(a.curves, "morf") == curve(b.curves, "lerf")).all()
    assert score(a.scores, "srg").std() > 0


def test_orders_and_ranks_by_hand():
    maps, ties = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([[2, 3, 0, 1]])
    assert removal_order(maps, ties).tolist() == [[2, 0, 3, 1]] and removal_ranks(maps, ties).tolist() == [[1, 3, 0, 2]]
    assert removal_order(maps, ties, lerf=True).tolist() == [[3, 1, 2, 0]]
    # Reversing one order to get the other would not mirror: with ties, the negative's order is another.
    assert torch.equal(removal_order(-maps, ties), removal_order(maps, ties, lerf=True))
    assert not torch.equal(removal_order(-maps, ties), removal_order(maps, ties).flip(1))
    maps = torch.tensor([[[3.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert best(maps, 2)[0].tolist() == [[True, False], [True, False]]
    for count in range(5):
        assert best(maps, count).flatten(1).sum(1).tolist() == [count, count]
    assert best(maps, torch.tensor([1, 3])).flatten(1).sum(1).tolist() == [1, 3]


def test_curves_share_end_points_and_start_at_the_prediction(vit, images):
    maps = {"a": some_maps(vit, 5), "b": some_maps(vit, 5, seed=1)}
    found = run(vit, images, maps, ("drop", "mean"), steps=3)
    p = vit(images).double().softmax(1).amax(1).detach().numpy()
    for removal in ("drop", "mean"):
        ends = [curve(found.curves, order, name, removal)[:, [0, -1]] for order in ("morf", "lerf") for name in "ab"]
        for end in ends:
            assert (end == ends[0]).all()
            np.testing.assert_allclose(end[:, 0], p, rtol=0, atol=1e-7)
    assert sorted(found.curves["share"].unique()) == [0, 5 / 16, 11 / 16, 1]
    assert curve(run(vit, images, maps["a"], steps=100).curves, "morf").shape == (5, 17)  # patch by patch, no finer


def test_ties_are_averaged_over_the_orders_asked_for(vit, images):
    by_hand = []
    for tie in tie_orders(5, 16, 5):
        relevance = torch.empty(5, 16).scatter_(1, tie, torch.arange(16.0).flip(0).expand(5, -1))
        by_hand.append(score(run(vit, images, relevance.view(5, 4, 4), shares=()).scores, "morf"))
    found = run(vit, images, {"zero": torch.zeros(5, 4, 4), "one": torch.ones(5, 4, 4)}, shares=()).scores
    np.testing.assert_allclose(score(found, "morf", "zero"), np.mean(by_hand, 0), atol=1e-7)
    assert np.ptp(by_hand, axis=0).max() > 1e-3  # the orders do differ
    assert (score(found, "morf", "zero") == score(found, "morf", "one")).all()  # and all methods share them
    assert (score(found, "srg", "zero") == 0).all()  # MoRF and LeRF take the very same ones


def test_neither_batch_nor_company_nor_scale_changes_a_score(vit, images):
    maps = some_maps(vit, 2, 5)
    alone = [run(vit, images, one).scores for one in maps]
    company = {"b": some_maps(vit, 5, seed=1), "scaled": maps[0].exp() * 7 - 3, "a": maps}
    found = run(vit, images, company, ("mean", "drop"), batch=3).scores
    assert found.columns.tolist() == ["method", "seed", "removal", "image", "metric", "value"]
    for metric in ("morf", "lerf", "srg", "sufficiency@10%"):
        assert (score(found, metric) == score(found, metric, "scaled")).all()  # only the order of values counts
        for seed in range(2):
            np.testing.assert_allclose(score(found, metric, seed=seed), score(alone[seed], metric), atol=1e-6)


def test_the_vit_is_left_as_it_was():
    vit = odd("not_square")
    with left_as_it_was(vit):
        run(vit, some_images(vit, 2), some_maps(vit, 2), ("drop", "mean"), steps=2)


def test_progress_goes_to_stdout_and_can_be_turned_off(vit, images, capsys):
    evaluate(vit, images, {"a": some_maps(vit, 5)}, steps=2)
    shown = capsys.readouterr()
    assert "removal" in shown.out and not shown.err
    run(vit, images, some_maps(vit, 5), steps=2)
    assert capsys.readouterr().out == ""


# Input


def test_input_is_looked_at_once(vit, images, monkeypatch):
    looks, right = [], curves.require_images
    for module in [module for key, module in sys.modules.items() if key.startswith("diffmask_lite")]:
        if vars(module).get("require_images") is right:
            monkeypatch.setattr(module, "require_images", lambda *given: looks.append(given) or right(*given))
    maps = some_maps(vit, 5)
    run(vit, images, maps, ("drop", "noise"), steps=2, batch=2)
    assert len(looks) == 1
    mask_scores(vit, images, {"a": maps > 0.5}, ("drop", "noise"), batch=2)
    assert len(looks) == 2


def test_logits_at_hand_save_a_pass_over_whole_images(vit, images, monkeypatch):
    maps, keep = {"a": some_maps(vit, 5)}, {"a": some_maps(vit, 5) > 0.5}
    wanted, logits = (run(vit, images, maps).scores, mask_scores(vit, images, keep)), predict(vit, images)
    asked = watch(monkeypatch)
    pd.testing.assert_frame_equal(run(vit, images, maps, logits=logits).scores, wanted[0])
    pd.testing.assert_frame_equal(mask_scores(vit, images, keep, logits=logits), wanted[1])
    assert all(keep is not None for _, keep in asked), "the whole images were asked about again"


def refused(call, *words):
    with pytest.raises(ValueError) as caught:
        call()
    message = assert_one_sentence(caught.value)
    assert all(word in message for word in words), message


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
        (lambda m: {"images": torch.zeros(5, 3, 32, 32)}, ["3 × 32 × 32"]),
        (lambda m: {"logits": torch.zeros(4, 10)}, ["logits have shape (4, 10)", "(5, 10)"]),
    ],
)
def test_bad_input_gets_one_sentence(vit, images, change, names):
    changed = change(some_maps(vit, 5))
    options = {"images": images, "maps": {"a": some_maps(vit, 5)}} | changed
    refused(lambda: evaluate(vit, **options, progress=False), *names)
    if not {"steps", "shares", "maps"} & changed.keys():
        options["masks"] = {"a": options.pop("maps")["a"] > 0.5}
        refused(lambda: mask_scores(vit, **options), *names)


# Hard masks


def test_mask_scores_are_those_of_verify(vit, images):
    explainer = DiffMask(vit)
    keep = some_maps(vit, 5) > torch.linspace(0.1, 0.9, 5)[:, None, None]  # sets of different size
    full = torch.ones_like(keep)
    found = mask_scores(vit, images, {"a": keep, "all": full, "nothing": ~full}, NAMED_REMOVALS, explainer=explainer, batch=3)
    for removal in ("drop", "mean", "placeholder"):
        how = None if removal == "placeholder" else removal
        check, without = explainer.verify(images, keep, removal=how), explainer.verify(images, ~keep, removal=how)
        np.testing.assert_allclose(score(found, "sufficiency", removal=removal), check.kl, atol=1e-5)
        np.testing.assert_allclose(score(found, "comprehensiveness", removal=removal), without.kl, atol=1e-5)
        np.testing.assert_array_equal(score(found, "agreement", removal=removal), check.agree)
        np.testing.assert_allclose(score(found, "kept", removal=removal), check.kept)
        every, nothing = (score(found, "sufficiency", name, removal) for name in ("all", "nothing"))
        assert (every == 0).all() and (score(found, "agreement", "all", removal) == 1).all()
        assert (nothing == score(found, "comprehensiveness", "all", removal)).all() and (nothing > 0.01).all()
    refused(lambda: mask_scores(vit, images, {"a": keep.float()}), "must be bool")


# Ranks and ground truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_midranks_and_spearman_are_scipys(dtype):
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-3, 5, (20, 16), generator=draw).to(dtype) for _ in range(2))  # full of ties
    plain = [each.double().numpy() for each in (a, b)]
    np.testing.assert_allclose(midranks(a), scipy.stats.rankdata(plain[0], axis=1))
    wanted = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(*plain, strict=True)]
    np.testing.assert_allclose(spearman(a, b), wanted, atol=1e-12)
    np.testing.assert_allclose(spearman(a.view(4, 5, 16), b.view(4, 5, 16)).flatten(), wanted, atol=1e-12)
    np.testing.assert_allclose(spearman(a, -a), -1)
    constant = torch.full_like(a, 3)
    assert spearman(a, constant).tolist() == spearman(constant, a).tolist() == spearman(constant, constant).tolist() == [0] * 20


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
    for dtype in (torch.uint8, torch.int64, torch.float32):  # where ~ and & mean something else
        assert pooled_auroc(maps, truth.to(dtype)) == pooled_auroc(maps, truth)
        assert pooled_iou((maps > 0.5).to(dtype), truth.to(dtype)) == pooled_iou(maps > 0.5, truth)
    refused(lambda: image_auroc(maps, 255 * truth.int()), "nothing but 0 and 1")


def test_pooled_iou_counts_images_with_nothing_to_find():
    truth = torch.zeros(2, 2, 2, dtype=torch.bool)
    truth[0, 0, 0] = True
    keep = truth.clone()
    assert pooled_iou(keep, truth) == 1
    keep[1, 0, 0] = True  # a patch kept where there is nothing; a mean of per-image IoUs over images with truth would miss it
    assert pooled_iou(keep, truth) == 0.5
    nothing = truth & ~truth
    assert pooled_iou(nothing, nothing) == 1 and (truth_scores({"a": nothing}, nothing, draws=5)["mean"] == [1, 0, 0]).all()
    refused(lambda: pooled_iou(keep[:1], truth), "truth has")


def some_truth(n=40):
    draw = torch.Generator().manual_seed(2)
    truth = torch.rand(n, 3, 3, generator=draw) < torch.rand(n, 1, 1, generator=draw)
    noisy = (4 * (truth + 0.8 * torch.randn(2, n, 3, 3, generator=draw))).round() / 4  # two seeds, with ties
    return truth, noisy


def test_truth_scores_are_the_pooled_metrics_with_intervals_of_images_drawn_again():
    truth, noisy = some_truth()
    hard = noisy[0] > 0.5
    maps = {"noisy": noisy, "one": noisy[0], "hard": hard}
    table = truth_scores(maps, truth, draws=60, seed=4).set_index(["method", "metric"])
    assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()
    metrics = {
        "auroc": pooled_auroc,
        "auroc in image": lambda m, t: image_auroc(m, t).nanmean().item(),
        "iou of best": lambda m, t: pooled_iou(best(m, t.flatten(1).sum(1)), t),
        "iou": pooled_iou,
        "kept": lambda m, t: m.double().mean().item(),
        "truth kept": lambda m, t: t.double().mean().item(),
    }
    times = torch.from_numpy((image_weights(40, 60, seed=4) * 40).round().astype(int))
    for (name, metric), row in table.iterrows():
        by_hand, seeds = metrics[metric], maps[name] if name == "noisy" else [maps[name]]
        assert row["mean"] == pytest.approx(np.mean([by_hand(m, truth) for m in seeds])), (name, metric)
        if name != "noisy" and metric != "iou of best":  # its ties are broken by an image's place in the batch
            again = [by_hand(*(t[torch.arange(40).repeat_interleave(count)] for t in (maps[name], truth))) for count in times]
            assert (row["low"], row["high"]) == pytest.approx(np.quantile(again, [0.025, 0.975]), abs=1e-9), (name, metric)


def test_truth_differences_are_paired():
    truth, noisy = some_truth()
    maps = {"a": noisy[0], "better": noisy[0] + 0.5 * truth, "same": noisy[0].clone()}
    found = truth_differences(maps, truth, draws=100).set_index(["a", "b"])
    row = found.loc[("a", "better")]
    assert row["mean"] == pytest.approx(pooled_auroc(maps["a"], truth) - pooled_auroc(maps["better"], truth))
    assert row["differs"] and row["high"] < 0
    assert found.loc[("a", "same"), ["mean", "low", "high"]].tolist() == [0, 0, 0] and not found.loc[("a", "same"), "differs"]
    refused(lambda: truth_scores(maps, truth.float()), "bool tensor")


class Far(torch.Tensor):
    """A tensor on a device without float64, as Apple's: all that is made of it is there as well, until it comes to the CPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        found = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return found.as_subclass(torch.Tensor)
        if isinstance(found, Far) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
        return found


def test_a_device_without_float64_is_enough():
    vit = build("vit")
    images, explainer = some_images(vit, 4).as_subclass(Far), DiffMask(vit, **RANKED["explainer"])
    with pytest.raises(TypeError, match="float64"):
        images.double()
    result = explainer.explain(images)
    assert isinstance(result.keep, Far)
    maps = {name: METHODS[name](vit, images) for name in ("integrated_drop", "integrated_gradients", "occlusion", "rollout")}
    evaluate(vit, images, maps, ("drop", "noise"), target=3, progress=False)
    luck(vit, images, {"gates": result.keep})
    hard_mask_scores(explainer, images, result.keep)
    label_leak(result.keep, result.logits.argmax(1), folds=2, draws=1)
    truth_scores(maps, result.keep, draws=5), image_auroc(result.score, result.keep)


# Statistics


def table_of(values, metric="srg"):
    """A long table from name -> (n,) or (S, n)."""
    each = [(name, *place, value) for name, group in values.items() for place, value in np.ndenumerate(np.atleast_2d(group))]
    return pd.DataFrame(each, columns=["method", "seed", "image", "value"]).assign(removal="drop", metric=metric)


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
    longer, holey = table_of({"c": [1.0, 2.0, 3.0]}), table_of({"c": [[1.0, 2.0], [3.0, np.nan]]})
    refused(lambda: compare(scores, "a", "rollout"), '"rollout"', "a, b", "srg")
    refused(lambda: compare(pd.concat([scores, longer]), "a", "c"), "same images")
    refused(lambda: compare(pd.concat([scores, holey]), "a", "c"), "lacks")
    refused(lambda: compare(scores, "a", "b", level=95), "between 0 and 1")


def test_removal_agreement_compares_rankings():
    means = {"drop": (1.0, 2.0, 3.0), "mean": (10.0, 20.0, 90.0), "noise": (3.0, 2.0, 1.0)}
    tables = [table_of({m: [v, v] for m, v in zip("abc", group, strict=True)}).assign(removal=r) for r, group in means.items()]
    scores = pd.concat(tables)
    assert compare(scores, "c", "a", removal="mean").mean == 80  # each removal by itself
    found = removal_agreement(scores)
    assert found.index.tolist() == ["drop", "mean", "noise"]
    assert found.loc["drop", "mean"] == 1 and found.loc["drop", "noise"] == -1


# Probes


def leaking(n=300, classes=4):
    """Masks that keep a row of patches by class, and labels."""
    labels = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(n, 4, 4, dtype=torch.bool)
    masks[torch.arange(n), labels] = True
    return masks, labels


def test_label_leak_finds_where_masks_spell_the_class():
    masks, labels = leaking()
    found = label_leak(masks, labels)
    assert found.columns.tolist() == ["mean", "low", "high"]
    assert found.loc["mask", "mean"] == 1
    assert found.loc["random mask of equal size", "mean"] < 0.4  # all have four patches, so size says nothing
    assert found.loc["majority class", "mean"] == pytest.approx(labels.bincount().max() / 300)
    difference = found.loc["mask", "mean"] - found.loc["random mask of equal size", "mean"]
    assert found.loc["mask − random", "mean"] == pytest.approx(difference) and found.loc["mask − random", "low"] > 0.5
    masks = masks[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    found = label_leak(masks, labels)  # a classifier scored on its own training masks would beat chance here
    assert found.loc["mask", "mean"] < 0.35 and found.loc["mask − random", "low"] < 0 < found.loc["mask − random", "high"]
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (300,), generator=draw)
    masks = best(torch.rand(300, 4, 4, generator=draw), torch.where(labels == 0, 4, 12))
    found = label_leak(masks, labels)  # size alone tells the class, of both alike
    assert found.loc["mask", "mean"] > 0.99 and found.loc["random mask of equal size", "mean"] > 0.99
    pd.testing.assert_frame_equal(label_leak(masks, labels), found)  # seeded


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
    got = _classify(train, labels, train, 3)
    assert (got.numpy() == wanted).mean() > 0.98


def test_probes_refuse_what_does_not_fit(vit):
    masks, labels = leaking(20)
    refused(lambda: label_leak(masks, labels[:5]), "do not fit")
    refused(lambda: label_leak(masks.flatten(1), labels), "do not fit")
    refused(lambda: label_leak(masks[:3], labels[:3]), "too few")
    refused(lambda: weight_randomisation(vit, lambda _: torch.zeros(2, 3, 3), progress=False), "trained")


def test_weight_randomisation_tells_methods_that_see_the_weights(images):
    vit = build("vit")
    target = vit(images).argmax(1)

    def saliency(model):
        with torch.enable_grad():
            some = images.clone().requires_grad_()
            model(some).gather(1, target[:, None]).sum().backward()
        return torch.nn.functional.avg_pool2d((some.grad * images).sum(1), 16)

    def edges(_model):  # sees the image alone
        return torch.nn.functional.avg_pool2d(images.square().sum(1), 16)

    with left_as_it_was(vit):
        blind = weight_randomisation(vit, edges, progress=False)
        seeing = weight_randomisation(vit, saliency, progress=False).groupby("stage", sort=False)["value"].mean()
    assert blind["stage"].unique().tolist() == ["trained", "head", "block 3", "block 2", "block 1", "embedding"]
    np.testing.assert_allclose(blind["value"], 1)
    assert seeing["trained"] == pytest.approx(1) and (seeing.iloc[1:].abs() < 0.6).all()


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_weight_randomisation_goes_from_the_head_to_the_embedding(family):
    """At each stage the logits change, and what lies below the stage is still as it was."""
    model, logits, states = shared(family), [], []
    images = some_images(model, 2)

    def record(fresh):
        logits.append(fresh(images).detach())
        states.append([state.clone() for state in hidden_states(fresh, images)])
        return torch.zeros(2, *anatomy(model).grid)

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


# Luck


def test_twins_have_the_size_of_each_mask_and_the_moved_one_its_shape():
    masks = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 6)[:, None, None]
    found = twins(masks, draws=40, seed=3)
    assert set(found) == {"random", "shifted"} and all(twin.shape == (40, 6, 3, 4) for twin in found.values())
    for name, twin in found.items():
        assert torch.equal(twin.flatten(2).sum(2), masks.flatten(1).sum(1).expand(40, 6))
        assert torch.equal(twin, twins(masks, draws=40, seed=3)[name])
    for mask, moved in zip(masks, found["shifted"].transpose(0, 1), strict=True):
        everywhere = [mask.roll((y, x), (0, 1)) for y in range(3) for x in range(4)][1:]  # the first is the mask where it was
        which = [{k for k, other in enumerate(everywhere) if torch.equal(other, one)} for one in moved]
        assert all(which) and (mask.all() or not mask.any() or len(set.union(*which)) == 11)
    assert found["random"].float().mean(0)[3].std() < 0.15  # anywhere alike


def test_luck_tells_masks_that_select_from_masks_that_do_not():
    """On the linear ViT the best patches of an image beat their twins, and a random mask does not; by hand for one metric."""
    vit = linear_vit()
    images = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    said, _ = says(vit, images)
    sure = vit(images).detach().argmax(1) == 0
    order = torch.where(sure[:, None, None], said, -said).flatten(1).argsort(1, descending=True).argsort(1).view(-1, 4, 4)
    drawn = torch.rand(40, 16, generator=torch.Generator().manual_seed(2)).argsort(1).view(-1, 4, 4)
    masks = {"best": order < 6, "worst": order >= 10, "any": drawn < 6}
    table = luck(vit, images, masks, "mean", draws=4).set_index(["method", "twin", "metric"])
    better = table["better"].xs("agreement", level="metric").unstack("twin")
    assert better.loc["best"].all() and not better.loc["worst"].any() and not better.loc["any", "random"]
    for twin in ("random", "shifted"):
        row = table.loc["worst", twin, "agreement"]
        assert row["high"] < 0 and row["difference"] == pytest.approx(row["mask"] - row["luck"]) and row["kept"] == 6 / 16
    drawn = twins(masks["best"], 4)["random"]
    with torch.no_grad():
        same = [predict(vit, images, keep, "mean").argmax(1) == vit(images).argmax(1) for keep in drawn]
    assert table.loc["best", "random", "agreement"]["luck"] == pytest.approx(torch.stack(same).float().mean().item())


def test_a_map_made_for_a_class_is_scored_on_that_class():
    """p of the class that is asked about, by a loop; KL and agreement are those of the whole prediction."""
    vit = shared("not_square")
    images = some_images(vit, 3)
    maps, target = torch.randn(3, *anatomy(vit).grid), torch.tensor([1, 4, 7])
    found = evaluate(vit, images, {"m": maps}, steps=3, shares=(0.5,), target=target, progress=False)
    plain = evaluate(vit, images, {"m": maps}, steps=3, shares=(0.5,), progress=False).scores
    order, n = maps.flatten(1).argsort(1, descending=True), maps[0].numel()
    for b in range(3):
        for k, share in enumerate(round(i * n / 3) for i in range(4)):
            keep = torch.ones(n, dtype=torch.bool).scatter(0, order[b, :share], False).view(1, *maps.shape[1:])
            with torch.no_grad():
                p = predict(vit, images[b : b + 1], keep).softmax(1)[0, target[b]].item()
            rows = found.curves.query("image == @b and order == 'morf'")
            assert rows["p"].iloc[k] == pytest.approx(p, abs=1e-5)
    same = found.scores["metric"].isin(["morf", "lerf", "srg"])
    assert np.allclose(found.scores[~same]["value"], plain[~same]["value"])
    assert not np.allclose(found.scores[same]["value"], plain[same]["value"])
    for wrong, words in ((10, "10"), (torch.tensor([1, 2]), "one class for each image")):
        with pytest.raises(ValueError, match=words):
            evaluate(vit, images, {"m": maps}, target=wrong, progress=False)
