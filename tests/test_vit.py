"""Patches are followed and taken away exactly in every family that fits, and the ViT is left as it was."""

import copy
import dataclasses
import fnmatch
import signal
import sys
import threading
import weakref

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.utils import AttentionExtract
from torch import nn

from diffmask_lite import DiffMask, fit
from diffmask_lite.attribution import METHODS
from diffmask_lite.vit import (
    UnfitViT,
    anatomy,
    attention_maps,
    hidden_states,
    pixel_range,
    predict,
    removal,
    replace_embedding,
    to_pixels,
    weigh_tokens,
)
from families import (
    CLASSES,
    FAMILIES,
    POOLED,
    REPRESENTATIVES,
    SMALL,
    WAYS,
    assert_one_sentence,
    assert_patches_can_be_taken_away,
    build,
    double,
    left_as_it_was,
    odd,
    removal_of,
    shared,
    some_images,
    some_keep,
)

each_family = pytest.mark.parametrize("family", FAMILIES)
each_representative = pytest.mark.parametrize("family", REPRESENTATIVES)


@pytest.fixture(autouse=True)
def no_grad_by_default():
    with torch.no_grad():
        yield


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


# What fits


@each_family
def test_anatomy(family):
    wanted, shape = FAMILIES[family], anatomy(shared(family))
    assert (shape.size, shape.grid, shape.prefix) == (wanted.size, wanted.grid, wanted.prefix)
    assert (shape.width, shape.depth, shape.classes) == (48, 3, CLASSES)
    assert (shape.patches, shape.states) == (wanted.grid[0] * wanted.grid[1], 5)
    assert shape.class_tokens == (0 if family in POOLED else 2 if family == "distilled" else 1)


def test_anatomy_is_probed_once_and_again_on_request_and_its_memory_keeps_no_vit_alive():
    model = build("vit")
    first = anatomy(model)
    assert anatomy(model) is first
    model.reset_classifier(4)
    assert anatomy(model, refresh=True).classes == 4
    ref = weakref.ref(model)
    del model
    assert ref() is None


def changed(change, known=False):
    def make():
        model = build("vit")
        if known:
            anatomy(model)
        change(model)
        return model

    return make


def made(name, **options):
    return lambda: timm.create_model(name, **{"num_classes": CLASSES, **options})


UNFIT = {
    "cnn": (made("resnet18"), "ResNet does not fit: it has no `patch_embed`"),
    "swin": (
        made("swin_tiny_patch4_window7_224", img_size=56, embed_dim=24, depths=(1, 1), num_heads=(2, 2)),
        "SwinTransformer does not fit: it has no `patch_embed` followed by a list of `blocks`",
    ),
    "cait": (
        made("cait_xxs24_224", img_size=64, embed_dim=48, depth=2, num_heads=4),
        "Cait does not fit: block 0 takes the shape (1, 16, 48), not (1, 17, 48)",
    ),
    "sam": (made("samvit_base_patch16", img_size=64, embed_dim=48, depth=2, num_heads=3), "`num_prefix_tokens`"),
    "xcit": (made("xcit_nano_12_p16_224", img_size=64, depth=2), "`patch_embed` gave no tensor"),
    "no_head": (made("vit_tiny_patch16_224", img_size=64, num_classes=0, **SMALL), "its head has 0 outputs"),
    "one_logit": (made("vit_tiny_patch16_224", img_size=64, num_classes=1, **SMALL), "models.two_class(vit)"),
    "compiled": (lambda: torch.compile(build("vit"), backend="eager"), "it is compiled"),
    "compiled_once_known": (changed(lambda vit: vit.compile(backend="eager"), known=True), "it is compiled"),
    "compiled_block": (changed(lambda vit: vit.blocks[1].compile(backend="eager")), "it is compiled"),
    "wrapped_block": (changed(lambda vit: vit.blocks.append(torch.compile(vit.blocks[1], backend="eager"))), "it is compiled"),
    "data_parallel": (lambda: nn.DataParallel(build("vit")), "it is a wrapper (pass the ViT inside it, its `.module`)"),
    "probe_fails": (changed(lambda vit: setattr(vit, "head", nn.Linear(7, 9))), "a 3 × 64 × 64 image failed"),
    "not_pooled": (made("vit_tiny_patch16_224", img_size=64, global_pool="", **SMALL), "logits of shape (B, classes)"),
    "not_a_model": (lambda: "vit_tiny_patch16_224", "it is not a torch module"),
}


