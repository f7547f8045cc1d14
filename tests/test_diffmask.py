"""`DiffMask`: one deterministic pass, a hard mask that is scored as shown, files that load only where they fit."""

import pickle

import pytest
import timm
import torch
from torch import nn

from diffmask_lite import DiffMask
from diffmask_lite import vit as see
from diffmask_lite.diffmask import fingerprint, kl_divergence
from diffmask_lite.gates import TEMPERATURE, normalise, prob_open
from diffmask_lite.state import load_state, save_state
from families import FAMILIES, SMALL, assert_one_sentence, build, removal_of, shared, some_images, some_keep

every_family = pytest.mark.parametrize("family", FAMILIES)


def loose(vit, **options):
    """An explainer whose gates are undecided, so that masks differ from patch to patch."""
    explainer = DiffMask(vit, **options)
    with torch.no_grad():
        for gate in explainer.gates:
            gate.last.bias.fill_(2.0)
            gate.last.weight.mul_(8)
    return explainer


def calls(vit):
    """Count forward passes of the ViT."""
    seen = []
    return seen, vit.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))


@every_family
def test_explain_equals_the_gates_applied_to_each_patch_by_hand(family):
    vit = shared(family)
    explainer, images = loose(vit), some_images(vit, 2)
    result = explainer.explain(images)
    body = see.anatomy(vit)
    assert result.mask.shape == (2, *body.grid) and result.layers.shape == (2, body.depth + 2, *body.grid)
    states = see.hidden_states(vit, images)
    assert len(states) == body.depth + 2 == len(explainer.gates)
    shift = TEMPERATURE * torch.tensor(0.2).log()  # −LEFT / RIGHT = 0.2
    for b in range(2):
        for n in range(body.patches):
            row, column = divmod(n, body.grid[1])
            product = 1.0
            for i, state in enumerate(states):
                pair = torch.cat([normalise(states[0][b, n]), normalise(state[b, n])])
                gate = explainer.gates[i]
                p = torch.sigmoid(gate.last(torch.tanh(gate.first(pair))) - shift).item()
                assert result.layers[b, i, row, column].item() == pytest.approx(p, abs=1e-4)
                product *= p
            assert result.mask[b, row, column].item() == pytest.approx(product, abs=1e-4)
    assert torch.equal(result.keep, result.mask > 0.5)
    assert result.mask.std() > 0.1 * result.mask.mean()  # no patch is like another
    torch.testing.assert_close(result.logits, vit(images).detach())


def test_explain_is_one_forward_pass_and_deterministic_and_needs_no_gradient():
    vit = build("vit")
    explainer, images = DiffMask(vit), some_images(vit)
    seen, handle = calls(vit)
    first = explainer.explain(images)
    assert seen == [len(images)]
    handle.remove()
    torch.manual_seed(7)
    again = explainer.train().explain(images)
    assert torch.equal(first.mask, again.mask) and torch.equal(first.layers, again.layers)
    assert not any(t.requires_grad for t in (first.mask, first.layers, first.logits))


def test_hidden_states_do_not_outlive_their_gate(monkeypatch):
    import gc
    import weakref

    vit = build("vit")
    explainer, alive, most = DiffMask(vit), [], []
    right = see.observe

    def watched(model, callback, **options):
        def spy(i, state):
            alive.append(weakref.ref(state))
            callback(i, state)
            gc.collect()
            most.append(sum(ref() is not None for ref in alive))

        return right(model, spy, **options)

    monkeypatch.setattr(see, "observe", watched)
    explainer.explain(some_images(vit))
    assert len(alive) == see.anatomy(vit).states
    assert max(most) <= 2  # the state in hand, and the view of it that the ViT itself still works on
    gc.collect()
    assert not [ref for ref in alive if ref() is not None]


@every_family
def test_nothing_of_ours_stays_on_the_vit(family):
    vit = build(family)
    vit.train()
    vit.blocks[1].eval()
    next(vit.parameters()).requires_grad_(False)

    def state():
        modules = list(vit.modules())
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), sorted(vars(m))) for m in modules]
        return [m.training for m in modules], [p.requires_grad for p in vit.parameters()], hooks

    before, names = state(), [name for name, _ in vit.named_modules()]
    explainer = DiffMask(vit)
    result = explainer.explain(some_images(vit))
    explainer.verify(some_images(vit), result.keep)
    assert state() == before and [name for name, _ in vit.named_modules()] == names
    with pytest.raises(RuntimeError, match="on purpose"):

        def fail(*_):
            raise RuntimeError("on purpose")

        explainer.gates[2].look = fail
        explainer.explain(some_images(vit))
    assert state() == before


