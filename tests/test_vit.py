"""Patches are followed and taken away exactly in every family that fits, and the ViT is left as it was."""

import contextlib
import copy
import fnmatch
import weakref

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.utils import AttentionExtract
from torch import nn

from diffmask_lite import vit as see
from families import (
    CLASSES,
    FAMILIES,
    POOLED,
    REMOVALS,
    SMALL,
    assert_one_sentence,
    assert_patches_can_be_taken_away,
    build,
    double,
    removal_of,
    shared,
    some_images,
    some_keep,
    some_placeholder,
)

each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def no_grad_by_default():
    with torch.no_grad():
        yield


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# What fits


@each_family
def test_anatomy(family):
    wanted, body = FAMILIES[family], see.anatomy(shared(family))
    assert (body.size, body.grid, body.prefix) == (wanted.size, wanted.grid, wanted.prefix)
    assert (body.width, body.depth, body.classes) == (48, 3, CLASSES)
    assert body.patches == wanted.grid[0] * wanted.grid[1]
    assert body.states == 5


def test_anatomy_is_probed_once_and_again_on_request():
    model = build("vit")
    first = see.anatomy(model)
    assert see.anatomy(model) is first
    model.reset_classifier(4)
    assert see.anatomy(model, refresh=True).classes == 4


def compiled():
    return torch.compile(build("vit"), backend="eager")


def compiled_in_place():
    model = build("vit")
    model.compile(backend="eager")
    return model


def compiled_in_place_after_it_was_known():
    model = build("vit")
    see.anatomy(model)
    model.compile(backend="eager")
    return model


def with_one_compiled_block():
    model = build("vit")
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    return model


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
    "convit": (
        made("convit_tiny", img_size=64, depth=3, local_up_to_layer=2),
        "ConVit does not fit: block 0 takes the shape (1, 16, 192), not (1, 17, 192)",
    ),
    "sam": (made("samvit_base_patch16", img_size=64, embed_dim=48, depth=2, num_heads=3), "`num_prefix_tokens`"),
    "hiera": (made("hiera_tiny_224", embed_dim=16, stages=(1, 1, 1, 1)), "`num_prefix_tokens`"),
    "xcit": (made("xcit_nano_12_p16_224", img_size=64, depth=2), "`patch_embed` gave no tensor"),
    "crossvit": (made("crossvit_tiny_240", embed_dim=(24, 48), num_heads=(3, 3)), "`num_prefix_tokens`"),
    "no_head": (made("vit_tiny_patch16_224", img_size=64, num_classes=0, **SMALL), "its head has 0 outputs"),
    "one_logit": (made("vit_tiny_patch16_224", img_size=64, num_classes=1, **SMALL), "its head has 1 outputs"),
    "compiled": (compiled, "it is compiled"),
    "compiled_in_place": (compiled_in_place, "it is compiled"),
    "compiled_later": (compiled_in_place_after_it_was_known, "it is compiled"),
    "compiled_block": (with_one_compiled_block, "it is compiled"),
    "data_parallel": (lambda: nn.DataParallel(build("vit")), "it is a wrapper (pass the ViT inside it, its `.module`)"),
    "not_pooled": (made("vit_tiny_patch16_224", img_size=64, global_pool="", **SMALL), "logits of shape (B, 10)"),
    "not_a_model": (lambda: "vit_tiny_patch16_224", "it is not a torch module"),
}


