"""ViTs of others: any file of a training loads or is named with what differs; adapters answer as what they were made from."""

import argparse
import json
import pickle
import socket

import numpy as np
import pytest
import skimage.data
import timm
import torch
import torchvision.models as tv
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from diffmask_lite import DiffMask, attribution, models
from diffmask_lite.datasets import preprocess
from diffmask_lite.plots import displayable
from diffmask_lite.vit import UnfitViT, adapters, anatomy, pixel_range, predict
from diffmask_lite.vit.state import sizes_of
from families import FAMILIES, assert_one_sentence, build, some_images, some_keep

NAME = "test_vit"  # timm's smallest: 160 × 160 pixels, 100 patches


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was asked for"))


def refused(call, words, kind=ValueError):
    with pytest.raises(kind, match=words) as error:
        call()
    return assert_one_sentence(error.value)


@torch.no_grad()
def lively(model, seed=0):
    """Weights that are all of a size, so that none can be forgotten or exchanged unseen."""
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.add_(0.1 * torch.randn(weight.shape, generator=draw).to(weight))
    return model.eval()


# Files of weights

TUNED = {"num_classes": 37, "img_size": 96, "in_chans": 1}


def tuned(seed=0, **options):
    return lively(timm.create_model(NAME, **TUNED | options), seed)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def timms(state):  # `timm`'s train.py, which explains that the averaged weights are those that it scores
    args = argparse.Namespace(lr=0.1)
    return {"epoch": 3, "args": args, "optimizer": {"state": {}}, "state_dict": tuned(9).state_dict(), "state_dict_ema": state}


