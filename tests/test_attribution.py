"""Attribution methods equal Captum, or a slow loop written from the paper; they fit every family and leave the ViT alone."""

import copy
import inspect
import sys

import captum.attr
import pytest
import timm
import torch
from torch import nn

from diffmask_lite import attribution, datasets, weights
from diffmask_lite.attribution import METHODS, blurred, perturbation
from diffmask_lite.vit import UnfitViT, anatomy, predict
from families import FAMILIES, POOLED, REPRESENTATIVES, assert_one_sentence, double, left_as_it_was, odd, shared, some_images
from linear import linear_vit, says

every_method = pytest.mark.parametrize("name", METHODS)
representatives = pytest.mark.parametrize("family", REPRESENTATIVES)
BASELINES = {"random", "centre"}  # never look at the ViT
BLIND = {"raw_attention", "rollout", *BASELINES}  # to the class
DIRECT = {"direct", "direct_paths"}  # known for heads that read class tokens, or average patches
NEED_MAPS = {"raw_attention", "rollout", "gradient_attention", "legrad", "gradient_drop", "integrated_drop", *DIRECT}
# The same code, fewer repetitions.
CHEAP = {"integrated_gradients": {"steps": 3}, "integrated_drop": {"steps": 2}, "random_keep": {"samples": 6}}


def scores(name, vit, images, target=None, **options):
    return METHODS[name](vit, images, target, **{**CHEAP.get(name, {}), **options})


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=atol)


def predicted(vit, images):
    with torch.no_grad():
        return vit(images).argmax(1)


def refusal(kind, call):
    """The one sentence with which a call is refused."""
    with pytest.raises(kind) as caught:
        call()
    return assert_one_sentence(caught.value)


# What holds for all of them


@every_method
def test_every_family_is_mapped_on_its_grid(name):
    for family in FAMILIES:
        vit = shared(family)
        if family == "siglip" and name in DIRECT:
            assert "pools by 'map'" in refusal(UnfitViT, lambda vit=vit: scores(name, vit, some_images(vit, 2)))
            continue
        maps = scores(name, vit, some_images(vit, 2))
        assert maps.shape == (2, *anatomy(vit).grid) and maps.dtype == torch.float32 and not maps.requires_grad, family
        assert maps.isfinite().all(), family
        # A hybrid's 2 × 2 patches all lie at one distance from the centre, and to Grad-CAM none speaks for the class.
        if family != "hybrid" or name not in {"centre", "grad_cam"}:
            assert (maps.std((1, 2)) > 1e-3 * maps.abs().mean((1, 2))).all(), f"nothing is shown of {family}"


