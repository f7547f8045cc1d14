"""Attribution methods equal Captum, or a slow loop written from the paper, on every family; and leave the ViT as it was."""

import copy
import sys

import captum.attr
import pytest
import timm
import torch
from torch import nn

from diffmask_lite import attribution, datasets, weights
from diffmask_lite import vit as see
from diffmask_lite.attribution import METHODS, blurred, perturbation
from families import CLASSES, FAMILIES, POOLED, SMALL, assert_one_sentence, build, double, shared, some_images

every_family = pytest.mark.parametrize("family", FAMILIES)
# In a hybrid ViT a CNN stands before the patch embedding, so that pixels and patches are not linear in each other.
linear_family = pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"hybrid"}))
every_method = pytest.mark.parametrize("name", METHODS)
CHEAP = {
    "integrated_gradients": {"steps": 3},
    "integrated_drop": {"steps": 2},
    "random_keep": {"samples": 6},
}  # the same code, fewer repetitions


def scores(name, vit, images, target=None, **options):
    return METHODS[name](vit, images, target, **{**CHEAP.get(name, {}), **options})


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=atol)


def predicted(vit, images):
    with torch.no_grad():
        return vit(images).argmax(1)


def per_patch(vit, pixels):
    """Sum something of shape (B, C, H, W) over the pixels of each patch: (B, h, w)."""
    body = see.anatomy(vit)
    (tall, wide), (h, w) = body.patch, body.grid
    whole = pixels.sum(1)[:, : tall * h, : wide * w]
    return whole.unflatten(2, (w, wide)).unflatten(1, (h, tall)).sum((2, 4))


# What holds for all of them


@every_family
def test_every_method_maps_a_batch_as_it_maps_each_image_alone(family):
    vit = shared(family)
    images = some_images(vit)
    for name in METHODS:
        maps = scores(name, vit, images)
        assert maps.shape == (3, *see.anatomy(vit).grid) and maps.dtype == torch.float32 and not maps.requires_grad
        assert maps.isfinite().all(), name
        if name != "random":
            close(maps, torch.cat([scores(name, vit, image[None]) for image in images]))
        # A hybrid's 2 × 2 patches all lie at one distance from the centre, and to Grad-CAM none speaks for the class.
        if family != "hybrid" or name not in {"centre", "grad_cam"}:
            assert (maps.std((1, 2)) > 1e-3 * maps.abs().mean((1, 2))).all(), f"{name} shows nothing"


@every_method
@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip", "beit"])
def test_the_callers_gradient_mode_makes_no_difference(family, name):
    vit = shared(family)
    images = some_images(vit, 2)
    maps = scores(name, vit, images)
    with torch.no_grad():
        close(scores(name, vit, images), maps)
    with torch.inference_mode():
        close(scores(name, vit, images.clone()), maps)
    close(scores(name, vit, images.clone().requires_grad_()), maps)


BLIND = {"raw_attention", "rollout", "random", "centre"}  # to the class


@every_method
def test_target_is_one_class_or_one_for_each_image_and_by_default_the_predicted_one(name):
    vit = shared("vit")
    images = some_images(vit)
    maps = scores(name, vit, images)
    close(scores(name, vit, images, predicted(vit, images)), maps)
    threes, mixed = scores(name, vit, images, 3), scores(name, vit, images, torch.tensor([3, 5, 3]))
    close(mixed[[0, 2]], threes[[0, 2]])
    assert torch.equal(mixed[1], threes[1]) == (name in BLIND)