def test_the_vit_is_a_guest_of_the_explainer():
    vit = build("vit")
    explainer = DiffMask(vit, "learned")
    assert {name.split(".")[0] for name in explainer.state_dict()} == {"gates", "placeholder"}
    assert not {id(p) for p in explainer.parameters()} & {id(p) for p in vit.parameters()}
    vit.eval()
    explainer.train()
    assert not vit.training
    assert explainer.vit is vit


@pytest.mark.parametrize("removal", [None, "drop", "mean", "noise"])
def test_verify_scores_the_very_mask_it_is_given(removal):
    vit = shared("vit")
    explainer, images, keep = DiffMask(vit), some_images(vit), some_keep(shared("vit"), [0, 5, 16])
    check = explainer.verify(images, keep, removal=removal)
    for b in range(3):
        p = vit(images[b : b + 1]).double().softmax(-1)[0]
        place = explainer.placeholder if removal is None else removal
        q = see.predict(vit, images[b : b + 1], keep[b : b + 1], place).double().softmax(-1)[0]
        assert check.kl[b].item() == pytest.approx((p * (p / q).log()).sum().item(), abs=1e-4)
        assert bool(check.agree[b]) == bool(p.argmax() == q.argmax())
    torch.testing.assert_close(check.kept, torch.tensor([0, 5 / 16, 1]))
    assert check.kl[2] < 1e-6 and check.kl[0] > 1e-3
    seen, handle = calls(vit)
    again = explainer.verify(images, keep, vit(images).detach(), removal)
    handle.remove()
    assert torch.equal(again.kl, check.kl) and sum(seen) <= 2 * len(images)


def test_kl_agrees_with_torch_distributions():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=draw), torch.randn(5, 7, generator=draw)
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=b)
    )
    torch.testing.assert_close(kl_divergence(a, b), wanted)
    assert not torch.allclose(kl_divergence(b, a), wanted)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"hybrid"}))  # its stem of convolutions looks beyond a patch
def test_mean_placeholder_equals_a_grey_patch_in_pixels(family):
    vit = shared(family)
    explainer, images = DiffMask(vit, "mean"), some_images(vit)
    keep = some_keep(vit, [3, 2, 1])
    through_pixels = see.predict(vit, images, keep, "mean")
    torch.testing.assert_close(see.predict(vit, images, keep, explainer.placeholder), through_pixels, atol=1e-4, rtol=1e-4)


def test_placeholders():
    vit = shared("vit")
    width, patches = 48, 16
    assert DiffMask(vit, "zero").placeholder.abs().max() == 0
    assert isinstance(DiffMask(vit, "learned").placeholder, nn.Parameter)
    for shape in ((width,), (patches, width)):
        given = torch.randn(shape)
        assert torch.equal(DiffMask(vit, given).placeholder, given)
    for wrong in ("grey", torch.zeros(width + 1)):
        with pytest.raises(ValueError, match="laceholder") as error:
            DiffMask(vit, wrong)
        assert_one_sentence(error.value)


def test_first_weights_follow_the_seed_and_leave_the_callers_random_numbers_alone():
    vit = shared("vit")
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (DiffMask(vit, seed=seed).gates[0].first.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), wanted)
    assert torch.equal(a, b) and not torch.equal(a, c)


@every_family
def test_gates_per_class_are_mixed_by_what_the_vit_predicts(family):
    vit = shared(family)
    explainer, images = loose(vit, per_class=True), some_images(vit, 2)
    for gate in explainer.gates:
        torch.nn.init.normal_(gate.last.bias)
    states, p = [normalise(state) for state in see.hidden_states(vit, images)], vit(images).detach().softmax(-1)
    layers = explainer.explain(images).layers
    for i, gate in enumerate(explainer.gates):
        assert gate.last.out_features == see.anatomy(vit).classes
        wanted = prob_open(gate(states[0], states[i], p)).detach()
        torch.testing.assert_close(layers[:, i].flatten(1), wanted, atol=1e-4, rtol=0)