@pytest.mark.parametrize("make, words", UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused_in_one_sentence(make, words):
    with pytest.raises(UnfitViT) as caught:
        anatomy(make())
    assert words in assert_one_sentence(caught.value)


# Taking patches away


@pytest.mark.parametrize("way", WAYS)
@each_family
def test_all_patches_and_no_patch(family, way):
    model = shared(family)
    assert_patches_can_be_taken_away(model, removal_of(model, way))


BROKEN = {
    "zeros": (torch.zeros_like, 1, "changed the logits"),
    "without_effect": (lambda state: state, 1, "still shows"),
    "without_effect_on_a_dull_vit": (lambda state: state, 1e-6, "moved the logits"),  # there every image looks wiped
}


@pytest.mark.parametrize("change, liveliness, words", BROKEN.values(), ids=BROKEN)
@each_representative
def test_a_broken_hook_is_noticed(family, change, liveliness, words, monkeypatch):
    model = build(family)
    for weight in (weight for name, weight in model.named_parameters() if name.startswith("head")):
        weight.mul_(liveliness)
    monkeypatch.setattr(removal, "replace_embedding", lambda model, _change: replace_embedding(model, change))
    with pytest.raises(AssertionError, match=words):
        assert_patches_can_be_taken_away(model, removal_of(model, "placeholder"))


@pytest.mark.parametrize("way", [None, *WAYS])
def test_unchecked_is_the_same_and_without_a_mask_it_is_the_vit(way):
    model = shared("vit")
    images, keep = some_images(model), None if way is None else some_keep(model, [0, 3, 9])
    options = {} if way is None else {"removal": removal_of(model, way)}
    logits = predict(model, images, keep, **options)
    assert torch.equal(removal.predict_unchecked(model, images, keep, **options), logits)
    assert torch.equal(logits, model(images)) == (way is None)


@pytest.mark.parametrize("way", ["placeholder", "placeholder_per_patch"])
@each_representative
def test_placeholder_mixes_with_the_embedding(family, way, monkeypatch):
    model = build(family)
    images, placeholder = some_images(model), removal_of(model, way)
    keep = torch.rand(3, *anatomy(model).grid, generator=torch.Generator().manual_seed(2))
    state = model.patch_embed(images)
    mixed, found = state.clone().flatten(1, -2), predict(model, images, keep, placeholder)
    for b in range(3):
        for i, z in enumerate(keep[b].flatten()):
            mixed[b, i] = z * mixed[b, i] + (1 - z) * (placeholder[i] if placeholder.ndim == 2 else placeholder)
    monkeypatch.setattr(model.patch_embed, "forward", lambda _images: mixed.view_as(state))
    close(found, model(images))


@pytest.mark.parametrize("way", ["mean", "noise"])
@pytest.mark.parametrize("family", ["not_square", "siglip", "pixels_left_over", "one_channel"])
def test_pixels_are_those_of_the_patch(family, way):
    model = shared(family)
    images, keep = some_images(model), some_keep(model, [1, 5, 14])
    step = 14 if family == "pixels_left_over" else 16
    low, high = pixel_range(model)
    noise = low + (high - low) * torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0))

    painted = images.clone()
    for b, row, column in (~keep).nonzero().tolist():
        where = (slice(row * step, (row + 1) * step), slice(column * step, (column + 1) * step))
        painted[b][:, *where] = 0 if way == "mean" else noise[:, *where]
    close(predict(model, images, keep, way), model(painted))


def test_pixels_beyond_the_last_patch_stay_and_patches_end_at_the_border():
    spread = to_pixels(torch.zeros(1, 2, 2, dtype=torch.bool), (7, 5), (3, 2))
    assert spread.shape == (1, 1, 7, 5)
    assert not spread[..., :6, :4].any() and spread[..., 6:, :].all() and spread[..., 4:].all()
    keep = torch.tensor([[[True, False]]])
    assert to_pixels(keep, (2, 3), (2, 2)).flatten(1).tolist() == [[True, True, False] * 2]