@pytest.mark.parametrize("make, words", UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused_in_one_sentence(make, words):
    with pytest.raises(see.UnfitViT) as caught:
        see.anatomy(make())
    assert words in assert_one_sentence(caught.value)


def test_a_vit_that_fails_its_probe_is_refused():
    model = build("vit")
    model.head = nn.Linear(7, CLASSES)
    with pytest.raises(see.UnfitViT, match="one forward pass on a 3 × 64 × 64 image failed"):
        see.anatomy(model)


# Taking patches away


@pytest.mark.parametrize("removal", REMOVALS)
@each_family
def test_all_patches_and_no_patch(family, removal):
    model = shared(family)
    assert_patches_can_be_taken_away(model, removal_of(model, removal))


@pytest.mark.parametrize("broken", [torch.zeros_like, lambda state: state], ids=["zeros", "never_fires"])
@each_family
def test_a_broken_hook_is_noticed(family, broken, monkeypatch):
    """The two ways in which a hook on the embedding fails: it returns zeros whatever the mask, or changes nothing."""
    model, right = shared(family), see.replace_embedding
    monkeypatch.setattr(see, "replace_embedding", lambda model, _change: right(model, broken))
    with pytest.raises(AssertionError, match=r"changed the logits|still shows"):
        assert_patches_can_be_taken_away(model, some_placeholder(model))


def test_a_hook_without_effect_on_a_dull_vit_is_noticed(monkeypatch):
    """With a nearly constant ViT every image looks wiped; the demand for movement is what notices."""
    model = build("vit")
    model.head.weight.mul_(1e-6)
    monkeypatch.setattr(see, "replace_embedding", lambda _model, _change: contextlib.nullcontext())
    with pytest.raises(AssertionError, match="moved the logits"):
        assert_patches_can_be_taken_away(model, some_placeholder(model))


class Embedded(nn.Module):
    """Stands in for `patch_embed` and returns a given embedding: replacement without a hook."""

    def __init__(self, like, state):
        super().__init__()
        self.state = state
        vars(self).update({k: v for k, v in vars(like).items() if not k.startswith("_")})

    def forward(self, _images):
        return self.state


@pytest.mark.parametrize("per_patch", [False, True])
@each_family
def test_placeholder_mixes_with_the_embedding(family, per_patch):
    model = shared(family)
    images, placeholder = some_images(model), some_placeholder(model, per_patch)
    keep = torch.rand(3, *see.anatomy(model).grid, generator=torch.Generator().manual_seed(2))

    state = model.patch_embed(images)
    mixed = state.clone().flatten(1, -2)
    for b in range(3):
        for i, z in enumerate(keep[b].flatten()):
            mixed[b, i] = z * mixed[b, i] + (1 - z) * (placeholder[i] if per_patch else placeholder)
    altered = copy.deepcopy(model)
    altered.patch_embed = Embedded(model.patch_embed, mixed.view_as(state))
    close(see.predict(model, images, keep, placeholder), altered(images))


@pytest.mark.parametrize("removal", ["mean", "noise"])
@pytest.mark.parametrize("family", ["vit", "not_square", "siglip", "pixels_left_over", "one_channel"])
def test_pixels_are_those_of_the_patch(family, removal):
    model = shared(family)
    images, keep = some_images(model), some_keep(model, [1, 5, 14])
    step = 14 if family == "pixels_left_over" else 16
    low, high = see.pixel_range(model)
    noise = low + (high - low) * torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(0))

    painted = images.clone()
    for b, row, column in (~keep).nonzero().tolist():
        where = (slice(row * step, (row + 1) * step), slice(column * step, (column + 1) * step))
        painted[b][:, *where] = 0 if removal == "mean" else noise[:, *where]
    close(see.predict(model, images, keep, removal), model(painted))


def test_pixels_beyond_the_last_patch_stay():
    spread = see.to_pixels(torch.zeros(1, 2, 2, dtype=torch.bool), (7, 5), (3, 2))
    assert spread.shape == (1, 1, 7, 5)
    assert not spread[..., :6, :4].any() and spread[..., 6:, :].all() and spread[..., 4:].all()


