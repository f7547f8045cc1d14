"""Input is looked at once, wherever it comes in: bad input is refused in one clear sentence, and good input is not."""

import sys

import numpy as np
import pytest
import torch

from diffmask_lite import DiffMask
from diffmask_lite.attribution import METHODS
from diffmask_lite.faithfulness import evaluate, mask_scores
from diffmask_lite.vit import attention_maps, hidden_states, pixel_range, predict
from diffmask_lite.vit.inputs import require_images
from families import assert_one_sentence, build, shared, some_images, some_keep

VIT = shared("vit")
IMAGES = some_images(VIT)
KEEP = some_keep(VIT, [3, 5, 7])


def with_pixel(value):
    images = IMAGES.clone()
    images[1, 2, 3, 4] = value
    return images


BAD_IMAGES = {
    "dict": ({"image": IMAGES}, TypeError, "this is a dict"),
    "list": (list(IMAGES), TypeError, "this is a list"),
    "array": (IMAGES.numpy(), TypeError, "this is a ndarray"),
    "one_image": (IMAGES[0], ValueError, "add a batch axis with images[None]"),
    "five_axes": (IMAGES[None], ValueError, "4 axes (B, C, H, W), but these have shape (1, 3, 3, 64, 64)"),
    "channels": (IMAGES[:, :1], ValueError, "1 channels, but this ViT takes 3"),
    "channels_last": (IMAGES.movedim(1, -1), ValueError, "64 channels, but this ViT takes 3"),
    "size": (IMAGES[..., :48], ValueError, "3 × 64 × 48, but this ViT takes 3 × 64 × 64"),
    "empty": (IMAGES[:0], ValueError, "the batch of images is empty"),
    "uint8": ((IMAGES * 50 + 128).byte(), ValueError, "torch.uint8; divide pixels by 255"),
    "pixels_0_to_255": (torch.rand(3, 3, 64, 64) * 255, ValueError, "divide pixels by 255"),
    "nan": (with_pixel(float("nan")), ValueError, "images [1] of the batch hold nan or infinite"),
    "infinite": (with_pixel(float("-inf")), ValueError, "images [1] of the batch hold nan or infinite"),
    "double": (IMAGES.double(), ValueError, "torch.float64, but the vit's weights are torch.float32"),
    "device": (IMAGES.to("meta"), ValueError, "on meta, but the vit is on cpu; use images.to('cpu')"),
}


def assert_refused(caught, words):
    assert words.lower() in assert_one_sentence(caught.value).lower()