def traces(vit):
    """All that a method could leave behind on a model, or take away from it."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modules": [(name, type(m), sorted(vars(m))) for name, m in vit.named_modules()],
        "hooks": [[list(getattr(m, kind)) for kind in hooks] for m in vit.modules()],
        "flags": [(m.training, getattr(m, "fused_attn", None), getattr(m, "grad_checkpointing", None)) for m in vit.modules()],
        "weights": [(name, w.requires_grad, w.grad, w._version) for name, w in vit.named_parameters()],
        "random numbers": torch.get_rng_state().tolist(),
    }


class Interrupted(Exception):
    pass


@every_method
@pytest.mark.parametrize("family", ["vit", "eva02", "beit"])
def test_the_vit_is_left_as_it_was_also_after_an_exception(family, name):
    vit = build(family).train()
    vit.blocks[1].eval()
    vit.blocks[0].attn.fused_attn = False
    vit.grad_checkpointing = True
    vit.patch_embed.requires_grad_(False)
    vit.head.register_forward_hook(lambda *_: None)
    images = some_images(vit, 2)
    see.anatomy(vit)
    before = traces(vit)
    scores(name, vit, images)
    assert traces(vit) == before

    def interrupt(*_):
        raise Interrupted

    handle = vit.blocks[-1].mlp.register_forward_hook(interrupt)
    before = traces(vit)
    if name not in {"random", "centre"}:
        with pytest.raises(Interrupted):
            scores(name, vit, images)
    assert traces(vit) == before
    handle.remove()


def test_traces_notices_what_is_left():
    """The test above can fail."""
    vit = build("vit")
    before = traces(vit)
    for leave in (
        lambda: vit.blocks[0].register_forward_hook(lambda *_: None),
        lambda: vit.train(),
        lambda: vit.head.weight.requires_grad_(False),
        lambda: setattr(vit.blocks[1].attn, "fused_attn", False),
        lambda: setattr(vit, "kept", 1),
        lambda: torch.rand(1),
    ):
        leave()
        assert traces(vit) != before
        before = traces(vit)


@every_method
def test_recomputed_activations_make_no_difference(name):
    """A ViT in training may recompute its activations in the backward pass, and then hooks see other tensors."""
    vit = build("vit")
    images = some_images(vit, 2)
    maps = scores(name, vit, images)
    vit.set_grad_checkpointing(True)
    close(scores(name, vit, images), maps)


@every_method
def test_low_precision_comes_back_as_float32(name):
    vit = shared("vit")
    images = some_images(vit, 2)
    with torch.autocast("cpu", torch.bfloat16):
        maps = scores(name, vit, images)
    assert maps.dtype == torch.float32 and maps.isfinite().all()
    assert scores(name, double("vit"), images.double()).isfinite().all()


# Attention


class Tap(nn.Module):
    """Stands in for `attn_drop`, and keeps the map that passes and, after a backward pass, its gradient."""

    def forward(self, attention):
        if attention.requires_grad:
            attention.retain_grad()
        self.map = attention
        return attention


def tapped(family):
    """A copy in double precision with a tap in each block: the maps and their gradients without any hook of ours."""
    vit = double(family)
    for module in vit.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    for block in vit.blocks:
        block.attn.attn_drop = Tap()
    return vit


def read_by_head(family, vit):
    """The rows of tokens that the head reads, named by hand."""
    prefix = vit.num_prefix_tokens
    if family in POOLED:
        return list(range(prefix, prefix + see.anatomy(vit).patches))
    return [0, 1] if family == "distilled" else [0]


def on_grid(vit, tokens):
    return tokens[vit.num_prefix_tokens :].view(see.anatomy(vit).grid).float()


@every_family
def test_attention_methods_equal_the_formulas_one_image_at_a_time(family):
    vit = tapped(family)
    images = some_images(vit, 2)
    raw, rolled, chefer = [], [], []
    for image in images:
        logits = vit(image[None])[0]
        logits.max().backward()
        rows = read_by_head(family, vit)
        maps = [block.attn.attn_drop.map.detach()[0] for block in vit.blocks]  # (heads, T, T) each
        slopes = [block.attn.attn_drop.map.grad[0] for block in vit.blocks]
        unit = torch.eye(maps[0].shape[-1], dtype=torch.float64)
        flow, relevance = unit, unit
        for attention, slope in zip(maps, slopes, strict=True):
            step = 0.5 * attention.mean(0) + 0.5 * unit
            flow = (step / step.sum(1, keepdim=True)) @ flow
            relevance = relevance + (slope * attention).clamp(min=0).mean(0) @ relevance
        raw.append(on_grid(vit, maps[-1].mean(0)[rows].mean(0)))
        rolled.append(on_grid(vit, flow[rows].mean(0)))
        chefer.append(on_grid(vit, relevance[rows].mean(0)))
    plain, floats = shared(family), images.float()
    close(METHODS["raw_attention"](plain, floats), torch.stack(raw))
    close(METHODS["rollout"](plain, floats), torch.stack(rolled))
    close(METHODS["gradient_attention"](plain, floats), torch.stack(chefer))


def logits_of_token(family, vit, token):
    """What norm and head of a ViT say of one token (1, 1, D) that stands for all, (1, classes)."""
    token = vit.norm(token)
    if family == "siglip":
        return vit.head(vit.attn_pool(token))
    token = token[:, 0]
    if family == "distilled":
        return (vit.head(token) + vit.head_dist(token)) / 2
    return vit.head(vit.fc_norm(token))


@every_family
def test_legrad_equals_its_formula_one_image_and_block_at_a_time(family):
    vit = tapped(family)
    images = some_images(vit, 2)
    chosen, slow = predicted(vit, images), []
    outputs = []
    for block in vit.blocks:
        block.register_forward_hook(lambda _m, _args, out: outputs.append(out))
    for image, c in zip(images, chosen, strict=True):
        outputs.clear()
        vit(image[None])
        total = 0
        for block, out in zip(vit.blocks, outputs, strict=True):
            logit = logits_of_token(family, vit, out.mean(1, keepdim=True))[0, c]
            (slope,) = torch.autograd.grad(logit, block.attn.attn_drop.map, retain_graph=True)  # through the whole graph
            total = total + slope[0].relu().mean(0).mean(0) / len(vit.blocks)
        slow.append(on_grid(vit, total))
    maps = METHODS["legrad"](shared(family), images.float())
    torch.testing.assert_close(maps, torch.stack(slow), rtol=1e-3, atol=1e-6)


def test_attention_of_the_patches_on_themselves_is_not_that_of_the_class_token():
    """Were class token and patches confused, this pair of families would agree."""
    vit = build("average_pooling")
    images = some_images(vit, 2)
    pooled = METHODS["raw_attention"](vit, images)
    vit.global_pool = "token"
    assert (METHODS["raw_attention"](vit, images) - pooled).abs().max() > 1e-3


# Gradients


@linear_family
def test_gradient_input_equals_captums_on_pixels(family):
    vit = copy.deepcopy(shared(family))
    images = some_images(vit, 2)
    pixels = captum.attr.InputXGradient(vit).attribute(images.clone().requires_grad_(), target=predicted(vit, images))
    close(METHODS["gradient_input"](vit, images), per_patch(vit, pixels).detach())


@pytest.mark.parametrize("family", ["vit", "hybrid", "dinov3"])
def test_gradient_input_is_the_slope_of_fading_one_patch_to_the_mean_patch(family):
    vit = double(family)
    images = some_images(vit, 1)
    body = see.anatomy(vit)
    grey = vit.patch_embed(torch.zeros_like(images)).flatten(1, -2)[0].detach()
    z = torch.ones(body.patches, *body.grid, dtype=torch.float64) - 1e-6 * torch.eye(body.patches).view(-1, *body.grid)
    with torch.no_grad():
        whole = vit(images)
        faded = see.predict(vit, images.expand(len(z), -1, -1, -1), z, grey)
    c = whole.argmax()
    slope = (whole[0, c] - faded[:, c]) / 1e-6
    close(METHODS["gradient_input"](vit, images)[0].flatten(), slope, atol=1e-4)


class AsPicture(nn.Module):
    """Stands in for a norm, and passes its patches through `picture` as (B, D, h, w), which is how Captum knows Grad-CAM."""

    def __init__(self, norm, body):
        super().__init__()
        self.norm, self.picture, self.body = norm, nn.Identity(), body

    def forward(self, x):
        front, patches = self.norm(x).split([self.body.prefix, self.body.patches], 1)
        patches = self.picture(patches.mT.unflatten(2, self.body.grid))
        return torch.cat([front, patches.flatten(2).mT], 1)


@every_family
def test_grad_cam_equals_captums(family):
    vit = shared(family)
    images = some_images(vit)
    other = copy.deepcopy(vit)
    layer = other.blocks[-1].norm1 = AsPicture(other.blocks[-1].norm1, see.anatomy(vit))
    method = captum.attr.LayerGradCam(other, layer.picture)
    theirs = method.attribute(images, target=2, relu_attributions=True).squeeze(1).detach()
    close(METHODS["grad_cam"](vit, images, 2), theirs, atol=1e-6)
    close(METHODS["grad_cam"](vit, images, 2, layer=vit.blocks[-1].norm1), theirs, atol=1e-6)
    assert 0 < (theirs > 0).float().mean() < 1  # some patches speak for the class, and some against it


@pytest.mark.parametrize("family", ["vit", "distilled", "dinov2_registers", "clip", "beit_class_token", "mixed_rotary"])
def test_grad_cam_refuses_a_layer_after_which_patches_are_not_read(family):
    vit = shared(family)
    images = some_images(vit, 2)
    for name in ("blocks.2", "norm", "blocks.2.norm2"):
        with pytest.raises(ValueError) as caught:
            METHODS["grad_cam"](vit, images, layer=vit.get_submodule(name))
        message = assert_one_sentence(caught.value)
        assert f"vit.{name}," in message and "layer=vit.blocks[-2]" in message
    for good in (vit.blocks[-2], vit.blocks[-1].norm1):
        assert METHODS["grad_cam"](vit, images, layer=good).any()


@pytest.mark.parametrize("family", ["siglip", "no_class_token", "average_pooling"])
def test_grad_cam_takes_the_last_block_where_patches_are_pooled(family):
    vit = shared(family)
    assert METHODS["grad_cam"](vit, some_images(vit, 2), layer=vit.blocks[-1]).any()


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda vit: vit.head, "needs a layer that gives (B, 17, D), and vit.head does not"),
        (lambda vit: vit.patch_embed, "vit.patch_embed does not"),
        (lambda vit: shared("clip").blocks[0], "must be a module of this ViT, such as vit.blocks[-2]"),
    ],
)
def test_grad_cam_refuses_what_has_no_tokens(layer, words):
    vit = shared("vit")
    before = traces(vit)
    with pytest.raises(ValueError) as caught:
        METHODS["grad_cam"](vit, some_images(vit, 1), layer=layer(vit))
    assert words in assert_one_sentence(caught.value)
    assert traces(vit) == before


@linear_family
def test_integrated_gradients_equal_those_of_pixels(family):
    vit = copy.deepcopy(shared(family))
    images = some_images(vit, 2)
    pixels = captum.attr.IntegratedGradients(vit).attribute(images, target=predicted(vit, images), n_steps=8)
    close(METHODS["integrated_gradients"](vit, images, steps=8), per_patch(vit, pixels).detach())


@every_family
def test_integrated_gradients_add_up_to_what_the_patches_changed(family):
    vit = shared(family)
    images = some_images(vit, 2)
    maps = METHODS["integrated_gradients"](vit, images, 4, steps=80)
    with torch.no_grad():
        gain = vit(images)[:, 4] - vit(torch.zeros_like(images))[:, 4]
    assert gain.abs().max() > 0.02
    torch.testing.assert_close(maps.sum((1, 2)), gain, rtol=0.02, atol=0.02)


# Perturbation


@linear_family
def test_occlusion_equals_a_loop_over_images_and_patches(family):
    vit = shared(family)
    images = some_images(vit, 2)
    h, w = see.anatomy(vit).grid
    slow = torch.empty(2, h, w)
    with torch.no_grad():
        for b, image in enumerate(images):
            whole = vit(image[None])[0].log_softmax(0)
            for row in range(h):
                for column in range(w):
                    keep = torch.ones(1, h, w, dtype=torch.bool)
                    keep[0, row, column] = False
                    hidden = see.predict(vit, image[None], keep, "mean")[0].log_softmax(0)
                    slow[b, row, column] = (whole - hidden)[whole.argmax()]
    close(METHODS["occlusion"](vit, images), slow)
    close(METHODS["leave_one_out"](vit, images, removal="mean"), slow)


@every_family
def test_leave_one_out_equals_captums_ablation(family):
    vit = shared(family)
    images = some_images(vit, 2)
    chosen = predicted(vit, images)

    def ask(keep):
        return see.predict(vit, images, keep.bool(), "drop").log_softmax(1)[range(2), chosen]

    every = torch.ones(2, *see.anatomy(vit).grid)
    theirs = captum.attr.FeatureAblation(ask).attribute(every, feature_mask=torch.arange(every[0].numel()).view_as(every[:1]))
    close(METHODS["leave_one_out"](vit, images), theirs)


@pytest.mark.parametrize("tokens", [1, 7 * 16, 10**6])
@pytest.mark.parametrize("name", ["occlusion", "leave_one_out", "random_keep"])
def test_the_size_of_a_forward_makes_no_difference(name, tokens, monkeypatch):
    vit = shared("vit")
    images = some_images(vit)
    maps = scores(name, vit, images)
    monkeypatch.setattr(perturbation, "TOKENS", tokens)
    close(scores(name, vit, images), maps)


@pytest.mark.parametrize("family", ["vit", "not_square", "siglip"])  # 16, 15 and 16 patches
def test_random_keep_equals_a_loop_over_its_masks(family, monkeypatch):
    vit = shared(family)
    images, asked = some_images(vit, 2), []

    def spy(vit, images, keep=None, *rest):
        if keep is not None:
            asked.extend(zip(images, keep, strict=True))
        return see.predict(vit, images, keep, *rest)

    monkeypatch.setattr(perturbation, "predict", spy)
    maps = METHODS["random_keep"](vit, images, 2, samples=12)
    assert len(asked) == 2 * 12
    half = see.anatomy(vit).patches // 2
    for b, image in enumerate(images):
        masks = [keep for seen, keep in asked if torch.equal(seen, image)]
        assert sorted({int(keep.sum()) for keep in masks}) == sorted({half, see.anatomy(vit).patches - half})
        assert (torch.stack(masks).sum(0) == 6).all()  # each patch equally often
        for place in torch.ones(see.anatomy(vit).grid).nonzero():
            p = [see.predict(vit, image[None], keep[None])[0].softmax(0)[2] for keep in masks if keep[tuple(place)]]
            assert maps[b][tuple(place)].item() == pytest.approx(sum(p).item() / len(p), abs=1e-5)


def test_random_keep_comes_near_the_mean_over_all_halves():
    vit = shared("hybrid")  # 2 × 2 patches, so there are six halves
    images = some_images(vit, 1)
    halves = torch.tensor([[a, b] for a in range(4) for b in range(a)])
    keep = torch.zeros(6, 4, dtype=torch.bool).scatter(1, halves, True)
    with torch.no_grad():
        p = see.predict(vit, images.expand(6, -1, -1, -1), keep.view(-1, 2, 2)).softmax(1)[:, 7]
    exact = torch.stack([p[keep[:, j]].mean() for j in range(4)]).view(1, 2, 2)
    assert exact.std() > 1e-3
    few, many = (METHODS["random_keep"](vit, images, 7, samples=n) for n in (2, 600))
    assert (many - exact).abs().max() < 0.1 * exact.std() < (few - exact).abs().max()


def test_random_keep_takes_its_masks_from_the_generator():
    vit = shared("vit")
    images = some_images(vit, 2)

    def maps(seed):
        return METHODS["random_keep"](vit, images, generator=torch.Generator().manual_seed(seed), samples=6)

    assert torch.equal(maps(0), METHODS["random_keep"](vit, images, samples=6)) and not torch.equal(maps(0), maps(1))
    with pytest.raises(ValueError, match="at least one pair"):
        METHODS["random_keep"](vit, images, samples=1)


# Baselines


def test_random_is_drawn_from_the_generator_and_differs_from_image_to_image():
    vit = shared("not_square")
    images, draw = some_images(vit), torch.Generator().manual_seed(3)
    first, second = (METHODS["random"](vit, images, generator=draw) for _ in range(2))
    again = METHODS["random"](vit, images, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert first.min() >= 0 and first.max() < 1 and 0.35 < first.mean() < 0.65


def test_centre_by_hand():
    vit = shared("not_square")
    maps = METHODS["centre"](vit, some_images(vit, 2))
    side = [5**0.5, 2**0.5, 1, 2**0.5, 5**0.5]
    close(maps, -torch.tensor([side, [2, 1, 0, 1, 2], side]).expand(2, -1, -1))


def test_blurred_equals_a_loop_and_leaves_a_constant_alone():
    maps = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0))
    slow = torch.empty_like(maps)
    for row in range(3):
        for column in range(5):
            weight = torch.tensor([[-((row - i) ** 2 + (column - j) ** 2) / (2 * 0.8**2) for j in range(5)] for i in range(3)])
            slow[:, row, column] = (maps * weight.exp() / weight.exp().sum()).sum((1, 2))
    close(blurred(maps, 0.8), slow)
    close(blurred(torch.full((1, 4, 4), 2.5)), torch.full((1, 4, 4), 2.5))
    assert (blurred(maps).std((1, 2)) < maps.std((1, 2))).all()


# Where the right answer is known


def log_odds(vit, image, keep, target):
    """log p / (1 − p) of a class, from the plain definition; image (1, C, H, W), keep (h, w)."""
    p = see.predict(vit, image, keep[None], "drop").softmax(1)[0, target]
    return (p / (1 - p)).log()


@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip", "beit"])
def test_gradient_drop_is_the_slope_of_dropping_a_little_of_one_patch(family):
    vit = double(family)
    images, grid = some_images(vit, 2), see.anatomy(vit).grid
    maps = METHODS["gradient_drop"](vit, images)
    for b, target in enumerate(predicted(vit, images).tolist()):
        for n in range(0, 16, 5):
            less, h = torch.ones(16, dtype=torch.float64), 1e-6
            less[n] -= h
            whole, left = (log_odds(vit, images[b : b + 1], keep.view(grid), target) for keep in (torch.ones_like(less), less))
            close(maps[b].flatten()[n], (whole - left) / h, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "distilled", "dinov2_registers"])
def test_integrated_drop_adds_up_to_what_the_patches_changed(family):
    vit = double(family)
    images, grid = some_images(vit, 2), see.anatomy(vit).grid
    found = METHODS["integrated_drop"](vit, images, 3, steps=60).sum((1, 2))
    for b in range(2):
        whole, none = (log_odds(vit, images[b : b + 1], torch.full(grid, z, dtype=torch.float64), 3) for z in (1, 0))
        assert found[b].item() == pytest.approx((whole - none).item(), rel=0.02, abs=0.02)


def linear_vit():
    """A ViT whose blocks pass everything on and whose two logits are ±w · (mean patch embedding): nothing but a sum."""
    options = {**FAMILIES["no_class_token"].options, **SMALL}
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2, **options).eval()
    with torch.no_grad():
        for block in vit.blocks:
            for last in (block.attn.proj, block.mlp.fc2):
                last.weight.zero_(), last.bias.zero_()
        vit.pos_embed.zero_(), vit.patch_embed.proj.bias.zero_(), vit.head.bias.zero_()
        direction = torch.randn(48, generator=torch.Generator().manual_seed(0))
        vit.head.weight.copy_(torch.stack([direction, -direction]))
    vit.norm, vit.fc_norm = nn.Identity(), nn.Identity()
    return vit


def test_a_linear_vit_is_explained_exactly():
    vit = linear_vit()
    images = some_images(vit)
    with torch.no_grad():
        shares = (vit.patch_embed(images) @ vit.head.weight[0] / 16).view(3, 4, 4)  # what each patch adds to logit 0
        close(shares.sum((1, 2)), vit(images)[:, 0])
    close(METHODS["gradient_input"](vit, images, 0), shares)
    close(METHODS["integrated_gradients"](vit, images, 0), shares)
    close(METHODS["grad_cam"](vit, images, 0, layer=vit.blocks[0]), shares.relu())
    # The mean of the patches left is read, so a patch counts by what it has above the mean; log-odds of two logits ±y are 2y.
    above = 2 * (shares - shares.mean((1, 2), keepdim=True))
    close(METHODS["gradient_drop"](vit, images, 0), above)
    close(METHODS["integrated_drop"](vit, images, 1, steps=1), -above * 4)  # at t = 1/4 by the midpoint u = 1/2, du = 1
    order = shares.flatten(1).argsort()
    for name in ("occlusion", "leave_one_out"):
        assert torch.equal(METHODS[name](vit, images, 0).flatten(1).argsort(), order), name
        assert torch.equal(METHODS[name](vit, images, 1).flatten(1).argsort(descending=True), order), name
    halves = METHODS["random_keep"](vit, images, 0, samples=2000).flatten(1)
    for a, b in zip(halves, shares.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.98
    with pytest.raises(ValueError, match="gradient 0"):  # attention reads the patches, but nothing reads attention
        METHODS["grad_cam"](vit, images, 0)


def auroc(maps, truth):
    """The chance that a patch of the truth is above another, mean over images that have both; ties count half."""
    found = []
    for s, t in zip(maps, truth, strict=True):
        if t.any() and not t.all():
            gap = s[t][:, None] - s[~t]
            found.append(((gap > 0).float() + 0.5 * (gap == 0)).mean())
    return torch.stack(found).mean().item()


def test_counted_cells_are_found_by_those_methods_that_can():
    """The grid's grey cell is the mean patch, so that occlusion by it asks the very question that the truth answers."""
    vit, _ = weights.pretrained("grid")
    data = datasets.ColourGrid(200, seed=11)
    found = {name: auroc(METHODS[name](vit, data.images), data.cells) for name in METHODS if name != "random_keep"}
    assert found["occlusion"] > 0.99
    assert min(found["rollout"], found["gradient_attention"], found["integrated_gradients"]) > 0.85
    assert min(found["random"], found["centre"]) > 0.4 and max(found["random"], found["centre"]) < 0.6
    assert auroc(-METHODS["occlusion"](vit, data.images), data.cells) < 0.01