def test_noise_is_one_picture_that_follows_its_generator_whatever_the_batch():
    model = shared("vit")
    images, keep = some_images(model), some_keep(model, [2, 6, 9])
    state = torch.get_rng_state()
    together, again = (predict(model, images, keep, "noise") for _ in range(2))
    assert torch.equal(together, again)
    alone = [predict(model, images[i : i + 1], keep[i : i + 1], "noise") for i in range(3)]
    close(torch.cat(alone), together)
    seeds = (torch.Generator().manual_seed(seed) for seed in (0, 7, 8))
    default, first, other = (predict(model, images, keep, "noise", generator=generator) for generator in seeds)
    assert torch.equal(default, together) and (first - other).abs().max() > 0.01
    assert torch.equal(state, torch.get_rng_state())


def test_pixel_range():
    cfg, ends = shared("clip").pretrained_cfg, pixel_range(shared("clip"))
    for value, end in enumerate(ends):
        wanted = [(value - mean) / std for mean, std in zip(cfg["mean"], cfg["std"], strict=True)]
        assert end.flatten().tolist() == pytest.approx(wanted)
    assert pixel_range(shared("one_channel"))[0].shape == (1, 1, 1)
    model = VisionTransformer(img_size=32, num_classes=2, embed_dim=24, depth=1, num_heads=3)
    images, keep = torch.zeros(1, 3, 32, 32), some_keep(model, [1])
    with pytest.raises(ValueError, match="does not say how its pixels are normalised") as caught:
        predict(model, images, keep, "noise")
    assert_one_sentence(caught.value)
    assert predict(model, images, keep, "mean").shape == (1, 2)