@every_family
def test_gates_with_context_read_the_token_that_the_head_reads(family):
    vit = shared(family)
    explainer, images = loose(vit, context=True), some_images(vit, 2)
    body, tokens = see.anatomy(vit), []
    with see.observe(vit, lambda _i, state: tokens.append(state.detach()), prefix_too=True):
        vit(images)
    states = [normalise(state) for state in see.hidden_states(vit, images)]
    layers = explainer.explain(images).layers
    for i, gate in enumerate(explainer.gates):
        if i and body.prefix and vit.global_pool == "token":
            context = normalise(tokens[i][:, 0])
        else:
            context = torch.stack([state.mean(0) for state in states[i]])
        wanted = prob_open(gate(states[0], states[i], context=context)).detach()
        torch.testing.assert_close(layers[:, i].flatten(1), wanted, atol=1e-4, rtol=0)


def test_without_a_placeholder_tokens_are_dropped():
    vit = shared("vit")
    explainer, images = DiffMask(vit, "drop"), some_images(vit, 2)
    assert explainer.placeholder == "drop" and not [key for key in explainer.state_dict() if "placeholder" in key]
    keep = some_keep(vit, [3, 9])
    wanted = see.predict(vit, images, keep, "drop").detach()
    torch.testing.assert_close(explainer.verify(images, keep).logits, wanted)
    pooled = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10, global_pool="max", **SMALL).eval()
    with pytest.raises(see.UnfitViT, match="by degrees") as error:
        DiffMask(pooled, "drop")
    assert_one_sentence(error.value)


def test_the_score_has_the_order_of_the_mask():
    vit = shared("vit")
    result = loose(vit).explain(some_images(vit, 2))
    torch.testing.assert_close(result.score.sigmoid(), result.mask, atol=1e-5, rtol=0)
    sure = DiffMask(vit)
    for gate in sure.gates:
        gate.last.bias.data.fill_(30.0)
    sure = sure.explain(some_images(vit, 2))
    assert (sure.mask == 1).all() and sure.score.isfinite().all() and len(sure.score.unique()) > 16


def test_a_cut_counts_standard_deviations_in_each_image(tmp_path):
    vit = shared("vit")
    explainer, images = loose(vit), some_images(vit, 3)
    plain = explainer.explain(images)
    explainer.cut = 0.5
    explainer.save(tmp_path / "gates.safetensors")
    result = DiffMask.load(tmp_path / "gates.safetensors", vit).explain(images)
    for score, found, keep, mask in zip(plain.score, result.score, result.keep, result.mask, strict=True):
        wanted = (score - score.mean()) / score.std() - 0.5
        torch.testing.assert_close(found, wanted)
        assert torch.equal(keep, wanted > 0) and 0 < keep.sum() < 16
        torch.testing.assert_close(mask, wanted.sigmoid())
        assert torch.equal(found.flatten().argsort(), score.flatten().argsort()), "a cut must not change the order"
    assert torch.equal(result.layers, plain.layers)
    with torch.no_grad():
        for gate in explainer.gates:
            gate.last.weight.zero_()
    assert explainer.explain(images).mask.isfinite().all(), "a constant score has no spread to divide by"


def test_files_from_before_gates_per_class_or_with_context_still_load(tmp_path):
    vit = shared("vit")
    explainer = loose(vit)
    config = explainer.config()
    assert config.pop("per_class") is False and config.pop("context") is False
    save_state(tmp_path / "old", explainer.state_dict(), config)
    assert DiffMask.load(tmp_path / "old", vit).config() == explainer.config()


@pytest.mark.parametrize(
    "options", [{}, {"placeholder": "learned", "normalise": False}, {"hidden": 5}, {"per_class": True, "context": True}]
)
def test_save_and_load_gives_the_same_explanations(tmp_path, options):
    vit = shared("vit")
    explainer = loose(vit, **options)
    explainer.save(tmp_path / "gates.safetensors")
    loaded = DiffMask.load(tmp_path / "gates.safetensors", vit)
    images = some_images(vit)
    assert torch.equal(loaded.explain(images).layers, explainer.explain(images).layers)
    assert torch.equal(loaded.placeholder, explainer.placeholder) and loaded.config() == explainer.config()


def test_a_placeholder_tensor_is_saved_too(tmp_path):
    vit, given = shared("vit"), removal_of(shared("vit"), "placeholder_per_patch")
    DiffMask(vit, given).save(tmp_path / "gates.safetensors")
    assert torch.equal(DiffMask.load(tmp_path / "gates.safetensors", vit).placeholder, given)