def test_padded_patches_are_cut_at_the_border():
    keep = torch.tensor([[[True, False]]])
    assert see.to_pixels(keep, (2, 3), (2, 2)).flatten(1).tolist() == [[True, True, False] * 2]


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
    """Also in a batch whose images keep different numbers of patches, in no particular order."""
    model = shared(family)
    most = see.anatomy(model).patches
    counts = [most // 2, 1, most, most // 2, most - 1, 1]
    images, keep = some_images(model, len(counts)), some_keep(model, counts)
    slow = torch.cat([drop_by_hand(model, image, mask) for image, mask in zip(images, keep, strict=True)])
    fast = see.predict(model, images, keep, "drop")
    close(fast, slow)
    alone = [see.predict(model, images[i : i + 1], keep[i : i + 1], "drop") for i in range(len(counts))]
    close(fast, torch.cat(alone))


@each_family
def test_dropping_every_patch(family):
    """Uniform where only patches are read; what the prefix tokens say of themselves where a class token is read."""
    model = shared(family)
    images, keep = some_images(model, 2), some_keep(model, [0, 3])
    logits = see.predict(model, images, keep, "drop")
    if family in POOLED:
        close(logits[0].softmax(0), torch.full((CLASSES,), 0.1))
    else:
        close(logits[:1], drop_by_hand(model, images[0], keep[0]))
        assert logits[0].std() > 0.1
    close(logits[1:], drop_by_hand(model, images[1], keep[1]))


@each_family
def test_dropping_by_degrees_ends_in_dropping(family):
    model = shared(family)
    images, grid = some_images(model), see.anatomy(model).grid
    patches = grid[0] * grid[1]
    keep = some_keep(model, [patches - 1, patches // 2, 1])
    with torch.no_grad():
        sharp = see.predict(model, images, keep, "drop")
        close(see.predict(model, images, keep.float(), "drop"), sharp, atol=2e-5)
        close(see.predict(model, images, torch.ones(3, *grid), "drop"), model(images))
        assert see.predict(model, images, torch.zeros(3, *grid), "drop").isfinite().all()
        half = see.predict(model, images, (keep + 1.0) / 2, "drop")
    assert ((half - sharp).abs().amax(1) > 1e-3).all(), "half a patch is no patch, so this test sees nothing"


@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip", "beit", "no_class_token"])
def test_the_slope_of_dropping_by_degrees_equals_finite_differences(family):
    model = double(family)
    images = some_images(model, 1)
    keep = torch.rand(1, *see.anatomy(model).grid, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    with torch.enable_grad():
        assert torch.autograd.gradcheck(lambda z: see.predict(model, images, z, "drop"), keep.requires_grad_())
        gone = keep.detach().clone()
        gone[0, 0] = 0  # the first row is dropped, and could come back
        (slope,) = torch.autograd.grad(see.predict(model, images, gone.requires_grad_(), "drop")[0, 0], gone)
    assert slope.isfinite().all() and (slope[0, 0] != 0).all()


def test_weights_scale_attention_as_a_softmax_would():
    """softmax(s)_j keep_j, scaled to sum 1, is softmax(s + log keep)_j."""
    model = shared("vit")
    images, seen = some_images(model, 2), []
    keep = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) + 0.1
    plain = see.attention_maps(model, images)[:, 0]
    with see.weigh_tokens(model, keep), torch.no_grad():
        handle = model.blocks[0].attn.attn_drop.register_forward_hook(lambda _m, _a, out: seen.append(out))
        model(images)
        handle.remove()
    logits = plain.log() + torch.cat([torch.ones(2, 1), keep], 1).log()[:, None, None]
    close(seen[0], logits.softmax(-1))


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_dropping_by_degrees_is_refused_where_the_pool_is_unknown(pool):
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=CLASSES, global_pool=pool, **SMALL).eval()
    with pytest.raises(see.UnfitViT, match="by degrees is known only for") as error:
        see.predict(model, some_images(model), torch.rand(3, 4, 4), "drop")
    assert_one_sentence(error.value)


def test_drop_saves_work():
    """Apart from BEiT the blocks see the kept tokens only."""
    model, lengths = shared("vit"), []
    handle = model.blocks[2].register_forward_pre_hook(lambda _m, args: lengths.append(args[0].shape[1]))
    try:
        see.predict(model, some_images(model, 2), some_keep(model, [3, 7]), "drop")
    finally:
        handle.remove()
    assert lengths == [4, 8]


@pytest.mark.parametrize("count", [0, 5])
def test_drop_is_refused_by_name_where_nobody_has_shown_it_exact(count):
    model = timm.create_model("vit_relpos_small_patch16_224", img_size=64, num_classes=CLASSES, **SMALL)
    images, keep = some_images(model, 1), some_keep(model, [count])
    with pytest.raises(see.UnfitViT) as caught:
        see.predict(model, images, keep, "drop")
    message = assert_one_sentence(caught.value)
    assert "VisionTransformerRelPos" in message and 'removal="mean"' in message
    assert see.predict(model, images, keep, "mean").shape == (1, CLASSES)


def test_without_a_mask_it_is_the_vit():
    model = shared("vit")
    images = some_images(model)
    assert torch.equal(see.predict(model, images), model(images))


@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip", "beit"])
def test_gradient_equals_finite_differences(family):
    model = double(family)
    images, placeholder = some_images(model, 1), some_placeholder(model)
    keep = torch.rand(1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.enable_grad():
        keep.requires_grad_(), placeholder.requires_grad_()

        def loss(keep, placeholder):
            return see.predict(model, images, keep, placeholder).log_softmax(1)[0, :2]

        assert torch.autograd.gradcheck(loss, (keep, placeholder), atol=1e-6, fast_mode=True)
        loss(keep, placeholder)[0].backward()
    assert keep.grad.abs().max() > 1e-3
    assert all(weight.grad is None for weight in model.parameters())


def test_a_placeholder_of_another_precision_is_used_as_it_fits():
    model = shared("vit")
    images, keep, placeholder = some_images(model), some_keep(model, [1, 2, 3]), some_placeholder(model)
    expected = see.predict(model, images, keep, placeholder)
    close(see.predict(model, images, keep, placeholder.double()), expected)


def test_noise_is_one_picture_whatever_the_batch():
    model = shared("vit")
    images, keep = some_images(model), some_keep(model, [2, 6, 9])
    together = see.predict(model, images, keep, "noise")
    assert torch.equal(together, see.predict(model, images, keep, "noise"))
    for i in range(3):
        close(see.predict(model, images[i : i + 1], keep[i : i + 1], "noise"), together[i : i + 1])


def test_noise_follows_its_generator():
    model = shared("vit")
    images, keep = some_images(model), some_keep(model, [2, 6, 9])
    first, again, other = (
        see.predict(model, images, keep, "noise", generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.01
    state = torch.get_rng_state()
    see.predict(model, images, keep, "noise")
    assert torch.equal(state, torch.get_rng_state())


def test_pixel_range():
    model = shared("clip")
    low, high = see.pixel_range(model)
    cfg = model.pretrained_cfg
    for c in range(3):
        assert low[c].item() == pytest.approx((0 - cfg["mean"][c]) / cfg["std"][c])
        assert high[c].item() == pytest.approx((1 - cfg["mean"][c]) / cfg["std"][c])
    assert see.pixel_range(shared("one_channel"))[0].shape == (1, 1, 1)


def test_noise_needs_to_know_the_normalisation():
    model = VisionTransformer(img_size=32, num_classes=2, embed_dim=24, depth=1, num_heads=3)
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="does not say how its pixels are normalised") as caught:
        see.predict(model, images, some_keep(model, [1]), "noise")
    assert_one_sentence(caught.value)
    assert see.predict(model, images, some_keep(model, [1]), "mean").shape == (1, 2)


# Looking inside


def first_input(model, images):
    """What the first block takes, put together from the model's parts."""
    x = model.patch_embed(images)
    if isinstance(model, Beit):
        return torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    x = model._pos_embed(x)
    return model.norm_pre(x[0] if isinstance(model, Eva) else x)


@each_family
def test_hidden_states(family):
    model = shared(family)
    images, body = some_images(model), see.anatomy(model)
    states = see.hidden_states(model, images)
    assert len(states) == body.depth + 2 == body.states
    assert all(state.shape == (3, body.patches, body.width) for state in states)
    close(states[0], model.patch_embed(images).flatten(1, -2))
    close(states[1], first_input(model, images)[:, FAMILIES[family].prefix :])
    outputs = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    for state, output in zip(states[2:], outputs, strict=True):
        close(state, output)


@pytest.mark.parametrize("family", ["vit", "dinov3", "beit"])
def test_observe_keeps_nothing(family):
    model, order, earlier = shared(family), [], []

    def callback(i, state):
        assert not [ref for ref in earlier if ref() is not None], "an earlier hidden state is still alive"
        order.append(i)
        earlier.append(weakref.ref(state))

    with see.guest(model), see.observe(model, callback):
        model(some_images(model))
    assert order == [0, 1, 2, 3, 4]
    assert all(ref() is None for ref in earlier)


@each_family
def test_attention_maps(family):
    model = shared(family)
    images, body = some_images(model, 2), see.anatomy(model)
    maps = see.attention_maps(model, images)
    tokens = body.prefix + body.patches
    assert maps.shape == (2, body.depth, 3, tokens, tokens)
    close(maps.sum(-1), torch.ones(2, body.depth, 3, tokens))
    assert (maps >= 0).all()

    oracle = copy.deepcopy(model)  # its hooks stay on, and it fails under fused attention
    for module in oracle.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    found = AttentionExtract(oracle, method="hook")(images)
    blocks = [value for name, value in found.items() if fnmatch.fnmatch(name, "blocks.*.attn.attn_drop")]
    close(maps, torch.stack(blocks, dim=1))


def test_maps_that_are_subtracted_from_each_other_are_not_shown_as_attention():
    """Differential attention (Ye et al., 2024) passes two maps a head, of which one counts against what it looks at."""
    narrow = {"embed_dim": 96, "depth": 2, "num_heads": 4}
    model = timm.create_model("vit_dlittle_patch16_reg1_gap_256", img_size=64, num_classes=CLASSES, **narrow).eval()
    images = some_images(model)
    before = model(images)
    with pytest.raises(see.UnfitViT, match="combines 8 of them into those of its 4 heads") as error:
        see.attention_maps(model, images)
    assert_one_sentence(error.value)
    assert torch.equal(model(images), before) and all(block.attn.fused_attn for block in model.blocks)


def test_attention_maps_are_refused_where_there_are_none():
    model = build("vit")
    del model.blocks[1].attn.attn_drop
    with (
        pytest.raises(see.UnfitViT, match=r"no attention maps to read: block 1") as caught,
        see.observe_attention(model, lambda _i, _maps: None),
    ):
        pass
    assert_one_sentence(caught.value)


def test_explicit_attention_agrees_with_fused():
    model = shared("vit")
    images, expected = some_images(model), model(some_images(model))
    assert model.blocks[0].attn.fused_attn
    with see.explicit_attention(model):
        assert not any(block.attn.fused_attn for block in model.blocks)
        close(model(images), expected)
    assert all(block.attn.fused_attn for block in model.blocks)


# The guest


def fingerprint(model):
    """Everything about a model that a visitor could leave behind, module by module."""
    return {
        name: {
            "training": module.training,
            "attributes": list(vars(module)),
            "hooks": {key: len(value) for key, value in vars(module).items() if "hooks" in key and value is not None},
            "fused_attn": getattr(module, "fused_attn", None),
            "patch_drop": id(getattr(module, "patch_drop", None)),
            "weights": {
                key: (weight.requires_grad, weight.grad is None, id(weight), weight.clone())
                for key, weight in module.named_parameters(recurse=False)
            },
        }
        for name, module in model.named_modules()
    }


def assert_unchanged(before, after):
    assert before.keys() == after.keys()
    for name, module in before.items():
        weights, later = module.pop("weights"), after[name].pop("weights")
        assert module == after[name], name
        assert weights.keys() == later.keys()
        for key, (*flags, values) in weights.items():
            assert flags == list(later[key][:-1]), f"{name}.{key}"
            assert torch.equal(values, later[key][-1]), f"{name}.{key}"


def odd(family):
    """A model whose flags differ from module to module, so that a blanket reset would show."""
    model = build(family).train()
    model.blocks[1].eval()
    model.head.requires_grad_(False)
    model.blocks[0].attn.fused_attn = False
    return model


def visit(model):
    images = some_images(model, 2)
    for name in REMOVALS:
        see.predict(model, images, some_keep(model, [1, 3]), removal_of(model, name))
    see.predict(model, images)
    see.hidden_states(model, images)
    see.attention_maps(model, images)
    see.anatomy(model, refresh=True)


@each_family
def test_nothing_stays_on_the_vit(family):
    model = odd(family)
    see.anatomy(model)
    images = some_images(model)
    with see.guest(model):
        output = model(images)
    before = fingerprint(model)
    visit(model)
    assert_unchanged(before, fingerprint(model))
    with see.guest(model):
        assert torch.equal(model(images), output)


@pytest.mark.parametrize("kind", ["hook", "mode", "flag", "attribute", "fused", "weight"])
def test_the_fingerprint_notices_what_was_left(kind):
    model = odd("vit")
    before = fingerprint(model)
    block = model.blocks[1]
    match kind:
        case "hook":
            block.register_forward_hook(lambda *_: None)
        case "mode":
            block.train()
        case "flag":
            block.mlp.fc1.weight.requires_grad_(False)
        case "attribute":
            block.visited = True
        case "fused":
            block.attn.fused_attn = False
        case "weight":
            block.mlp.fc1.bias[0] += 1
    with pytest.raises(AssertionError):
        assert_unchanged(before, fingerprint(model))


def contexts(model):
    index = torch.tensor([[0, 2]])
    return {
        "guest": lambda: see.guest(model),
        "observe": lambda: see.observe(model, lambda _i, _state: None),
        "observe_attention": lambda: see.observe_attention(model, lambda _i, _maps: None),
        "explicit_attention": lambda: see.explicit_attention(model),
        "replace_embedding": lambda: see.replace_embedding(model, lambda state: state),
        "drop_tokens": lambda: see.drop_tokens(model, index),
    }


@pytest.mark.parametrize("context", contexts(None))
@pytest.mark.parametrize("family", ["vit", "dinov3", "eva02", "beit"])
def test_nothing_stays_after_an_exception_in_a_context(family, context):
    model = odd(family)
    before = fingerprint(model)
    with pytest.raises(ZeroDivisionError), contexts(model)[context]():
        raise ZeroDivisionError
    assert_unchanged(before, fingerprint(model))


@pytest.mark.parametrize("action", [*REMOVALS, "hidden_states", "attention_maps", "anatomy"])
@pytest.mark.parametrize("family", ["vit", "dinov3", "beit"])
def test_nothing_stays_after_an_exception_in_a_forward(family, action, monkeypatch):
    model = odd(family)
    images = some_images(model)

    def fail(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(model.blocks[-1], "forward", fail)
    before = fingerprint(model)
    # The probe says in a sentence that the forward failed; everything else lets the exception through.
    with pytest.raises(see.UnfitViT if action == "anatomy" else ZeroDivisionError):
        if action in REMOVALS:
            see.predict(model, images, some_keep(model, [1, 3, 3]), removal_of(model, action))
        elif action == "anatomy":
            see.anatomy(model, refresh=True)
        else:
            getattr(see, action)(model, images)
    assert_unchanged(before, fingerprint(model))


def test_patch_drop_of_the_models_own_comes_back():
    """A rotary ViT that was trained with patch dropout has a module of that name; ours only stands in front of it."""
    model = timm.create_model("eva02_tiny_patch14_224", img_size=56, num_classes=CLASSES, patch_drop_rate=0.5, **SMALL)
    own = model.patch_drop
    assert isinstance(own, nn.Module)
    see.predict(model.eval(), some_images(model), some_keep(model, [1, 2, 3]), "drop")
    assert model.patch_drop is own and "patch_drop" not in vars(model)


def test_a_training_vit_is_asked_in_eval_mode():
    """Dropout is off inside, so the answer is the same each time, and the mode comes back."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=CLASSES, drop_rate=0.5, **SMALL).train()
    images = some_images(model)
    assert torch.equal(see.predict(model, images), see.predict(model, images))
    assert model.training and model.head_drop.training


def test_the_memory_of_a_vit_does_not_keep_it_alive():
    model = build("vit")
    see.anatomy(model)
    ref = weakref.ref(model)
    del model
    assert ref() is None