@every_method
@pytest.mark.parametrize("family", ["not_square", "dinov3"])
def test_neither_company_nor_the_callers_mode_nor_precision_makes_a_difference(family, name):
    vit = shared(family)
    images = some_images(vit, 2)
    maps = scores(name, vit, images)
    if name != "random":
        close(torch.cat([scores(name, vit, image[None]) for image in images]), maps)
    with torch.no_grad():
        close(scores(name, vit, images), maps)
    with torch.inference_mode():
        close(scores(name, vit, images.clone()), maps)
    close(scores(name, vit, images.clone().requires_grad_()), maps)
    close(scores(name, double(family), images.double()).float(), maps, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        maps = scores(name, vit, images)
    assert maps.dtype == torch.float32 and maps.isfinite().all()


@every_method
def test_target_is_one_class_or_one_for_each_image_and_by_default_the_predicted_one(name):
    vit = shared("not_square")
    images = some_images(vit)
    maps = scores(name, vit, images)
    close(scores(name, vit, images, predicted(vit, images)), maps)
    threes, mixed = scores(name, vit, images, 3), scores(name, vit, images, torch.tensor([3, 5, 3]))
    close(mixed[[0, 2]], threes[[0, 2]])
    assert torch.equal(mixed[1], threes[1]) == (name in BLIND) == (name in attribution.BLIND)


@every_method
def test_the_vit_is_left_as_it_was_also_after_an_exception(name):
    vit = odd("dinov3")
    vit.grad_checkpointing = True  # hooks then see other tensors, recomputed in the backward pass
    vit.pos_drop.p = 0.5  # shows whether anything runs in training mode
    images, state = some_images(vit, 2), torch.get_rng_state()
    with left_as_it_was(vit):
        maps = scores(name, vit, images)
    close(maps, scores(name, shared("dinov3"), images))
    vit.blocks[-1].mlp.register_forward_hook(lambda *_: 1 / 0)
    if name not in BASELINES:
        with pytest.raises(ZeroDivisionError), left_as_it_was(vit):
            scores(name, vit, images)
    assert torch.equal(torch.get_rng_state(), state)


@every_method
def test_input_is_looked_at_once(name, monkeypatch):
    vit, looks = shared("not_square"), []
    right = attribution.common.require_images
    for module in [module for key, module in sys.modules.items() if key.startswith("diffmask_lite")]:
        if vars(module).get("require_images") is right:
            monkeypatch.setattr(module, "require_images", lambda *given: looks.append(given) or right(*given))
    scores(name, vit, some_images(vit, 2), 1)
    assert len(looks) == 1


# Attention


def tapped(family):
    """A copy in double precision, each block of which keeps its last output and attention map: no hook of ours is in it."""
    vit = double(family)
    for block in vit.blocks:
        block.attn.fused_attn = False
        block.register_forward_hook(lambda module, _args, out: setattr(module, "out", out))
        block.attn.attn_drop.register_forward_pre_hook(lambda module, args: setattr(module, "map", args[0]))
    return vit


def read_by_head(family, vit):
    """The rows of tokens that the head reads, named by hand."""
    prefix = vit.num_prefix_tokens
    if family in POOLED:
        return list(range(prefix, prefix + anatomy(vit).patches))
    return [0, 1] if family == "distilled" else [0]


def logits_of_token(family, vit, token):
    """What norm and head of a ViT say of one token (1, 1, D) that stands for all, (classes,)."""
    token = vit.norm(token)
    if family == "siglip":
        return vit.head(vit.attn_pool(token))[0]
    token = token[:, 0]
    if family == "distilled":
        return (vit.head(token) + vit.head_dist(token))[0] / 2
    return vit.head(vit.fc_norm(token))[0]


@representatives
def test_attention_methods_equal_the_formulas_one_image_and_block_at_a_time(family):
    vit = tapped(family)
    images, rows = some_images(vit, 2), read_by_head(family, vit)
    slow = {name: [] for name in ("raw_attention", "rollout", "gradient_attention", "legrad")}
    for image in images:
        logits = vit(image[None])[0]
        taps = [block.attn.attn_drop.map for block in vit.blocks]
        maps = [tap.detach()[0] for tap in taps]  # (heads, T, T) each
        slopes = torch.autograd.grad(logits.max(), taps, retain_graph=True)
        unit = torch.eye(maps[0].shape[-1], dtype=torch.float64)
        flow, relevance, formed = unit, unit, 0
        for block, tap, attention, slope in zip(vit.blocks, taps, maps, slopes, strict=True):
            step = 0.5 * attention.mean(0) + 0.5 * unit
            flow = (step / step.sum(1, keepdim=True)) @ flow
            relevance = relevance + (slope[0] * attention).clamp(min=0).mean(0) @ relevance
            logit = logits_of_token(family, vit, block.out.mean(1, keepdim=True))[logits.argmax()]
            (own,) = torch.autograd.grad(logit, tap, retain_graph=True)  # through the whole graph
            formed = formed + own[0].relu().mean((0, 1)) / len(vit.blocks)
        found = maps[-1].mean(0)[rows].mean(0), flow[rows].mean(0), relevance[rows].mean(0), formed
        for name, tokens in zip(slow, found, strict=True):
            slow[name].append(tokens[vit.num_prefix_tokens :].view(anatomy(vit).grid).float())
    for name, wanted in slow.items():
        torch.testing.assert_close(METHODS[name](shared(family), images.float()), torch.stack(wanted), rtol=1e-3, atol=1e-6)


# Gradients


def per_patch(vit, pixels):
    """Sum something of shape (B, C, H, W) over the pixels of each patch: (B, h, w)."""
    (tall, wide), (h, w) = anatomy(vit).patch, anatomy(vit).grid
    whole = pixels.detach().sum(1)[:, : tall * h, : wide * w]
    return whole.unflatten(2, (w, wide)).unflatten(1, (h, tall)).sum((2, 4))


@representatives
def test_gradients_of_the_input_equal_captums_on_pixels(family):
    vit = copy.deepcopy(shared(family))
    images = some_images(vit, 2)
    options = {"inputs": images.clone().requires_grad_(), "target": predicted(vit, images)}
    pixels = captum.attr.InputXGradient(vit).attribute(**options)
    close(METHODS["gradient_input"](vit, images), per_patch(vit, pixels))
    pixels = captum.attr.IntegratedGradients(vit).attribute(**options, n_steps=8)
    close(METHODS["integrated_gradients"](vit, images, steps=8), per_patch(vit, pixels))


@pytest.mark.parametrize("family", ["hybrid", *REPRESENTATIVES])  # a hybrid's embedding is not linear in the pixels
def test_slopes_are_those_of_fading_one_patch_a_little(family):
    vit = double(family)
    images, (h, w) = some_images(vit, 2), anatomy(vit).grid
    grey = vit.patch_embed(torch.zeros_like(images[:1])).flatten(1, -2)[0].detach()
    z = 1 - 1e-6 * torch.cat([torch.zeros(1, h * w), torch.eye(h * w)]).double().view(-1, h, w)  # all, then each patch less
    to_grey, dropped = (METHODS[name](vit, images).flatten(1) for name in ("gradient_input", "gradient_drop"))
    for b, c in enumerate(predicted(vit, images)):
        image = images[b].expand(len(z), -1, -1, -1)
        with torch.no_grad():
            logit, odds = predict(vit, image, z, grey)[:, c], predict(vit, image, z, "drop").softmax(1)[:, c].logit()
        close(to_grey[b], (logit[0] - logit[1:]) / 1e-6, atol=1e-4)
        close(dropped[b], (odds[0] - odds[1:]) / 1e-6)


class AsPicture(nn.Module):
    """Stands in for a norm, and passes its patches through `picture` as (B, D, h, w), which is how Captum knows Grad-CAM."""

    def __init__(self, norm, shape):
        super().__init__()
        self.norm, self.picture, self.shape = norm, nn.Identity(), shape

    def forward(self, x):
        front, patches = self.norm(x).split([self.shape.prefix, self.shape.patches], 1)
        patches = self.picture(patches.mT.unflatten(2, self.shape.grid))
        return torch.cat([front, patches.flatten(2).mT], 1)


@representatives
def test_grad_cam_equals_captums(family):
    vit = shared(family)
    images = some_images(vit)
    other = copy.deepcopy(shared(family))
    layer = other.blocks[-1].norm1 = AsPicture(other.blocks[-1].norm1, anatomy(vit))
    method = captum.attr.LayerGradCam(other, layer.picture)
    theirs = method.attribute(images, target=2, relu_attributions=True).squeeze(1).detach()
    close(METHODS["grad_cam"](vit, images, 2), theirs, atol=1e-6)
    close(METHODS["grad_cam"](vit, images, 2, layer=vit.blocks[-1].norm1), theirs, atol=1e-6)
    assert 0 < (theirs > 0).float().mean() < 1  # some patches speak for the class, and some against it
    # What only prefix tokens are read of has no gradient; where patches are pooled, the last block's output has one.
    last = [vit.blocks[-1], vit.blocks[-1].norm2, vit.norm]
    if family in POOLED:
        assert METHODS["grad_cam"](vit, images, layer=last[0]).any()
        return
    for layer, place in zip(last, ("blocks.2", "blocks.2.norm2", "norm"), strict=True):
        message = refusal(ValueError, lambda layer=layer: METHODS["grad_cam"](vit, images, layer=layer))
        assert f"vit.{place}," in message and "layer=vit.blocks[-2]" in message
    assert METHODS["grad_cam"](vit, images, layer=vit.blocks[-2]).any()


def test_grad_cam_refuses_what_has_no_tokens_and_asks_for_a_layer_where_it_finds_none():
    vit = copy.deepcopy(shared("not_square"))
    images = some_images(vit, 1)
    for layer, words in (
        (vit.head, "needs a layer that gives (B, 16, D), and vit.head does not"),
        (vit.patch_embed, "vit.patch_embed does not"),
        (shared("clip").blocks[0], "must be a module of this ViT, such as vit.blocks[-2]"),
    ):
        with left_as_it_was(vit):
            assert words in refusal(ValueError, lambda layer=layer: METHODS["grad_cam"](vit, images, layer=layer))
    last = vit.blocks[-1]
    last.attend = last.attn
    last.forward = lambda x, **_: x + last.attend(last.norm1(x))
    del last.attn
    assert "name another place by `layer`" in refusal(UnfitViT, lambda: METHODS["grad_cam"](vit, images))
    assert METHODS["grad_cam"](vit, images, layer=last.norm1).any()


@pytest.mark.parametrize(("name", "family"), [("integrated_gradients", "hybrid"), ("integrated_drop", "distilled")])
def test_integrals_add_up_to_what_the_patches_changed(name, family):
    vit = double(family)
    images, every = some_images(vit, 2), torch.ones(2, *anatomy(vit).grid, dtype=torch.float64)
    found = METHODS[name](vit, images, 4, steps=40).sum((1, 2))
    with torch.no_grad():
        if name == "integrated_gradients":
            gain = (vit(images) - vit(torch.zeros_like(images)))[:, 4]
        else:
            gain = torch.sub(*(predict(vit, images, z, "drop").softmax(1)[:, 4].logit() for z in (every, 0 * every)))
    assert gain.abs().max() > 0.02
    torch.testing.assert_close(found, gain, rtol=0.02, atol=0.02)


# Perturbation


@representatives
def test_leaving_patches_out_one_by_one_equals_captums_ablation(family):
    vit = shared(family)
    images = some_images(vit, 2)
    chosen, every = predicted(vit, images), torch.ones(2, *anatomy(vit).grid)

    def ablated(removal):
        method = captum.attr.FeatureAblation(lambda z: predict(vit, images, z.bool(), removal).log_softmax(1)[range(2), chosen])
        return method.attribute(every, feature_mask=torch.arange(every[0].numel()).view_as(every[:1]))

    grey = ablated("mean")  # of pixels; ours is of embeddings
    close(METHODS["occlusion"](vit, images), grey)
    close(METHODS["leave_one_out"](vit, images, removal="mean"), grey)
    close(METHODS["leave_one_out"](vit, images), ablated("drop"))


@pytest.mark.parametrize("name", ["occlusion", "leave_one_out", "random_keep"])
def test_the_size_of_a_forward_makes_no_difference(name, monkeypatch):
    vit = shared("not_square")
    images = some_images(vit)
    maps = scores(name, vit, images)
    for tokens in (1, 7 * 15):
        monkeypatch.setattr(perturbation, "TOKENS", tokens)
        close(scores(name, vit, images), maps)


def test_random_keep_equals_a_loop_over_its_masks(monkeypatch):
    vit, asked, right = shared("not_square"), [], perturbation.predict_unchecked
    images = some_images(vit, 2)

    def spy(vit, images, keep=None, *rest):
        asked.extend(zip(images, [] if keep is None else keep, strict=keep is not None))
        return right(vit, images, keep, *rest)

    monkeypatch.setattr(perturbation, "predict_unchecked", spy)
    maps = METHODS["random_keep"](vit, images, 2, samples=12)
    assert len(asked) == 2 * 12
    for b, image in enumerate(images):
        masks = [keep for seen, keep in asked if torch.equal(seen, image)]
        assert sorted({int(keep.sum()) for keep in masks}) == [7, 8]
        assert (torch.stack(masks).sum(0) == 6).all()  # each patch equally often
        p = torch.cat([predict(vit, image[None], keep[None]).softmax(1)[:, 2] for keep in masks]).detach()
        slow = [[p[[bool(keep[row, column]) for keep in masks]].mean() for column in range(5)] for row in range(3)]
        close(maps[b], torch.tensor(slow))


def test_random_keep_draws_all_halves_alike_and_from_the_generator(monkeypatch):
    vit, drawn = shared("not_square"), []

    def spy(_vit, images, keep=None, *_rest):
        drawn.extend([] if keep is None else keep.flatten(1).float())
        return images.new_zeros(len(images), 10)

    monkeypatch.setattr(perturbation, "predict_unchecked", spy)

    def masks(seed, samples=6):
        drawn.clear()
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        METHODS["random_keep"](vit, some_images(vit, 1), generator=generator, samples=samples)
        return torch.stack(drawn)

    many = masks(0, 8000)
    together = (many.T @ many / len(many))[~torch.eye(15, dtype=torch.bool)]  # how often a pair of patches is kept together
    wanted = (7 * 6 + 8 * 7) / (2 * 15 * 14)
    assert (together - wanted).abs().max() < 5 * (wanted * (1 - wanted) / len(many)) ** 0.5
    assert torch.equal(masks(0), masks(None)) and not torch.equal(masks(0), masks(1))
    call = refusal(ValueError, lambda: METHODS["random_keep"](vit, some_images(vit, 1), samples=1))
    assert "at least one pair" in call


# Baselines


def test_random_is_drawn_from_the_generator_anew_for_each_image_and_centre_is_as_by_hand():
    vit = shared("not_square")
    images, draw = some_images(vit), torch.Generator().manual_seed(3)
    first, second = (METHODS["random"](vit, images, generator=draw) for _ in range(2))
    again = METHODS["random"](vit, images, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert first.min() >= 0 and first.max() < 1 and 0.35 < first.mean() < 0.65
    side = [5**0.5, 2**0.5, 1, 2**0.5, 5**0.5]
    close(METHODS["centre"](vit, some_images(vit, 2)), -torch.tensor([side, [2, 1, 0, 1, 2], side]).expand(2, -1, -1))


def test_blurred_equals_a_loop_and_leaves_a_constant_alone():
    maps = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0))
    slow = torch.empty_like(maps)
    for row in range(3):
        for column in range(5):
            weight = torch.tensor([[-((row - i) ** 2 + (column - j) ** 2) / (2 * 0.8**2) for j in range(5)] for i in range(3)])
            slow[:, row, column] = (maps * weight.exp() / weight.exp().sum()).sum((1, 2))
    close(blurred(maps, 0.8), slow)
    close(blurred(torch.full((1, 4, 4), 2.5)), torch.full((1, 4, 4), 2.5))