def refused(path, vit, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        DiffMask.load(path, vit)
    assert str(path) in assert_one_sentence(error.value).replace("\\\\", "\\")


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    vit = shared("vit")
    good, path = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    DiffMask(vit).save(good)
    refused(path, vit, "no weights file")
    path.write_bytes(good.read_bytes()[:-100])
    refused(path, vit, "truncated")
    path.write_bytes(pickle.dumps({"gates": 1}))
    refused(path, vit, "pickle")
    torch.save(DiffMask(vit).state_dict(), path)
    refused(path, vit, "pickle")
    save_state(path, {"x": torch.zeros(1)}, {"kind": "vit"})
    refused(path, vit, "not the gates")
    refused(good, shared("no_class_token"), "prefix")
    refused(good, shared("not_square"), "size|grid")
    other = build("vit")
    with torch.no_grad():
        other.patch_embed.proj.weight.add_(1)
    refused(good, other, "other weights")
    assert DiffMask.load(good, other, same_vit=False).vit is other
    tensors, meta = load_state(good)
    save_state(path, {k: v for k, v in tensors.items() if k != "placeholder"}, meta)
    refused(path, vit, "placeholder")


def test_fingerprint_survives_a_change_of_precision_but_not_of_weights():
    vit = build("vit")
    before = fingerprint(vit)
    assert fingerprint(vit.bfloat16()) == before
    with torch.no_grad():
        vit.patch_embed.proj.bias[0] += 1
    assert fingerprint(vit) != before
    assert len(before) == 16


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_threshold_must_be_a_probability(threshold):
    vit = shared("vit")
    with pytest.raises(ValueError, match="threshold") as error:
        DiffMask(vit).explain(some_images(vit), threshold)
    assert_one_sentence(error.value)


def test_verify_refuses_a_soft_mask():
    vit = shared("vit")
    explainer, images = DiffMask(vit), some_images(vit)
    with pytest.raises(ValueError, match="hard mask") as error:
        explainer.verify(images, explainer.explain(images).mask)
    assert_one_sentence(error.value)


def test_half_precision_vits_are_explained():
    vit = build("vit").bfloat16()
    images = some_images(vit)
    result = DiffMask(vit).explain(images)
    assert result.mask.isfinite().all() and result.logits.dtype == torch.bfloat16


@every_family
def test_explaining_at_a_depth_uses_the_gates_so_far_and_runs_the_blocks_so_far(family):
    vit = shared(family)
    explainer, images = loose(vit), some_images(vit, 2)
    whole, blocks = explainer.explain(images), []
    handles = [block.register_forward_hook(lambda _m, _a, _o, i=i: blocks.append(i)) for i, block in enumerate(vit.blocks)]
    try:
        for depth in range(explainer.body.depth + 1):
            blocks.clear()
            result = explainer.explain(images, depth=depth)
            assert blocks == list(range(depth)) and result.logits is None
            assert result.layers.shape[1] == depth + 2
            torch.testing.assert_close(result.layers, whole.layers[:, : depth + 2])
            torch.testing.assert_close(result.mask, whole.layers[:, : depth + 2].prod(1))
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(result.score, whole.score)


def test_stopping_early_leaves_nothing_on_the_vit():
    vit = build("vit").train()
    explainer = DiffMask(vit)
    before = [m.training for m in vit.modules()], [p.requires_grad for p in vit.parameters()]
    for depth in (0, 1, 3):
        explainer.explain(some_images(vit), depth=depth)
    assert ([m.training for m in vit.modules()], [p.requires_grad for p in vit.parameters()]) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in vit.modules())
    images = some_images(vit)
    keep = explainer.explain(images, depth=1).keep
    assert explainer.verify(images, keep).kl.shape == (3,)  # it asks for the prediction itself


@pytest.mark.parametrize("depth", [-1, 4, 1.5, "all"])
def test_a_depth_that_is_none_gets_one_sentence(depth):
    with pytest.raises(ValueError, match="0 … 3") as error:
        DiffMask(shared("vit")).explain(some_images(shared("vit")), depth=depth)
    assert_one_sentence(error.value)


def test_gates_per_class_take_no_depth():
    with pytest.raises(ValueError, match="leave depth out") as error:
        DiffMask(shared("vit"), per_class=True).explain(some_images(shared("vit")), depth=2)
    assert_one_sentence(error.value)


def test_a_warm_start_on_other_weights_has_their_own_mean_patch(tmp_path):
    one, other = build("vit"), build("vit")
    with torch.no_grad():
        other.patch_embed.proj.bias.add_(1)
    DiffMask(one, seed=4).save(tmp_path / "gates")
    warm = DiffMask.load(tmp_path / "gates", other, same_vit=False)
    assert torch.equal(warm.gates[0].first.weight, DiffMask(one, seed=4).gates[0].first.weight)
    assert torch.equal(warm.placeholder, DiffMask(other).placeholder)