def beit_block_by_hand(block, x, rows, bias):
    """One BEiT block on the tokens `rows` alone, with its position bias (heads, T, T) cut to their rows and columns."""
    attn, batch, tokens, heads = block.attn, len(x), x.shape[1], block.attn.num_heads
    shift = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
    q, k, v = (block.norm1(x) @ attn.qkv.weight.T + shift).view(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias[:, rows][:, :, rows]
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = x + block.gamma_1 * attn.proj(mixed)
    return x + block.gamma_2 * block.mlp(block.norm2(x))


def drop_by_hand(model, image, keep):
    """The slow formula, for one image: pick the kept tokens after positions were added, and run the blocks on them.

    No hook of ours and nothing of timm's patch dropout is used. Rotary positions and BEiT's bias are cut to the same tokens.
    """
    kept = keep.flatten().nonzero().squeeze(1)
    rows = torch.cat([torch.arange(model.num_prefix_tokens), kept + model.num_prefix_tokens])
    x = model.patch_embed(image[None])
    if isinstance(model, Beit):
        x = torch.cat([model.cls_token, x], dim=1)[:, rows]
        for block in model.blocks:
            table = model.rel_pos_bias() if model.rel_pos_bias is not None else block.attn._get_rel_pos_bias()[0]
            x = beit_block_by_hand(block, x, rows, table)
    elif isinstance(model, Eva):
        x, rotary = model._pos_embed(x)
        x, rotary = model.norm_pre(x[:, rows]), rotary[..., kept, :]
        for i, block in enumerate(model.blocks):
            x = block(x, rope=rotary[i] if model.rope_mixed else rotary)
    else:
        assert isinstance(model, VisionTransformer)
        x = model.norm_pre(model._pos_embed(x)[:, rows])
        for block in model.blocks:
            x = block(x)
    return model.forward_head(model.norm(x))


@each_family
def test_dropping_equals_the_slow_formula(family):
    """Also in a batch whose images keep different numbers of patches, in no particular order.

    Without any patch it is uniform where only patches are read, and what the prefix tokens say of themselves elsewhere.
    """
    model = shared(family)
    most = anatomy(model).patches
    counts = [most // 2, 0, 1, most, most // 2, most - 1]
    images, keep = some_images(model, len(counts)), some_keep(model, counts)
    slow = [
        torch.zeros(1, CLASSES) if family in POOLED and not mask.any() else drop_by_hand(model, image, mask)
        for image, mask in zip(images, keep, strict=True)
    ]
    fast = predict(model, images, keep, "drop")
    close(fast, torch.cat(slow))
    assert (fast[1].std() > 0.1) == (family not in POOLED)


@each_family
def test_dropping_by_degrees_ends_in_dropping(family):
    model = shared(family)
    images, shape = some_images(model), anatomy(model)
    keep = some_keep(model, [shape.patches - 1, shape.patches // 2, 1])
    sharp = predict(model, images, keep, "drop")
    close(predict(model, images, keep.float(), "drop"), sharp)
    close(predict(model, images, torch.ones(3, *shape.grid), "drop"), model(images))
    assert predict(model, images, torch.zeros(3, *shape.grid), "drop").isfinite().all()
    half = predict(model, images, (keep + 1.0) / 2, "drop")
    assert ((half - sharp).abs().amax(1) > 1e-3).all(), "half a patch is no patch, so this test sees nothing"


@pytest.mark.parametrize("way", ["drop", "placeholder"])
@each_representative
def test_slopes_equal_finite_differences(family, way):
    model = double(family)
    images, gone = some_images(model, 1), removal_of(model, way)
    z = torch.rand(1, *anatomy(model).grid, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1

    def loss(z, gone=gone):
        return predict(model, images, z, gone).log_softmax(1)[0, :2]

    with torch.enable_grad():
        inputs = (z.requires_grad_(),) if way == "drop" else (z.requires_grad_(), gone.requires_grad_())
        assert torch.autograd.gradcheck(loss, inputs, atol=1e-6, fast_mode=True)
        edge = z.detach().clone()
        edge[0, 0] = 0  # the first row is gone, and could come back
        loss(edge.requires_grad_())[0].backward()
    assert edge.grad.isfinite().all() and (edge.grad != 0).all()
    assert all(weight.grad is None for weight in model.parameters())


def test_weights_scale_attention_as_a_softmax_would():
    """softmax(s)_j keep_j, scaled to sum 1, is softmax(s + log keep)_j."""
    model = build("vit")
    images, seen = some_images(model, 2), []
    keep = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) + 0.1
    plain = attention_maps(model, images)[:, 0]
    with weigh_tokens(model, keep):
        model.blocks[0].attn.attn_drop.register_forward_hook(lambda _m, _a, out: seen.append(out))
        model(images)
    logits = plain.log() + torch.cat([torch.ones(2, 1), keep], 1).log()[:, None, None]
    close(seen[0], logits.softmax(-1))


def test_drop_saves_work():
    """Apart from BEiT the blocks see the kept tokens only."""
    model, lengths = build("vit"), []
    images, keep = some_images(model, 2), some_keep(model, [3, 7])
    model.blocks[2].register_forward_pre_hook(lambda _m, args: lengths.append(args[0].shape[1]))
    predict(model, images, keep, "drop")
    assert lengths == [4, 8]


@pytest.mark.parametrize("name, pool", [("relpos_small", "avg"), ("tiny", "max"), ("tiny", "avgmax")])
def test_drop_is_refused_by_name_where_nobody_has_shown_it_exact(name, pool):
    options = {"img_size": 64, "num_classes": CLASSES, "global_pool": pool, **SMALL}
    model = timm.create_model(f"vit_{name}_patch16_224", **options).eval()
    images = some_images(model)
    words = r'VisionTransformerRelPos.*removal="mean"' if pool == "avg" else "by degrees is known only for"
    for keep in (some_keep(model, [0, 0, 0]), some_keep(model, [5, 0, 7])):
        with pytest.raises(UnfitViT, match=words) as caught:
            predict(model, images, keep if pool == "avg" else keep.float(), "drop")
        assert_one_sentence(caught.value)
        assert predict(model, images, keep, "mean").shape == (3, CLASSES)


class Both(VisionTransformer):
    """Its head reads the class token beside the mean over the patches."""

    def __init__(self, **options):
        super().__init__(**options)
        self.head = nn.Linear(2 * self.embed_dim, self.num_classes)

    def forward_head(self, x, pre_logits=False):
        return self.head(torch.cat([x[:, 0], x[:, 1:].mean(1)], 1))


def test_a_subclass_that_reads_its_tokens_in_another_way_is_not_dropped_by_degrees():
    """The mean would run over patches that are gone: logits were 0.22 off."""
    model = Both(img_size=64, num_classes=CLASSES, **SMALL).eval()
    images, keep = some_images(model), some_keep(model, [1, 5, 7])
    for _ in range(2):
        with left_as_it_was(model), pytest.raises(UnfitViT, match="Both reads its tokens in a way of its own") as caught:
            predict(model, images, keep.float(), "drop")
        assert_one_sentence(caught.value)
    with pytest.raises(UnfitViT, match="way of its own"):
        DiffMask(model, "drop")
    with pytest.raises(UnfitViT, match="no direct terms") as caught:
        DiffMask(model, class_aware=True)
    assert_one_sentence(caught.value)
    for b, kept in enumerate(keep.flatten(1)):  # sharply, its own code reads what is left
        left = torch.cat([torch.tensor([True]), kept])
        handle = model.blocks[0].register_forward_pre_hook(lambda _m, args, left=left: args[0][:, left])
        wanted = model(images[b : b + 1])
        handle.remove()
        close(predict(model, images, keep, "drop")[b : b + 1], wanted)
    assert DiffMask(model).explain(images).mask.shape == (3, 4, 4)


SURGERY = {
    "head by hand": (lambda model: setattr(model, "head", nn.Linear(48, 7)), {"classes": 7}),
    "head of timm": (lambda model: model.reset_classifier(7), {"classes": 7}),
    "pooling": (lambda model: model.reset_classifier(7, "avg"), {"classes": 7, "class_tokens": 0}),
    "size": (lambda model: model.set_input_size((96, 64)), {"size": (96, 64), "grid": (6, 4)}),
    "depth": (lambda model: setattr(model, "blocks", model.blocks[:2]), {"depth": 2}),
    "depth in place": (lambda model: model.blocks.pop(2), {"depth": 2}),
    "problem": (
        lambda model: model.pretrained_cfg.update(problem_type="multi_label_classification"), {"multilabel": True}
    ),
}  # fmt: skip


@pytest.mark.parametrize("operate, changed", SURGERY.values(), ids=SURGERY)
def test_a_vit_that_was_changed_is_looked_at_again_and_its_old_gates_are_refused(operate, changed):
    model = build("vit")
    before, explainer = anatomy(model), DiffMask(model)
    operate(model)
    assert anatomy(model) == dataclasses.replace(before, **changed)
    images = some_images(model, 2)
    keep = some_keep(model, [0, 3])
    assert predict(model, images, keep).shape == (2, anatomy(model).classes)
    ways = (
        lambda: explainer.explain(images), lambda: explainer.verify(images, keep),
        lambda: fit(explainer, images, 1, batch=2, progress=False),
    )  # fmt: skip
    for ask in ways:
        with pytest.raises(ValueError, match="when its gates were made") as caught:
            ask()
        assert_one_sentence(caught.value)
    assert DiffMask(model).explain(images).mask.shape == (2, *anatomy(model).grid)


# Looking inside


@each_representative
def test_hidden_states_and_attention_maps_are_those_that_timm_finds(family, monkeypatch):
    model, entered = build(family), []
    images, forward = some_images(model, 2), model.blocks[0].forward
    states, maps = hidden_states(model, images), attention_maps(model, images)
    outputs = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    monkeypatch.setattr(model.blocks[0], "forward", lambda x, **options: forward(entered.append(x) or x, **options))
    model(images)
    inputs = [model.patch_embed(images).flatten(1, -2), entered[0][:, FAMILIES[family].prefix :]]
    close(torch.stack(states), torch.stack(inputs + outputs))

    oracle = copy.deepcopy(shared(family))  # its hooks stay on, and it fails under fused attention
    for module in oracle.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    found = AttentionExtract(oracle, method="hook")(images)
    blocks = [value for name, value in found.items() if fnmatch.fnmatch(name, "blocks.*.attn.attn_drop")]
    close(maps, torch.stack(blocks, dim=1))


NO_MAPS = {
    # Differential attention (Ye et al., 2024) passes two maps a head, of which one counts against what it looks at.
    "subtracted": ("vit_dlittle_patch16_reg1_gap_256", 96, 4, "combines 8 of them into those of its 4 heads"),
    "missing": ("vit_tiny_patch16_224", 48, 3, "no attention maps to read: block 1"),
}


@pytest.mark.parametrize("name, width, heads, words", NO_MAPS.values(), ids=NO_MAPS)
def test_attention_maps_are_refused_where_there_are_none(name, width, heads, words):
    model = timm.create_model(name, img_size=64, num_classes=CLASSES, embed_dim=width, depth=2, num_heads=heads).eval()
    if "block 1" in words:
        del model.blocks[1].attn.attn_drop
    with left_as_it_was(model), pytest.raises(UnfitViT, match=words) as caught:
        attention_maps(model, some_images(model))
    assert_one_sentence(caught.value)


# The guest

ACTIONS = {
    **{f"predict {way}": lambda e, x, keep, way=way: predict(e.vit, x, keep, removal_of(e.vit, way)) for way in WAYS},
    "predict by degrees": lambda e, x, keep: predict(e.vit, x, keep.float(), "drop"),
    "predict": lambda e, x, _keep: predict(e.vit, x),
    "hidden_states": lambda e, x, _keep: hidden_states(e.vit, x),
    "attention_maps": lambda e, x, _keep: attention_maps(e.vit, x),
    "anatomy": lambda e, _x, _keep: anatomy(e.vit, refresh=True),
    "new explainer": lambda e, _x, _keep: DiffMask(e.vit),
    "explain": lambda e, x, _keep: e.explain(x),
    "explain at a depth": lambda e, x, _keep: e.explain(x, depth=2),
    "verify": lambda e, x, keep: e.verify(x, keep),
}


@pytest.mark.parametrize("action", ACTIONS)
@each_representative
def test_the_vit_is_left_as_it_was_also_after_an_exception_in_a_forward(family, action, monkeypatch):
    model = odd(family)
    with torch.enable_grad(), left_as_it_was(model):
        explainer, images, keep = DiffMask(model), some_images(model, 2), some_keep(model, [1, 3])
        result = ACTIONS[action](explainer, images, keep)
    if action.startswith("explain"):
        assert result.mask.isfinite().all()

    def fail(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(model.blocks[1], "forward", fail)
    # The probe says in a sentence that the forward failed; everything else lets the exception through.
    error = UnfitViT if action in ("anatomy", "new explainer") else ZeroDivisionError
    with torch.enable_grad(), pytest.raises(error), left_as_it_was(model):
        ACTIONS[action](explainer, images, keep)


@each_family
def test_every_family_is_seen_into_explained_and_left_as_it_was(family):
    model = odd(family)
    with torch.enable_grad(), left_as_it_was(model):
        explainer, images, shape = DiffMask(model), some_images(model, 2), anatomy(model)
        result = explainer.explain(images)
        check = explainer.verify(images, result.keep)
        states, maps = hidden_states(model, images), attention_maps(model, images)
        for way in WAYS:
            predict(model, images, some_keep(model, [0, 3]), removal_of(model, way))
    assert result.mask.shape == (2, *shape.grid) and result.layers.shape == (2, shape.states, *shape.grid)
    assert all(part.isfinite().all() for part in (result.mask, result.layers, result.score, result.logits, check.kl))
    assert [state.shape for state in states] == [(2, shape.patches, shape.width)] * shape.states
    tokens = shape.prefix + shape.patches
    assert maps.shape == (2, shape.depth, 3, tokens, tokens) and (maps >= 0).all()
    close(maps.sum(-1), torch.ones(2, shape.depth, 3, tokens))


def interrupted(action, at=0):
    """Press Ctrl-C at one of the places where Python looks for signals, and return how many places an action came by."""
    places = 0

    def look(_frame, event, _arg):
        nonlocal places
        if event in ("call", "c_return"):  # a function begins, or one that is not written in Python has ended
            places += 1
            if places == at:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)

    sys.setprofile(look)
    try:
        action()
    finally:
        sys.setprofile(None)
    return places


INTERRUPTED = {key: ACTIONS[key] for key in ("explain", "predict drop", "predict by degrees", "anatomy")}
INTERRUPTED["legrad"] = lambda e, x, _keep: METHODS["legrad"](e.vit, x)


@pytest.mark.parametrize("action", INTERRUPTED)
def test_ctrl_c_at_any_moment_stops_and_leaves_the_vit_as_it_was(action):
    model, outside = odd("vit"), signal.getsignal(signal.SIGINT)
    explainer, images, keep = DiffMask(model, "drop", class_aware=True), some_images(model, 2), some_keep(model, [1, 3])

    def act():
        with torch.enable_grad():
            INTERRUPTED[action](explainer, images, keep)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
    try:
        act()  # what is done only once
        for at in range(1, interrupted(act), 29):
            with left_as_it_was(model), pytest.raises(KeyboardInterrupt):
                interrupted(act, at)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)


@pytest.mark.parametrize("way", ["drop", "placeholder"])
def test_a_second_thread_waits_for_its_turn_on_a_vit(way):
    """While the first thread is inside with patches taken away, the second asks about whole images."""
    model = build("vit").train()
    images, keep = some_images(model), some_keep(model, [1, 2, 3])
    wanted = predict(model, images, keep, removal_of(model, way)), predict(model, images)
    inside, found = threading.Event(), {}

    def first():
        found[0] = predict(model, images, keep, removal_of(model, way))

    def second():
        inside.wait()
        found[1] = predict(model, images)

    threads = [threading.Thread(target=torch.no_grad()(work)) for work in (first, second)]

    def linger(*_):
        if threading.current_thread() is threads[0] and not inside.is_set():
            inside.set()
            threads[1].join(0.5)  # if it does not wait, it is through by then

    model.blocks[1].register_forward_pre_hook(linger)
    with left_as_it_was(model):
        [thread.start() for thread in reversed(threads)]
        [thread.join() for thread in threads]
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


LEFTOVERS = {
    "hook": lambda model, block: block.register_forward_hook(lambda *_: None),
    "mode": lambda model, block: block.train(),
    "flag": lambda model, block: block.mlp.fc1.weight.requires_grad_(False),
    "attribute": lambda model, block: setattr(block, "visited", True),
    "fused": lambda model, block: setattr(block.attn, "fused_attn", False),
    "checkpointing": lambda model, block: model.set_grad_checkpointing(),
    "module": lambda model, block: setattr(block, "norm1", copy.deepcopy(block.norm1)),
    "weight": lambda model, block: block.mlp.fc1.bias[0].add_(1),
    "gradient": lambda model, block: next(model.parameters()).grad.zero_(),
    "new gradient": lambda model, block: setattr(block.mlp.fc1.bias, "grad", torch.ones(192)),
}


@pytest.mark.parametrize("leave", LEFTOVERS.values(), ids=LEFTOVERS)
def test_what_was_left_is_noticed(leave):
    model = odd("vit")
    with pytest.raises(AssertionError), left_as_it_was(model):
        leave(model, model.blocks[1])
    with pytest.raises(AssertionError), left_as_it_was(odd("vit")) as model:
        leave(model, model.blocks[1])
        raise ZeroDivisionError


def test_patch_drop_of_the_models_own_comes_back():
    """A rotary ViT that was trained with patch dropout has a module of that name; ours only stands in front of it."""
    model = timm.create_model("eva02_tiny_patch14_224", img_size=56, num_classes=CLASSES, patch_drop_rate=0.5, **SMALL)
    assert isinstance(model.patch_drop, nn.Module)
    with left_as_it_was(model.eval()):
        predict(model, some_images(model), some_keep(model, [1, 2, 3]), "drop")


def test_a_training_vit_is_asked_in_eval_mode():
    """Dropout is off inside, so the answer is the same each time."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=CLASSES, drop_rate=0.5, **SMALL).train()
    assert torch.equal(predict(model, some_images(model)), predict(model, some_images(model)))