# Where the right answer is known


def test_a_linear_vit_is_explained_exactly():
    vit = linear_vit()
    images = some_images(vit)
    words, grey = says(vit, images)
    shares = (words - grey) / 16  # what each patch adds to logit 0 beyond a grey one
    with torch.no_grad():
        close(shares.sum((1, 2)), (vit(images) - vit(0 * images))[:, 0])
    close(METHODS["gradient_input"](vit, images, 0), shares)
    close(METHODS["integrated_gradients"](vit, images, 0), shares)
    close(METHODS["grad_cam"](vit, images, 0, layer=vit.blocks[0]), (words / 16).relu())
    # The mean of the patches left is read, so a patch counts by what it has above the mean; log-odds of two logits ±y are 2y.
    above = 2 * (shares - shares.mean((1, 2), keepdim=True))
    close(METHODS["gradient_drop"](vit, images, 0), above)
    close(METHODS["integrated_drop"](vit, images, 1, steps=1), -above * 4)  # at t = 1/4 by the midpoint u = 1/2, du = 1
    order = shares.flatten(1).argsort()
    for name in ("occlusion", "leave_one_out"):
        assert torch.equal(METHODS[name](vit, images, 0).flatten(1).argsort(), order), name
        assert torch.equal(METHODS[name](vit, images, 1).flatten(1).argsort(descending=True), order), name
    message = refusal(ValueError, lambda: METHODS["grad_cam"](vit, images, 0))
    assert "gradient 0" in message  # attention reads the patches, but nothing reads attention