@pytest.mark.parametrize("images, error, words", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images_are_refused(images, error, words):
    with pytest.raises(error) as caught:
        predict(VIT, images)
    assert_refused(caught, words)


WAYS_IN = {
    "predict": lambda x: predict(VIT, x),
    "predict_masked": lambda x: predict(VIT, x, KEEP, "mean"),
    "hidden_states": lambda x: hidden_states(VIT, x),
    "attention_maps": lambda x: attention_maps(VIT, x),
    "explain": lambda x: DiffMask(VIT).explain(x),
    "explain_depth": lambda x: DiffMask(VIT).explain(x, depth=1),
    "verify": lambda x: DiffMask(VIT).verify(x, KEEP, torch.zeros(3, 10)),
    "verify_without_logits": lambda x: DiffMask(VIT).verify(x, KEEP),
}


@pytest.mark.parametrize("ask", WAYS_IN.values(), ids=WAYS_IN)
def test_every_way_in_looks_at_images_once(ask, monkeypatch):
    with pytest.raises(ValueError, match="hold NaN"):
        ask(with_pixel(float("nan")))
    looks = []

    def counted(model, images, **options):
        looks.append(images)
        return require_images(model, images, **options)

    for name, module in list(sys.modules.items()):
        if name.startswith("diffmask_lite") and getattr(module, "require_images", None) is require_images:
            monkeypatch.setattr(module, "require_images", counted)
    ask(IMAGES)
    assert len(looks) == 1


PLACEHOLDER = torch.zeros(48)
BAD_MASKS = {
    "list": (KEEP.tolist(), "mean", TypeError, "mask must be a tensor (B, h, w), but this is a list"),
    "flat": (KEEP.flatten(1), "mean", ValueError, "shape (3, 16), but 3 images on a 4 × 4 patch grid need (3, 4, 4)"),
    "other_batch": (KEEP[:2], "mean", ValueError, "shape (2, 4, 4), but 3 images"),
    "device": (KEEP.to("meta"), "mean", ValueError, "the mask is on meta, but the images are on cpu"),
    "int_drop": (KEEP.long(), "drop", ValueError, 'removal "drop" takes whole patches away, so the mask must be bool'),
    "float_mean": (KEEP.float(), "mean", ValueError, "the mask must be bool, but it is torch.float32"),
    "above_1": (2 * KEEP.float(), "drop", ValueError, "the mask must lie between 0 and 1, but it goes from 0 to 2"),
    "below_0": (-KEEP.long(), PLACEHOLDER, ValueError, "the mask must lie between 0 and 1, but it goes from -1 to 0"),
    "nan_mask": (KEEP / 0 * 0, "drop", ValueError, "the mask must lie between 0 and 1, but it goes from nan to nan"),
    "nan_placeholder": (KEEP, PLACEHOLDER / 0, ValueError, "the placeholder holds nan or infinite values"),
    "unknown_removal": (KEEP, "blur", ValueError, "unknown removal 'blur'"),
    "no_removal": (KEEP, None, ValueError, "unknown removal None"),
    "array_removal": (KEEP, np.zeros(2), ValueError, "unknown removal array("),
    "narrow_placeholder": (KEEP, torch.zeros(47), ValueError, "shape (47,), but this ViT needs (48,) or (16, 48)"),
    "short_placeholder": (KEEP, torch.zeros(15, 48), ValueError, "shape (15, 48), but this ViT needs (48,) or (16, 48)"),
    "batch_placeholder": (KEEP, torch.zeros(1, 16, 48), ValueError, "needs (48,) or (16, 48)"),
    "far_placeholder": (KEEP, PLACEHOLDER.to("meta"), ValueError, "the placeholder is on meta, but the images are on cpu"),
}


@pytest.mark.parametrize("keep, removal, error, words", BAD_MASKS.values(), ids=BAD_MASKS)
def test_masks_and_removals_are_refused(keep, removal, error, words):
    with pytest.raises(error) as caught:
        predict(VIT, IMAGES, keep, removal)
    assert_refused(caught, words)


def test_a_placeholder_of_nan_is_refused_where_it_is_made():
    with pytest.raises(ValueError) as caught:
        DiffMask(VIT, PLACEHOLDER / 0)
    assert_refused(caught, "the placeholder holds nan or infinite values")


@pytest.mark.parametrize("rows, columns", [(1, 10), (3, 1), (2, 10)])
def test_logits_at_hand_are_not_broadcast(rows, columns):
    for ask in (
        lambda logits: DiffMask(VIT).verify(IMAGES, KEEP, logits),
        lambda logits: mask_scores(VIT, IMAGES, {"one": KEEP}, logits=logits),
    ):
        with pytest.raises(ValueError) as caught:
            ask(torch.zeros(rows, columns))
        assert_refused(caught, f"the logits have shape ({rows}, {columns}), but these images and this vit need (3, 10)")


def broken(part):
    """A ViT that diverged. A bias of NaN in the head leaves all slopes finite."""
    vit = build("vit")
    with torch.no_grad():
        (vit.head if part == "head" else vit.blocks[1].mlp.fc1).bias[2] = float("nan")
    return vit


ASKED = {
    "explain": lambda vit: DiffMask(vit).explain(IMAGES),
    "explain at a depth": lambda vit: DiffMask(vit).explain(IMAGES, depth=2),
    "verify": lambda vit: DiffMask(vit).verify(IMAGES, KEEP, torch.zeros(3, 10)),
    "mask_scores": lambda vit: mask_scores(vit, IMAGES, {"one": KEEP}, logits=torch.zeros(3, 10)),
    "evaluate": lambda vit: evaluate(vit, IMAGES, {"one": KEEP}, progress=False),
    **{name: lambda vit, name=name: METHODS[name](vit, IMAGES) for name in METHODS if name not in ("random", "centre")},
}


@pytest.mark.parametrize("part", ["head", "block"])
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_answers_that_are_not_finite_are_refused(ask, part):
    vit = broken(part)
    if part == "head" and ask in (ASKED["explain at a depth"], ASKED["raw_attention"], ASKED["rollout"]):
        ask(vit)  # these do not read the prediction
        return
    with pytest.raises(ValueError) as caught:
        ask(vit)
    assert_refused(caught, "the vit's answers to images [0, 1, 2] of the batch are not finite numbers")


def test_images_whose_answers_are_not_finite_are_named():
    vit = build("vit")
    vit.head.register_forward_hook(lambda _m, _a, out: torch.cat([out[:1], out[1:2] / 0, out[2:]]))
    for ask in (lambda: DiffMask(vit).explain(IMAGES), lambda: DiffMask(vit).verify(IMAGES, KEEP, torch.zeros(3, 10))):
        with pytest.raises(ValueError) as caught:
            ask()
        assert_refused(caught, "the vit's answers to images [1] of the batch are not finite numbers")


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.int64])
def test_a_placeholder_takes_masks_of_any_type_and_may_have_another_itself(dtype):
    wanted = predict(VIT, IMAGES, KEEP, PLACEHOLDER)
    torch.testing.assert_close(predict(VIT, IMAGES, KEEP.to(dtype), PLACEHOLDER), wanted)
    torch.testing.assert_close(predict(VIT, IMAGES, KEEP.to(dtype), PLACEHOLDER.double()), wanted)


@pytest.mark.parametrize("family", ["vit", "siglip", "clip"])
def test_black_white_and_three_times_as_bright_are_fine(family):
    model = shared(family)
    low, high = pixel_range(model)
    for level in (low, high, 3 * high):
        assert predict(model, level.expand(1, 3, 64, 64)).isfinite().all()


def test_half_precision_and_autocast_are_fine():
    half = build("vit").bfloat16()
    assert predict(half, IMAGES.bfloat16(), KEEP, "drop").dtype == torch.bfloat16
    assert predict(half, IMAGES.bfloat16(), KEEP, PLACEHOLDER).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        for removal in ("drop", "mean", "noise", PLACEHOLDER):
            assert predict(VIT, IMAGES, KEEP, removal).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip", "beit"])
def test_a_gpu_gives_what_the_cpu_gives(family):
    model, there = shared(family), build(family).cuda()
    images, keep = some_images(model), some_keep(model, [3, 0, 7])
    for removal in ("drop", "mean", "noise", PLACEHOLDER):
        far = removal.cuda() if isinstance(removal, torch.Tensor) else removal
        logits = predict(there, images.cuda(), keep.cuda(), far)
        expected = predict(model, images, keep, removal)
        torch.testing.assert_close(logits.cpu(), expected, rtol=0, atol=0.05)  # convolutions may run in TF32
    with pytest.raises(ValueError, match="Images are on cpu, but the ViT is on cuda:0"):
        predict(there, images)