# What is refused


@every_method
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (10, "There is no class 10: this ViT has classes 0 to 9"),
        (-1, "There is no class -1"),
        (torch.tensor([0, 12, 1]), "There is no class 12"),
        (torch.tensor([0, 1]), "shape (3,)"),
        (torch.tensor([0.0, 1.0, 2.0]), "torch.float32"),
        ([0, 1, 2], "this is a list"),
        (True, "this is a bool"),
    ],
    ids=str,
)
def test_targets_that_are_no_classes_are_refused(name, target, words):
    vit = shared("vit")
    with pytest.raises((ValueError, TypeError)) as caught:
        scores(name, vit, some_images(vit), target)
    assert words in assert_one_sentence(caught.value)


@every_method
def test_images_that_do_not_fit_are_refused(name):
    vit = shared("vit")
    with pytest.raises(ValueError) as caught:
        scores(name, vit, torch.zeros(1, 3, 32, 32))
    assert "3 × 32 × 32" in assert_one_sentence(caught.value)
    with pytest.raises(see.UnfitViT):
        scores(name, nn.Linear(3, 3), torch.zeros(1, 3, 64, 64))


NEED_MAPS = {"raw_attention", "rollout", "gradient_attention", "legrad", "gradient_drop", "integrated_drop"}


@every_method
def test_a_vit_without_attention_maps_is_refused_by_those_that_read_them(name):
    vit = build("vit")
    vit.blocks[1].attn.attn_drop = None  # timm's fused attention does not need it
    images = some_images(vit, 2)
    if name not in NEED_MAPS:
        assert scores(name, vit, images).isfinite().all()
        return
    with pytest.raises(see.UnfitViT) as caught:
        scores(name, vit, images)
    assert "VisionTransformer has no attention maps to read" in assert_one_sentence(caught.value)