def test_counted_cells_are_found_by_those_methods_that_can():
    """The grid's grey cell is the mean patch, so that occlusion by it asks the very question that the truth answers."""
    vit, _ = weights.pretrained("grid")
    data = datasets.ColourGrid(60, seed=11)

    def auroc(name):
        """The chance that a counted cell is above another, mean over images that have both; ties count half."""
        gaps = [s[t][:, None] - s[~t] for s, t in zip(METHODS[name](vit, data.images), data.cells, strict=True)]
        return torch.stack([((gap > 0).float() + 0.5 * (gap == 0)).mean() for gap in gaps if gap.numel()]).mean()

    assert auroc("occlusion") > 0.99
    assert min(map(auroc, ("rollout", "gradient_attention", "integrated_gradients"))) > 0.85
    assert all(0.35 < auroc(name) < 0.65 for name in BASELINES)


# What is refused


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
def test_targets_that_are_no_classes_are_refused(target, words):
    vit = shared("not_square")
    for name in METHODS:
        message = refusal((ValueError, TypeError), lambda name=name: scores(name, vit, some_images(vit), target))
        assert words in message, name


@every_method
def test_images_and_vits_that_do_not_fit_are_refused(name):
    assert "3 × 32 × 32" in refusal(ValueError, lambda: scores(name, shared("not_square"), torch.zeros(1, 3, 32, 32)))
    with pytest.raises(UnfitViT):
        scores(name, nn.Linear(3, 3), torch.zeros(1, 3, 64, 64))
    vit = copy.deepcopy(shared("not_square"))
    vit.blocks[1].attn.attn_drop = None  # timm's fused attention does not need it
    images = some_images(vit, 2)
    if name in NEED_MAPS:
        message = refusal(UnfitViT, lambda: scores(name, vit, images))
        assert "VisionTransformer has no attention maps to read" in message
    else:
        assert scores(name, vit, images).isfinite().all()