FORMS = {
    "safetensors": lambda state, path: save_file(state, path),
    "bare": lambda state, path: torch.save(state, path),
    "old_format": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "parallel": lambda state, path: torch.save(prefixed(state, "module."), path),
    "lightning": lambda state, path: torch.save({"state_dict": prefixed(state, "model."), "epoch": 3}, path),
    "compiled": lambda state, path: torch.save({"model": prefixed(state, "module._orig_mod.")}, path),
    "by_hand": lambda state, path: torch.save({"model_state_dict": state, "loss": 0.5}, path),
    "timms_script": lambda state, path: torch.save(timms(state), path),
    "halves": lambda state, path: save_file({key: value.half() for key, value in state.items()}, path),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_any_training_gives_its_vit_with_the_sizes_read_off(form, tmp_path):
    vit, path = tuned(), tmp_path / "checkpoint"  # what is in a file, its ending need not say
    FORMS[form](vit.state_dict(), path)
    found = models.load(NAME, path)
    assert not found.training and anatomy(found) == anatomy(vit)
    images = some_images(vit)
    torch.testing.assert_close(found(images), vit(images), rtol=0, atol=2e-2 if form == "halves" else 0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_sizes_are_read_off_for_every_family_that_has_a_place_for_each_patch(family):
    vit = build(family)
    plain = models._create(FAMILIES[family].architecture, meta=True)
    h, w = anatomy(vit).grid
    places = getattr(vit, "pos_embed", None) is not None
    found = sizes_of(plain, vit.state_dict())
    sizes = {"num_classes": 10} | ({"in_chans": 1} if family == "one_channel" else {})
    # Without its token one place too few is counted, and a file does not tell of pixels beyond the last whole patch.
    if places and h == w and family != "no_class_token":
        patch = anatomy(vit).patch
        sizes["img_size"] = (h * patch[0], w * patch[1])
    assert found == sizes


@pytest.mark.parametrize("patch", [8, (8, 16)], ids=["square", "not square"])
def test_a_patch_size_of_ones_own_is_read_off_too(patch, tmp_path):
    """With the image size that it means, where the grid is square; timm's name alone has patches of 16 pixels."""
    sides = (64, 64) if patch == 8 else (64, 128)
    vit, path = timm.create_model(NAME, patch_size=patch, img_size=sides, num_classes=7).eval(), tmp_path / "own.pth"
    torch.save(vit.state_dict(), path)
    found = models.load(NAME, path)
    assert anatomy(found) == anatomy(vit) and anatomy(found).grid == (8, 8)
    images = some_images(vit)
    torch.testing.assert_close(found(images), vit(images))


@pytest.mark.parametrize(
    "sides, patch", [((160, 160), (8, 32)), ((80, 80), 8)], ids=["timm's size", "as many patches as timm's"]
)
def test_timms_size_is_kept_where_it_explains_the_patches_and_a_size_that_is_said_counts(sides, patch, tmp_path):
    """test_vit has 160 pixels a side and patches of 16: 100 of them, as many as of 8 pixels on 80."""
    vit, path = timm.create_model(NAME, patch_size=patch, img_size=sides, num_classes=7).eval(), tmp_path / "own.pth"
    torch.save(vit.state_dict(), path)
    found = models.load(NAME, path, size=None if sides == (160, 160) else sides)
    assert anatomy(found) == anatomy(vit)
    torch.testing.assert_close(found(some_images(vit)), vit(some_images(vit)))


def test_a_folder_of_transformers_takes_a_crop_and_a_folder_is_told_from_a_name(tmp_path, monkeypatch):
    of_transformers("vit").save_pretrained(tmp_path / "theirs")
    assert models.load(f"local-dir:{tmp_path / 'theirs'}", mean=0.5, std=0.5, crop=0.5).pretrained_cfg["crop_pct"] == 0.5
    refused(lambda: models.load(f"local-dir:{tmp_path / 'theirs'}", mean=0.5, std=0.5, crop=7), "--crop is above 0")
    monkeypatch.chdir(tmp_path)
    refused(lambda: models.load("theirs"), "there is a folder of this name: say local-dir:theirs")


def test_the_crop_of_ones_own_training_is_what_the_vit_gets(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(tuned().state_dict(), path)
    timms, whole = (preprocess(models.load(NAME, path, crop=crop)) for crop in (None, 1))
    assert timms.box((200, 100)) != whole.box((200, 100)) == (50, 0, 150, 100)
    refused(lambda: models.load(NAME, path, crop=1.5), "--crop is above 0 and at most 1, but it is 1.5")


class Foreign:
    """Something that only a pickle could bring back."""


SPOILT = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "is not a whole file of weights"),
    "no weights": (lambda path: path.write_bytes(b"no weights"), "not a whole safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole safetensors file"),
    "a whole model": (lambda path: torch.save(tuned(), path), r"torch.save\(vit.state_dict"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps(Foreign())), r"torch.save\(vit.state_dict"),
    "code": (lambda path: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path), "not a whole file of weights"),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), "no state dict"),
    "deeper": (lambda path: torch.save({"net": {"a": torch.zeros(3)}}, path), "no state dict"),
    "int8": (lambda path: torch.save({k: v.char() for k, v in tuned().state_dict().items()}, path), "is quantised"),
    "packed": (lambda path: torch.save({"head._packed_params.dtype": torch.qint8}, path), "is quantised"),
    "another head": (
        lambda path: torch.save(tuned().state_dict() | {"head.bias": torch.zeros(38)}, path),
        r"head.bias is \(38,\) in the file, but \(37,\) in the ViT",
    ),
    "no head": (
        lambda path: torch.save({k: v for k, v in tuned().state_dict().items() if "head" not in k}, path),
        "lacks head.weight and 1 more;",
    ),
    "one too many": (
        lambda path: torch.save(tuned().state_dict() | {"decoder.bias": torch.zeros(1)}, path),
        "also holds decoder.bias; .*save_for_hf",
    ),
    "pooled": (
        lambda path: torch.save(tuned(global_pool="avg").state_dict(), path),
        "lacks norm.weight and .* also holds fc_norm",
    ),
    "transformers": (lambda path: torch.save(of_transformers("vit").state_dict(), path), "models.from_transformers"),
    "torchvision": (lambda path: torch.save(of_torchvision().state_dict(), path), "models.from_torchvision"),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of its own TorchScript