def test_grad_cam_without_an_attention_to_look_at_asks_for_a_layer():
    vit = build("vit")
    vit.blocks[-1].attend = vit.blocks[-1].attn
    vit.blocks[-1].forward = lambda x, **_: x + vit.blocks[-1].attend(vit.blocks[-1].norm1(x))
    del vit.blocks[-1].attn
    images = some_images(vit, 2)
    with pytest.raises(see.UnfitViT) as caught:
        METHODS["grad_cam"](vit, images)
    assert "name another place by `layer`" in assert_one_sentence(caught.value)
    assert METHODS["grad_cam"](vit, images, layer=vit.blocks[-1].norm1).any()


@pytest.mark.parametrize("name", ["leave_one_out", "random_keep"])
def test_dropping_is_refused_where_it_is_not_exact_and_the_way_out_works(name):
    vit = timm.create_model("vit_relpos_small_patch16_224", img_size=64, num_classes=CLASSES, **SMALL).eval()
    images = some_images(vit, 2)
    with pytest.raises(see.UnfitViT) as caught:
        scores(name, vit, images)
    assert 'removal="mean"' in assert_one_sentence(caught.value)
    assert scores(name, vit, images, removal="mean").shape == (2, 4, 4)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_without_captum_the_message_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    vit = shared("vit")
    with pytest.raises(ImportError) as caught:
        scores(name, vit, some_images(vit, 1))
    assert 'pip install "diffmask_lite[attribution]"' in assert_one_sentence(caught.value)


def test_every_method_has_the_one_signature_and_says_what_it_computes():
    import inspect

    for name, method in METHODS.items():
        assert list(inspect.signature(method).parameters)[:4] == ["vit", "images", "target", "generator"], name
        assert method.__name__ == name and method.__doc__
    assert set(attribution.__all__) == {"METHODS", "blurred"}
