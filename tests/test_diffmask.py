"""`DiffMask`: one deterministic pass, a hard mask that is scored as shown, files that load only where they fit."""

import pickle
import weakref

import pytest
import timm
import torch
from torch import nn

from diffmask_lite import DiffMask
from diffmask_lite.diffmask import kl_divergence
from diffmask_lite.faithfulness import mask_scores
from diffmask_lite.gates import TEMPERATURE, Gate, normalise
from diffmask_lite.vit import anatomy, hidden_states, observe, predict
from diffmask_lite.vit.direct import class_direction
from diffmask_lite.vit.head import log_odds_slope
from diffmask_lite.vit.randomness import stream
from diffmask_lite.vit.storage import load_tensors, save_tensors
from families import POOLED, REPRESENTATIVES, SMALL, assert_one_sentence, build, removal_of, shared, some_images, some_keep

each_representative = pytest.mark.parametrize("family", REPRESENTATIVES)
VIT = shared("vit")
IMAGES = some_images(VIT)


def loose(vit, **options):
    """An explainer whose gates are undecided, so that masks differ from patch to patch."""
    explainer = DiffMask(vit, **options)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in explainer.gates:
            gate.last.bias.normal_(2.0, 0.5, generator=draw)
            gate.last.weight.mul_(8)
    return explainer