@pytest.mark.parametrize("spoil, words", SPOILT.values(), ids=SPOILT)
def test_a_file_that_does_not_fit_is_named_with_the_first_thing_that_differs(spoil, words, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(tuned().state_dict(), path)
    spoil(path)
    assert str(path) in refused(lambda: models.load(NAME, path), words)


def test_what_cannot_be_loaded_is_said_in_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "vit.pth"
    torch.save(tuned().state_dict(), path)
    refused(lambda: models.load("test_wit"), "nearest: test_vit")
    refused(lambda: models.load(NAME, path, pretrained=True), "not from both")
    refused(lambda: models.load(NAME, tmp_path / "none"), "no weights file", FileNotFoundError)
    refused(lambda: models.load("test_vit3", path), "test_vit3: it lacks reg_token and 67 more")
    refused(
        lambda: models.load(NAME, path, size=128),
        r"pos_embed is \(1, 37, 64\) in the file, but \(1, 65, 64\) in the ViT; name another",
    )
    refused(lambda: models.load(NAME, path, size=(1, 2, 3)), "--size is a side")
    refused(lambda: models.load(f"local-dir:{tmp_path}"), "timm could not make local-dir:.*Config file not found")
    refused(lambda: models.load("resnet18"), "ResNet does not fit", UnfitViT)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: (_ for _ in ()).throw(OSError(101, "Network is unreachable")))
    refused(lambda: models.load(NAME, pretrained=True), r"could not make test_vit \(Network is unreachable\)")


def test_sizes_that_no_file_says_come_from_the_gates():
    small = models.load(NAME, shape={"size": [64, 64], "channels": 1, "classes": 7})
    assert anatomy(small).size == (64, 64) and anatomy(small).channels == 1 and anatomy(small).classes == 1000


def test_a_folder_of_timm_needs_no_other_word(tmp_path):
    vit = tuned(num_classes=3, global_pool="avg")  # an option that no tensor tells
    vit.pretrained_cfg |= {"mean": (0.2,), "std": (0.3,)}
    timm.models.save_for_hf(vit, tmp_path, model_config={"label_names": ["ant", "bee", "cat"]})
    found = models.load(f"local-dir:{tmp_path}", shape={"size": [160, 160], "channels": 3})  # of gates for another ViT
    assert torch.equal(found(some_images(vit)), vit(some_images(vit))) and models.class_names(found) == ["ant", "bee", "cat"]
    assert models.summary(found).startswith(
        "test_vit: 3 classes (ant … cat); images 1 × 96 × 96, crop 0.95 (center, bicubic), mean"
    )
    assert models.summary(found).endswith("mean 0.2, std 0.3")


# Images and classes


def test_mean_and_standard_deviation_reach_whoever_asks(tmp_path):
    """White and black are what the formula says to `preprocess`, `pixel_range` and, back, `displayable`."""
    torch.save(tuned(in_chans=3).state_dict(), tmp_path / "vit.pth")
    mean, std = (0.2, 0.3, 0.4), (0.1, 0.2, 0.5)
    for given, wanted in (({"mean": mean, "std": std}, (mean, std)), ({"mean": 0.1, "std": 0.7}, ((0.1,) * 3, (0.7,) * 3))):
        vit = models.load(NAME, tmp_path / "vit.pth", **given)
        for value, found in zip((0, 1), pixel_range(vit), strict=True):
            exact = torch.tensor([(value - m) / s for m, s in zip(*wanted, strict=True)])
            torch.testing.assert_close(found.flatten(), exact)
            image = preprocess(vit)(Image.new("RGB", (200, 100), (255 * value,) * 3))
            torch.testing.assert_close(image, found.expand(3, 96, 96))
            cfg = vit.pretrained_cfg
            assert np.allclose(displayable(image, cfg["mean"], cfg["std"]), value, atol=1e-6)
    for wrong in ({"mean": (0.1, 0.2)}, {"std": (1, 1, 0)}, {"std": float("nan")}):
        refused(lambda wrong=wrong: models.load(NAME, tmp_path / "vit.pth", **wrong), f"--{next(iter(wrong))}")
    nothing = build("vit")
    nothing.pretrained_cfg = {}
    refused(lambda: preprocess(nothing), "does not say how its pixels are normalised")