@pytest.mark.parametrize("name", ["leave_one_out", "random_keep"])
def test_removals_that_there_are_not_or_that_are_not_exact_are_refused(name):
    vit = shared("not_square")
    for removal, words in (("blur", "Unknown removal 'blur'"), (None, "Unknown removal None"), (torch.zeros(5), "shape (5,)")):
        assert words in refusal(ValueError, lambda removal=removal: scores(name, vit, some_images(vit, 2), removal=removal))
    vit = timm.create_model("vit_relpos_small_patch16_224", img_size=64, embed_dim=48, depth=1, num_heads=3).eval()
    images = some_images(vit, 2)
    assert 'removal="mean"' in refusal(UnfitViT, lambda: scores(name, vit, images))
    assert scores(name, vit, images, removal="mean").shape == (2, 4, 4)  # the way out works


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_without_captum_the_message_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    vit = shared("not_square")
    message = refusal(ImportError, lambda: scores(name, vit, some_images(vit, 1)))
    assert 'pip install "diffmask_lite[attribution]"' in message


def test_every_method_has_the_one_signature_and_says_what_it_computes():
    for name, method in METHODS.items():
        assert list(inspect.signature(method).parameters)[:4] == ["vit", "images", "target", "generator"], name
        assert method.__name__ == name and method.__doc__
    assert set(attribution.__all__) == {"BLIND", "METHODS", "blurred"}