@pytest.mark.parametrize("options", [{}, {"normalise": False}], ids=str)
@each_representative
def test_explain_equals_the_gates_applied_to_each_patch_by_hand(family, options):
    vit = shared(family)
    explainer, images, shape = loose(vit, **options), some_images(vit, 2), anatomy(vit)
    result = explainer.explain(images)
    with torch.no_grad():
        torch.testing.assert_close(result.logits, vit(images))
    states, ready = hidden_states(vit, images), normalise if explainer.normalise else torch.Tensor.float
    assert len(explainer.gates) == len(states) == shape.states

    layers = torch.empty(2, shape.states, *shape.grid)
    for i, gate in enumerate(explainer.gates):
        for b in range(2):
            for n in range(shape.patches):
                logit = gate.last(torch.tanh(gate.first(torch.cat([ready(states[0][b, n]), ready(states[i][b, n])]))))[0]
                shift = TEMPERATURE * torch.tensor(0.2).log()  # −LEFT / RIGHT = 0.2
                layers[b, i, n // shape.grid[1], n % shape.grid[1]] = torch.sigmoid(logit - shift).item()
    torch.testing.assert_close(result.layers, layers, rtol=0, atol=1e-4)
    torch.testing.assert_close(result.mask, layers.prod(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(result.score.sigmoid(), result.mask, rtol=0, atol=1e-5)
    for threshold, keep in ((0.5, result.keep), (0.3, explainer.explain(images, 0.3).keep)):
        assert torch.equal(keep, result.mask > threshold)
    assert result.mask.std() > 0.1 * result.mask.mean()  # no patch is like another


def test_the_gates_that_explain_are_those_of_the_class(monkeypatch):
    """What `Gate.encode` and `Gate.score` are replaced by is what runs, so that a gate of one's own needs no more."""
    explainer = DiffMask(VIT)
    plain = explainer.explain(IMAGES)
    encode, score = Gate.encode, Gate.score
    monkeypatch.setattr(Gate, "encode", lambda self, *read, **named: -encode(self, *read, **named))
    assert not torch.equal(explainer.explain(IMAGES).layers, plain.layers)
    monkeypatch.setattr(Gate, "score", lambda self, hidden, **known: score(self, -hidden, **known))
    assert torch.equal(explainer.explain(IMAGES).layers, plain.layers)
    monkeypatch.setattr(Gate, "score", lambda _self, hidden, **_known: hidden.new_full(hidden.shape[:2], -50.0))
    assert not explainer.explain(IMAGES).keep.any()


def test_explain_is_one_forward_pass_and_deterministic_and_needs_no_gradient():
    vit, passes = build("vit"), []
    explainer, images = DiffMask(vit), some_images(vit)
    vit.register_forward_pre_hook(lambda _m, args: passes.append(len(args[0])))
    first = explainer.explain(images)
    assert passes == [len(images)]
    torch.manual_seed(7)
    again = explainer.train().explain(images)
    assert torch.equal(first.mask, again.mask) and torch.equal(first.layers, again.layers)
    assert not any(t.requires_grad or t.is_inference() for t in (first.mask, first.layers, first.logits, first.score))


@each_representative
def test_hidden_states_do_not_outlive_their_gate(family, monkeypatch):
    explainer, alive, most = DiffMask(shared(family)), [], []

    def watched(model, callback, **options):
        def spy(i, state):
            alive.append(weakref.ref(state))
            callback(i, state)
            most.append(sum(ref() is not None for ref in alive))

        return observe(model, spy, **options)

    monkeypatch.setattr("diffmask_lite.diffmask.observe", watched)
    explainer.explain(some_images(shared(family)))
    assert len(alive) == explainer.shape.states
    assert max(most) <= 2  # the state in hand, and the view of it that the ViT itself still works on
    assert not [ref for ref in alive if ref() is not None]


@each_representative
def test_explaining_at_a_depth_uses_the_gates_so_far_and_runs_the_blocks_so_far(family):
    vit = build(family)
    explainer, images = loose(vit), some_images(vit, 2)
    whole, blocks = explainer.explain(images), []
    for i, block in enumerate(vit.blocks):
        block.register_forward_hook(lambda _m, _a, _o, i=i: blocks.append(i))
    for depth in range(explainer.shape.depth + 1):
        blocks.clear()
        result = explainer.explain(images, depth=depth)
        assert blocks == list(range(depth)) and result.logits is None
        assert result.layers.shape[1] == depth + 2
        torch.testing.assert_close(result.layers, whole.layers[:, : depth + 2])
        torch.testing.assert_close(result.mask, whole.layers[:, : depth + 2].prod(1))
        logits, gates = explainer.read(images, depth + 1)
        assert torch.equal(logits, whole.logits) and gates.shape[1] == depth + 2
    torch.testing.assert_close(result.score, whole.score)


def test_the_score_has_no_ties_where_the_mask_rounds_to_one():
    sure = DiffMask(VIT)
    for gate in sure.gates:
        nn.init.constant_(gate.last.bias, 30.0)
    result = sure.explain(IMAGES)
    assert (result.mask == 1).all() and result.score.isfinite().all() and len(result.score.unique()) > 16


@pytest.mark.parametrize("removal", [None, "drop", "mean", "noise"])
def test_verify_scores_the_very_mask_it_is_given(removal):
    vit, passes = build("vit"), []
    explainer, images, keep = DiffMask(vit), some_images(vit), some_keep(vit, [0, 5, 16])
    check = explainer.verify(images, keep, removal=removal)
    place = explainer.placeholder if removal is None else removal
    with torch.no_grad():
        logits, masked = vit(images), predict(vit, images, keep, place)
    torch.testing.assert_close(check.logits, masked)
    for b in range(3):
        p, q = logits[b].double().softmax(-1), masked[b].double().softmax(-1)
        assert check.kl[b].item() == pytest.approx((p * (p / q).log()).sum().item(), abs=1e-4)
        assert bool(check.agree[b]) == bool(p.argmax() == q.argmax())
    torch.testing.assert_close(check.kept, torch.tensor([0, 5 / 16, 1]))
    assert check.kl[2] < 1e-5 and check.kl[0] > 1e-3
    vit.register_forward_pre_hook(lambda _m, args: passes.append(len(args[0])))
    torch.testing.assert_close(explainer.verify(images, keep, logits, removal).kl, check.kl, rtol=0, atol=1e-5)
    assert sum(passes) == len(images), "a prediction that is at hand is not made again"


@torch.no_grad()
def test_no_kl_is_below_0_or_is_minus_0():
    images, keep, raw, found = IMAGES.clone(), torch.ones(3, 4, 4, dtype=torch.bool), [], []
    images[:, :, :16, :16], keep[:, 0, 0] = 0, False  # the patch that is removed is the mean patch already
    whole = VIT(images)
    for seed in range(20):
        logits = whole * (1 + 1e-7 * torch.randn(3, 10, generator=torch.Generator().manual_seed(seed)))
        raw.append(kl_divergence(logits, whole))
        found.append(DiffMask(VIT).verify(images, keep, logits, "mean").kl)
        scores = mask_scores(VIT, images, {"one": keep}, "mean", logits=logits)
        found.append(torch.tensor(scores[scores["metric"] == "sufficiency"]["value"].to_numpy()))
    assert torch.cat(raw).signbit().any() and torch.cat(found).max() < 1e-5 and not torch.cat(found).signbit().any()


@pytest.mark.parametrize("family", ["vit", "average_pooling"])
def test_class_aware_gates_read_the_whole_image_and_turn_with_the_class(family):
    """All but the last gate, whose carried paths are tested in `test_direct`, patch by patch: (w + A u) · hidden + bias."""
    vit = shared(family)
    explainer, images, shape, tokens = loose(vit, class_aware=True), some_images(vit, 2), anatomy(vit), []
    for gate in explainer.gates:
        torch.nn.init.normal_(gate.turn.weight, generator=stream(6))
    with torch.no_grad(), observe(vit, lambda _i, state: tokens.append(state), prefix_too=True):
        logits = vit(images)
        direction = class_direction(vit, log_odds_slope(logits, torch.tensor([3, 7])))
    layers = explainer.explain(images, target=torch.tensor([3, 7])).layers
    states, wanted = hidden_states(vit, images), torch.empty(2, shape.states - 1, shape.patches)
    for i, gate in enumerate(list(explainer.gates)[:-1]):
        for b in range(2):
            whole = normalise(tokens[i][b, 0]) if i and family not in POOLED else normalise(states[i][b]).mean(0)
            for n in range(shape.patches):
                read = torch.cat([normalise(states[0][b, n]), normalise(states[i][b, n]), whole])
                weight = gate.last.weight[0] + gate.turn.weight @ direction[b]
                logit = (weight * torch.tanh(gate.first(read))).sum() + gate.last.bias[0]
                wanted[b, i, n] = torch.sigmoid(logit - TEMPERATURE * torch.tensor(0.2).log()).item()
    torch.testing.assert_close(layers[:, :-1].flatten(2), wanted, rtol=0, atol=1e-4)
    assert wanted.std() > 0.05


MAX_POOLED = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10, global_pool="max", **SMALL).eval()
REFUSED = {
    **{f"threshold_{t}": (lambda t=t: DiffMask(VIT).explain(IMAGES, t), "threshold") for t in (-0.1, 1.0, float("nan"))},
    **{f"depth_{d}": (lambda d=d: DiffMask(VIT).explain(IMAGES, depth=d), "0 … 3") for d in (-1, 4, 1.5, "all")},
    "depth_class_aware": (lambda: DiffMask(VIT, class_aware=True).explain(IMAGES, depth=2), "leave depth out"),
    "soft_mask": (lambda: DiffMask(VIT).verify(IMAGES, torch.rand(3, 4, 4)), "hard mask"),
    "unknown_placeholder": (lambda: DiffMask(VIT, "grey"), "Unknown placeholder 'grey'"),
    "wide_placeholder": (lambda: DiffMask(VIT, torch.zeros(49)), "The placeholder has shape"),
    "drop_where_it_is_unknown": (lambda: DiffMask(MAX_POOLED, "drop"), "by degrees"),
}


@pytest.mark.parametrize("ask, words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_asked_gets_one_sentence(ask, words):
    with pytest.raises(ValueError, match=words) as error:
        ask()
    assert_one_sentence(error.value)


def test_the_vit_is_a_guest_of_the_explainer():
    vit = build("vit")
    explainer = DiffMask(vit, "learned").train()
    assert {name.split(".")[0] for name in explainer.state_dict()} == {"gates", "placeholder"}
    assert not {id(p) for p in explainer.parameters()} & {id(p) for p in vit.parameters()}
    assert not vit.training and explainer.vit is vit


@pytest.mark.parametrize("by_place", [False, True])
@each_representative
def test_mean_placeholder_equals_a_grey_patch_in_pixels(family, by_place):
    """Also where the embedding of a patch depends on its place, as it does behind a stem of padded convolutions."""
    vit = build(family)
    if by_place:
        offset = torch.randn(vit.patch_embed(some_images(vit)).shape[1:], generator=torch.Generator().manual_seed(6))
        vit.patch_embed.register_forward_hook(lambda _m, _a, out: out + offset)
    explainer, images, keep = DiffMask(vit, "mean"), some_images(vit), some_keep(vit, [3, 2, 1])
    assert explainer.placeholder.ndim == 1 + by_place
    through_pixels = predict(vit, images, keep, "mean")
    torch.testing.assert_close(predict(vit, images, keep, explainer.placeholder), through_pixels, atol=1e-4, rtol=1e-4)


def test_placeholders():
    assert DiffMask(VIT, "zero").placeholder.abs().max() == 0
    assert isinstance(DiffMask(VIT, "learned").placeholder, nn.Parameter)
    for given in (removal_of(VIT, "placeholder"), removal_of(VIT, "placeholder_per_patch")):
        assert torch.equal(DiffMask(VIT, given).placeholder, given)
    explainer, keep = DiffMask(VIT, "drop"), some_keep(VIT, [3, 9, 9])
    assert explainer.placeholder == "drop" and not [key for key in explainer.state_dict() if "placeholder" in key]
    torch.testing.assert_close(explainer.verify(IMAGES, keep).logits, predict(VIT, IMAGES, keep, "drop").detach())


def test_first_weights_follow_the_seed_and_leave_the_callers_random_numbers_alone():
    state = torch.get_rng_state()
    a, b, c = (DiffMask(VIT, seed=seed).gates[0].first.weight for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a, b) and not torch.equal(a, c)


KINDS = [
    {},
    {"placeholder": "learned", "normalise": False},
    {"placeholder": removal_of(VIT, "placeholder_per_patch")},
    {"placeholder": "drop", "hidden": 5},
    {"class_aware": True},
]


@pytest.mark.parametrize("options", KINDS, ids=lambda options: "_".join(options))
def test_save_and_load_gives_the_same_explanations(tmp_path, options):
    explainer = loose(VIT, **options)
    explainer.save(tmp_path / "gates.safetensors")
    loaded = DiffMask.load(tmp_path / "gates.safetensors", VIT)
    assert torch.equal(loaded.explain(IMAGES).layers, explainer.explain(IMAGES).layers)
    assert loaded.config() == explainer.config() and loaded.state_dict().keys() == explainer.state_dict().keys()
    if isinstance(explainer.placeholder, torch.Tensor):
        assert torch.equal(loaded.placeholder, explainer.placeholder)


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    good, path = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    DiffMask(VIT).save(good)
    tensors, meta = load_tensors(good)

    def refused(path, vit, words):
        with pytest.raises(ValueError, match=words) as error:
            DiffMask.load(path, vit)
        assert str(path) in assert_one_sentence(error.value)

    tensors, config = load_tensors(good)
    for change, words in (({"hidden": 10**12}, "no gates of 1000000000000 hidden"), ({"shape": ...}, r"\(shape\)")):
        save_tensors(path, tensors, {key: value for key, value in (config | change).items() if value is not ...})
        with pytest.raises(ValueError, match=words) as error:
            DiffMask.load(path, VIT)
        assert str(path) in assert_one_sentence(error.value)
    path.write_bytes(pickle.dumps({"gates": 1}))
    refused(path, VIT, "truncated or a pickle")
    save_tensors(path, {"x": torch.zeros(1)}, {"kind": "vit"})
    refused(path, VIT, "not the gates")
    refused(good, shared("no_class_token"), "prefix")
    refused(good, shared("not_square"), "size|grid")
    save_tensors(path, {k: v for k, v in tensors.items() if k != "placeholder"}, meta)
    refused(path, VIT, "placeholder")


def test_a_warm_start_on_other_weights_has_their_own_mean_patch(tmp_path):
    one, other = build("vit"), build("vit")
    with torch.no_grad():
        other.patch_embed.proj.bias.add_(1)
    DiffMask(one, seed=4).save(tmp_path / "gates")
    warm = DiffMask.load(tmp_path / "gates", other, same_vit=False)
    assert torch.equal(warm.gates[0].first.weight, DiffMask(one, seed=4).gates[0].first.weight)
    assert torch.equal(warm.placeholder, DiffMask(other).placeholder)
    assert not torch.equal(warm.placeholder, DiffMask(one).placeholder)


@pytest.mark.parametrize("options", [{}, {"placeholder": "drop", "class_aware": True}], ids=str)
def test_a_warm_start_on_another_head_takes_the_gates(tmp_path, options):
    path, other = tmp_path / "gates", build("vit")
    explainer = loose(VIT, **options)
    explainer.save(path)
    other.reset_classifier(7)
    for same_vit in (True, False):
        if same_vit:
            with pytest.raises(ValueError, match="classes 10, but this one has classes 7"):
                DiffMask.load(path, other, same_vit)
        else:
            warm = DiffMask.load(path, other, same_vit)
            assert all(
                torch.equal(value, explainer.state_dict()[key]) for key, value in warm.gates.state_dict(prefix="gates.").items()
            )
            assert warm.explain(IMAGES).logits.shape == (3, 7)