def test_a_multilabel_head_is_named_by_whoever_knows(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(tuned().state_dict(), path)
    for given, wanted in (({}, False), ({"multilabel": True}, True), ({"shape": {"multilabel": True}}, True)):
        vit = models.load(NAME, path, **given)
        assert anatomy(vit).multilabel == wanted and f"37 {'labels' if wanted else 'classes'} (" in models.summary(vit)


def test_classes_have_the_names_that_somebody_gave_them(tmp_path):
    path, words = tmp_path / "vit.pth", tmp_path / "names.txt"
    torch.save(tuned().state_dict(), path)
    assert models.class_names(models.load(NAME, path))[36] == "class 36"
    words.write_text("\ufeff" + "".join(f"breed {i} \r\n" for i in range(37)) + "\n", encoding="utf-8")
    vit = models.load(NAME, path, names=words)
    assert models.class_names(vit) == [f"breed {i}" for i in range(37)] and "37 classes (breed 0 … breed 36)" in models.summary(
        vit
    )
    assert models.class_names(models.load(NAME, path, names=list("a" * 37))) == ["a"] * 37
    refused(lambda: models.load(NAME, path, names=["a", "b"]), "2 names of classes, but the ViT has 37")
    refused(lambda: models.load(NAME, path, names=tmp_path / "none"), "no file of class names", FileNotFoundError)
    words.write_bytes(b"\xff\xfe\x00")
    refused(lambda: models.load(NAME, path, names=words), "no text in UTF-8")

    vit = timm.create_model(NAME)
    assert "tench" in models.class_names(vit)[0] and len(models.class_names(vit)) == 1000
    vit.pretrained_cfg["num_classes"] = 5  # timm's weights for this name are not of ImageNet
    assert models.class_names(vit)[0] == "class 0"
    vit.pretrained_cfg |= {"label_names": {str(i): f"n{i}" for i in range(1000)}, "label_descriptions": {"n7": "a word"}}
    assert models.class_names(vit)[6:8] == ["n6", "a word"]
    vit.reset_classifier(7)  # the names were those of another head
    assert models.class_names(vit) == [f"class {i}" for i in range(7)]


# Heads of one logit


@pytest.mark.parametrize("options", [{}, {"architecture": "deit_tiny_distilled_patch16_224", "embed_dim": 48, "num_heads": 3}])
def test_two_logits_say_what_the_sigmoid_of_one_says(options, tmp_path):
    made = {"model_name": options.get("architecture", NAME), **{k: v for k, v in options.items() if k != "architecture"}}
    vit = lively(timm.create_model(**made, num_classes=1, img_size=96))
    vit.pretrained_cfg["label_names"] = ["ill"]
    state = {key: value.clone() for key, value in vit.state_dict().items()}
    images = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    refused(lambda: DiffMask(vit), r"models.two_class\(vit\)", UnfitViT)
    two = models.two_class(vit)
    with torch.no_grad():
        torch.testing.assert_close(two(images)[:, 1:], vit(images), rtol=0, atol=1e-6)
        torch.testing.assert_close(two(images).softmax(1)[:, 1], vit(images)[:, 0].sigmoid())
    assert models.class_names(two) == ["not ill", "ill"] and anatomy(two).classes == 2
    assert two.blocks[0].mlp.fc1.weight is vit.blocks[0].mlp.fc1.weight  # shared
    assert vit.num_classes == 1 and vit.pretrained_cfg["label_names"] == ["ill"]
    assert all(torch.equal(value, state[key]) for key, value in vit.state_dict().items())
    refused(lambda: models.two_class(two), "has 2")
    if not options:
        torch.save(vit.state_dict(), tmp_path / "vit.pth")
        found = models.load(NAME, tmp_path / "vit.pth", names=["well", "ill"])
        torch.testing.assert_close(found(images), two(images)) and models.class_names(found) == ["well", "ill"]


@pytest.mark.filterwarnings("ignore")  # torch's, of its own quantisation
def test_int8_is_refused_by_name():
    vit = torch.ao.quantization.quantize_dynamic(tuned(), {nn.Linear})
    refused(lambda: DiffMask(vit), "quantised to int8", UnfitViT)


# Adapters

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
KINDS = {
    "vit": ("ViT", {"intermediate_size": 100}),
    "vit_one_channel": ("ViT", {"intermediate_size": 100, "num_channels": 1, "qkv_bias": False}),
    "dinov2": ("Dinov2", {}),
    "dinov2_swiglu": ("Dinov2", {"use_swiglu_ffn": True}),
}
CAT = Image.fromarray(skimage.data.chelsea())


def of_transformers(kind, classes=5, **options):
    family, own = KINDS[kind]
    config = getattr(transformers, f"{family}Config")(**SMALL | own | options, num_labels=classes)
    return lively(getattr(transformers, f"{family}ForImageClassification")(config))


def of_torchvision(**options):
    model = lively(tv.VisionTransformer(64, 16, 3, 3, 48, 96, num_classes=5, **options))
    return model


@torch.no_grad()
def assert_same_logits(vit, ask, size=(64, 64)):
    images = some_images(vit)
    assert images.shape[2:] == size and not vit.training
    torch.testing.assert_close(vit(images), ask(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vit_of_transformers_answers_the_same_and_can_miss_patches(kind):
    theirs = of_transformers(kind)
    vit = models.from_transformers(theirs)
    assert_same_logits(vit, lambda images: theirs(images).logits)
    assert models.class_names(vit)[4] == "LABEL_4"
    refused(lambda: preprocess(vit), "does not say how its pixels are normalised")
    models.describe(vit, 0.5, 0.25)
    assert torch.equal(
        preprocess(vit)(Image.new("L" if "one" in kind else "RGB", (64, 64))), torch.full(some_images(vit).shape[1:], -2.0)
    )
    images, keep = some_images(vit), some_keep(vit, [3, 9, 16])
    with torch.no_grad():  # DINOv2's head reads the class token and the mean of the patches that are left
        sharp, soft = predict(vit, images, keep), predict(vit, images, keep.float())
        torch.testing.assert_close(soft, sharp, rtol=0, atol=1e-5)
        index = keep[0].flatten().nonzero()[:, 0]
        tokens = torch.cat([vit.cls_token, vit.patch_embed(images[:1])], 1) + vit.pos_embed
        left = vit.norm(nn.Sequential(*vit.blocks)(torch.cat([tokens[:, :1], tokens[:, 1:][:, index]], 1)))
        read = torch.cat([left[:, 0], left[:, 1:].mean(1)], 1) if kind.startswith("dino") else left[:, 0]
        torch.testing.assert_close(sharp[:1], vit.head(read), rtol=0, atol=1e-5)
    if kind.startswith("dino"):
        refused(lambda: attribution.METHODS["direct"](vit, images), "no direct terms", UnfitViT)


def test_names_of_tensors_in_version_4_are_those_of_version_5():
    for kind, names in {
        "vit": {
            r"vit.layers": "vit.encoder.layer", "attention.q_proj": "attention.attention.query",
            "attention.k_proj": "attention.attention.key", "attention.v_proj": "attention.attention.value",
            "attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
        },
        "dinov2_swiglu": {
            "attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
            "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
            "mlp.down_proj": "mlp.weights_out",
        },
    }.items():  # fmt: skip
        new = {key: value for key, value in of_transformers(kind).state_dict().items() if "mask_token" not in key}
        old = {}
        for key, value in new.items():
            for now, before in names.items():
                key = key.replace(now, before)
            if "gate_proj" in key:
                value = torch.cat([value, new[key.replace("gate_proj", "up_proj")]])
            if "up_proj" not in key:
                old[key.replace("gate_proj", "weights_in")] = value
        assert old.keys() != new.keys()
        one, other = (adapters._renamed(state, adapters.TRANSFORMERS) for state in (old, new))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


PROCESSORS = {
    "vit": (transformers.ViTImageProcessor, {"size": {"height": 64, "width": 64}, "image_mean": [0.1, 0.2, 0.3]}),
    "dinov2": (
        transformers.BitImageProcessor,
        {"size": {"shortest_edge": 110}, "crop_size": {"height": 96, "width": 96}, "resample": 3},
    ),
    "dinov2_swiglu": (
        transformers.ViTImageProcessor,
        {"size": {"height": 64, "width": 64}, "rescale_factor": 1 / 127.5, "do_normalize": False},
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_processor_says_how_images_are_made(kind):
    make, options = PROCESSORS[kind]
    theirs, processor = of_transformers(kind), make(**options)
    vit = models.from_transformers(theirs, processor)
    wanted = processor(CAT, return_tensors="pt")["pixel_values"]
    found = preprocess(vit)(CAT)[None]
    assert (found - wanted).abs().mean() < 1e-3 and (
        found - wanted
    ).abs().max() < 0.1  # a pixel's value may be rounded otherwise
    assert_same_logits(vit, lambda images: theirs(images).logits, tuple(wanted.shape[2:]))


def test_a_folder_of_transformers_needs_no_other_word(tmp_path):
    theirs = of_transformers("vit", 2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    theirs.save_pretrained(tmp_path)
    folder = f"local-dir:{tmp_path}"
    refused(lambda: models.load(folder), "preprocessor_config.json .*; pass --mean and --std")
    assert models.load(folder, mean=0.3, std=0.2).pretrained_cfg["mean"] == (0.3,) * 3
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    vit = models.load(folder)
    assert_same_logits(vit, lambda images: theirs(images).logits)
    assert models.class_names(vit) == ["cat", "dog"] and "crop 1 (squash, bilinear), mean 0.5 0.5 0.5" in models.summary(vit)
    refused(lambda: models.load(folder, tmp_path / "vit.pth"), "leave --weights out")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "no_such_thing"}))
    refused(lambda: models.load(folder), "transformers could not read")


def test_timms_vit_comes_out_of_its_wrapper():
    labels = {0: "ant", 1: "bee", 2: "cat"}
    config = transformers.TimmWrapperConfig(architecture=NAME, model_args={"img_size": 96}, num_labels=3, id2label=labels)
    config.pretrained_cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1]}
    theirs = lively(transformers.TimmWrapperForImageClassification(config))
    vit = models.from_transformers(theirs)
    assert_same_logits(vit, lambda images: theirs(images).logits, (96, 96))
    assert models.class_names(vit) == list(labels.values()) and vit.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert theirs.timm_model.pretrained_cfg["mean"] != [0.1, 0.2, 0.3] and type(vit) is type(theirs.timm_model)


def test_one_logit_of_transformers_becomes_two_and_regression_is_refused():
    theirs = of_transformers("vit", classes=1)
    vit = models.from_transformers(theirs)
    images = some_images(vit)
    with torch.no_grad():
        torch.testing.assert_close(vit(images).softmax(1)[:, 1], theirs(images).logits[:, 0].sigmoid())
    theirs.config.problem_type = "regression"
    refused(lambda: models.from_transformers(theirs), "regression", UnfitViT)
    labels = of_transformers("vit", problem_type="multi_label_classification")
    assert models.from_transformers(labels).pretrained_cfg["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize("head", [None, nn.Linear(48, 7), nn.Sequential(nn.Dropout(), nn.Linear(48, 7))])
def test_a_vit_of_torchvision_answers_the_same(head):
    theirs = of_torchvision()
    if head is not None:
        theirs.heads = head
    vit = models.from_torchvision(theirs.eval())
    assert_same_logits(vit, theirs)
    wanted = tv.ViT_B_16_Weights.IMAGENET1K_V1.transforms(crop_size=64, resize_size=73)(CAT)
    assert (preprocess(vit)(CAT) - wanted).abs().mean() < 1e-3


def test_what_computes_something_else_is_refused():
    shifted, wide = of_transformers("vit"), of_transformers("vit")
    shifted.vit.layers[1].register_forward_hook(lambda _m, _a, out: 1.01 * out)
    refused(lambda: models.from_transformers(shifted), "do not agree", UnfitViT)
    wide.config.hidden_act = "gelu_new"
    refused(lambda: models.from_transformers(wide), "gelu_new", UnfitViT)
    other = transformers.ViTImageProcessor(size={"height": 96, "width": 96})
    refused(lambda: models.from_transformers(of_transformers("vit"), other), "64 × 64 pixels, but its processor", UnfitViT)
    deit = transformers.DeiTForImageClassification(transformers.DeiTConfig(**SMALL, intermediate_size=100))
    refused(lambda: models.from_transformers(deit), "DeiTForImageClassification of transformers is not known", UnfitViT)
    refused(lambda: models.from_torchvision(of_torchvision(representation_size=30)), "heads.pre_logits", UnfitViT)
    refused(lambda: models.from_torchvision(tv.resnet18()), "no VisionTransformer of torchvision", UnfitViT)
    refused(lambda: models.from_torchvision(build("vit")), "no VisionTransformer of torchvision", UnfitViT)
    squashed = of_torchvision()
    squashed.heads = nn.Sequential(nn.Linear(48, 5), nn.Sigmoid())
    refused(lambda: models.from_torchvision(squashed), "do not agree", UnfitViT)
