"""`python -m diffmask_lite explain`: real runs on photographs of every kind, and one sentence for each that cannot be read."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import tifffile
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffmask_lite import DiffMask, datasets, plots, weights
from diffmask_lite.__main__ import main, parser
from diffmask_lite.attribution import METHODS
from diffmask_lite.commands.explain import explain_files
from diffmask_lite.commands.loading import UNTRAINED, by_removal, find_class, load_explainer, untrained_method
from diffmask_lite.commands.question import Question
from diffmask_lite.course import results
from diffmask_lite.datasets import CIFAR10
from diffmask_lite.plots.canvas import answers
from families import assert_one_sentence
from figures import assert_readable

ROOT = Path(__file__).parents[1]
CAT, ASTRONAUT = Image.fromarray(skimage.data.chelsea()), Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def ours():
    return weights.pretrained("cifar10")


@pytest.fixture
def drawing(tmp_path, monkeypatch, ours):
    """An empty working directory, and our weights without reading them anew for each run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "pretrained", lambda _name: ours)
    return tmp_path


@pytest.fixture
def here(drawing, monkeypatch):
    """The same, with blank figures, which cost less."""
    monkeypatch.setattr(plots, "explained", lambda *_, **__: plots.Drawing(figsize=(1, 1)))
    return drawing


def put(place, picture=CAT, **options):
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def explain(capsys, *arguments):
    """Run the command; its exit status, its rows, and the sentences on stderr, of which the last is the verdict."""
    status = main(["explain", "--json", "--device", "cpu", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err.splitlines()


def sentence(line):
    assert line.startswith("diffmask_lite: ") and line.endswith(".") and "Traceback" not in line
    return line.removeprefix("diffmask_lite: ")


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


# What it says is what the ViT says


def cifar_input(picture):
    """Upright RGB picture -> (1, 3, 32, 32), written down here once more: resize the shorter side, cut out the middle."""
    scale = 32 / min(picture.size)
    size = [32 if side == min(picture.size) else int(side * scale) for side in picture.size]
    small = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    pixels = np.asarray(small.crop((left, top, left + 32, top + 32))) / 255
    normal = (pixels - CIFAR10.mean) / CIFAR10.std
    return torch.tensor(normal, dtype=torch.float32).permute(2, 0, 1)[None]


@torch.no_grad()
def untrained(vit):
    """Gates of which some are open and some are shut in every picture."""
    explainer = DiffMask(vit).eval()
    decisive = explainer.gates[-1].last  # the gates before it start open
    decisive.weight.mul_(8)
    decisive.bias.fill_(-1.0)
    return explainer


def taken_away(vit, keep, placeholder):
    """Removal, written down here once more: tokens left out in front of the blocks, or a vector in the embedding's place."""
    if isinstance(placeholder, str):
        assert placeholder == "drop"
        left = torch.cat([torch.tensor([True]), keep.flatten()])  # the class token stays
        return vit.blocks[0].register_forward_pre_hook(lambda _module, args: (args[0][:, left],))
    return vit.patch_embed.register_forward_hook(lambda _m, _args, out: torch.where(keep.view(1, 64, 1), out, placeholder))


@pytest.mark.parametrize("trained", [True, False], ids=["shipped gates", "untrained gates"])
@torch.no_grad()
def test_the_numbers_are_those_of_the_vit_asked_by_hand(here, capsys, monkeypatch, ours, trained):
    put("cat.png", CAT.convert("RGBA"))
    exif = Image.Exif()
    exif[0x0112] = 6  # as a phone stores it: to be turned by 90° clockwise
    put("astronaut.png", ASTRONAUT.transpose(Image.Transpose.ROTATE_90), exif=exif)
    vit, explainer = ours if trained else (ours[0], untrained(ours[0]))
    monkeypatch.setattr(weights, "pretrained", lambda _name: (vit, explainer))
    status, rows, err = explain(capsys, "cat.png", "astronaut.png")
    assert status == 0 and err == ["2 explained, 0 not."]
    for row, picture in zip(rows, (CAT, ASTRONAUT), strict=True):
        image = cifar_input(picture)
        keep = torch.tensor(row["keep"]).bool()
        assert torch.equal(keep, explainer.explain(image).mask[0] > 0.5)
        assert 4 <= keep.sum() < 56 and row["kl"] > 0.002, "so little is removed that this test sees nothing"
        p = vit(image).softmax(1)[0].double()
        with taken_away(vit, keep, explainer.placeholder):
            q = vit(image).softmax(1)[0].double()
        assert row["class"] == CIFAR10.classes[p.argmax()] and row["index"] == p.argmax()
        assert row["class_after"] == CIFAR10.classes[q.argmax()] and row["index_after"] == q.argmax()
        assert row["agree"] == bool(p.argmax() == q.argmax())
        found = [row["p"], row["p_after"], row["kl"], row["kept"]]
        wanted = torch.stack([p.max(), q.max(), (p * (p / q).log()).sum(), keep.double().mean()])
        assert found == pytest.approx(wanted.tolist(), abs=1e-4)
    assert rows[0]["class"] == "cat"
    for threshold in (0.2, 0.9):
        _, (row,), _ = explain(capsys, "cat.png", "--threshold", threshold)
        mask = explainer.explain(cifar_input(CAT)).mask[0]
        assert row["threshold"] == threshold and row["keep"] == (mask > threshold).int().tolist()


@pytest.mark.parametrize("method, target", [("integrated_drop", 5), ("gradient_input", None), ("rollout", None)])
@torch.no_grad()
def test_another_method_keeps_the_best_share_and_is_verified_by_dropping_the_rest(here, capsys, ours, method, target):
    """The map is made for the class that is named; the numbers are those of this class and of the predicted one."""
    put("cat.png")
    asked = () if target is None else ("--target", CIFAR10.classes[target])
    status, (row,), err = explain(capsys, "cat.png", "--method", method, "--share", "0.3", *asked)
    assert status == 0 and f"method: {method}; the hard mask keeps the best 30%, others dropped" in err
    vit, image = ours[0], cifar_input(CAT)
    score = METHODS[method](vit, image, target)[0]
    torch.testing.assert_close(torch.tensor(row["score"]), score, rtol=1e-3, atol=1e-4)
    keep = torch.zeros(64, dtype=torch.bool).scatter(0, score.flatten().topk(19).indices, True).view(8, 8)  # 0.3 · 64 = 19.2
    assert torch.equal(torch.tensor(row["keep"]).bool(), keep) and row["mask"] is None and row["threshold"] is None
    p = vit(image).softmax(1)[0]
    with taken_away(vit, keep, "drop"):
        q = vit(image).softmax(1)[0]
    assert [row["index"], row["index_after"]] == [p.argmax(), q.argmax()]
    assert [row["p"], row["p_after"]] == pytest.approx([p.max().item(), q.max().item()], abs=1e-4)
    if target is None:
        assert "target" not in row
    else:
        assert row["target"] == "dog" and row["target_index"] == 5 != row["index"]
        assert [row["target_p"], row["target_p_after"]] == pytest.approx([p[5].item(), q[5].item()], abs=1e-4)
        assert main(["explain", "cat.png", "--method", method, *asked, "--device", "cpu"]) == 0
        assert f"cat.png: dog ({p[5]:.2f}; it says cat ({p.max():.2f})); 13 of 64" in capsys.readouterr().out


def test_gates_that_know_the_class_explain_the_one_that_is_named(here, capsys, monkeypatch):
    vit, explainer = weights.load_vit(weights.folder() / "cifar10_vit.safetensors", "cifar10"), None
    explainer = DiffMask(vit, "drop", class_aware=True).eval()
    monkeypatch.setattr(weights, "pretrained", lambda _name: (vit, explainer))
    put("cat.png")
    rows = [explain(capsys, "cat.png", "--target", target)[1][0] for target in ("5", "ship")]
    for row, target in zip(rows, (5, 8), strict=True):
        wanted = explainer.explain(cifar_input(CAT), target=target).mask[0]
        torch.testing.assert_close(torch.tensor(row["mask"]), wanted, rtol=1e-3, atol=1e-4)
    assert rows[0]["score"] != rows[1]["score"]


def test_gates_that_keep_all_or_none_are_named(here, capsys, monkeypatch, ours):
    put("cat.png")
    explainer = DiffMask(ours[0]).eval()  # untrained gates start open
    monkeypatch.setattr(weights, "pretrained", lambda _name: (ours[0], explainer))
    for threshold, words in ((0.5, "64 of 64 patches alone (this mask leaves nothing out)"), (0.9999, "0 of 64 patches alone")):
        assert main(["explain", "cat.png", "--threshold", str(threshold), "--device", "cpu"]) == 0
        assert words in capsys.readouterr().out


NAMES = ["tench, Tinca tinca", "crane", "Bengal", "crane", "0", "7"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Bengal", 2), ("2", 2), ("Tinca tinca", 0), ("tench, Tinca tinca", 0), ("tench", 0), ("0", 4), ("7", 5),
        ("bengal", "the nearest name is 'Bengal'"), ("tinka tinca", "the nearest name is 'Tinca tinca'"),
        ("zzz", "No class is named 'zzz'; give its number"), ("crane", "names the classes 1, 3"), ("6", "classes 0 to 5"),
        ("-1", "classes 0 to 5"),
    ],
)  # fmt: skip
def test_a_class_is_found_by_its_name_and_then_by_its_number(text, found):
    if isinstance(found, int):
        assert find_class(text, NAMES) == found
        return
    with pytest.raises(ValueError) as error:
        find_class(text, NAMES)
    assert found in assert_one_sentence(error.value)


# Photographs of every shape, and files of every kind


@pytest.mark.parametrize("method", ["diffmask", "integrated_drop"])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_every_file_has_the_photographs_pixels_and_says_the_same(here, capsys, ours, fit, method):
    photo = ASTRONAUT.crop((0, 0, 97, 61))
    put("tall.png", photo)
    status, (row,), _ = explain(
        capsys, "tall.png", "--method", method, "--fit", fit, "--save", "overlay", "mask", "array", "heatmap"
    )
    names = {"overlay": "tall.png.overlay.png", "mask": "tall.png.mask.png", "heatmap": "tall.png.heatmap.png"}
    assert status == 0 and row["figure"] is None and row["fit"] == fit
    assert tree("explanations") == {*names.values(), "tall.png.npz"} == {Path(file).name for file in row["files"].values()}
    pictures = {kind: Image.open(Path("explanations") / name) for kind, name in names.items()}
    assert {picture.size for picture in pictures.values()} == {photo.size}
    with np.load("explanations/tall.png.npz") as arrays:
        for name in {"score", "keep", "crop"} | ({"mask"} if method == "diffmask" else set()):
            assert np.allclose(arrays[name], row[name], atol=1e-6), name
    left, top, right, bottom = row["crop"] = datasets.preprocess(ours[0], fit=fit).box(photo.size)
    keep = np.array(row["keep"])
    for kind, shown in (("mask", lambda value: value == 255), ("heatmap", lambda value: value[3] == 255)):
        pixels = np.asarray(pictures[kind])
        for y in range(0, 61, 4):
            for x in range(0, 97, 5):
                i, j = int(np.floor((y + 0.5 - top) / (bottom - top) * 8)), int(np.floor((x + 0.5 - left) / (right - left) * 8))
                inside = 0 <= i < 8 and 0 <= j < 8
                wanted = inside and (kind == "heatmap" or keep[i, j] == 1)
                assert shown(pixels[y, x]) == wanted, (kind, x, y)
    values = np.array(row["mask"] or row["score"])
    limits = (0, 1) if method == "diffmask" else (-np.abs(values).max(), np.abs(values).max())
    assert (
        np.abs(np.asarray(plots.overlay(photo, values, row["crop"], limits)) - np.asarray(pictures["overlay"], int)).max() <= 1
    )


@pytest.mark.filterwarnings("default")
def test_a_vit_of_one_channel_and_one_of_thirteen(here, capsys):
    draw = np.random.default_rng(0)
    for channels in (1, 13):
        torch.manual_seed(channels)
        save_file(timm.create_model("test_vit", in_chans=channels, num_classes=5).state_dict(), f"{channels}.safetensors")
    bands = draw.integers(0, 9000, (170, 180, 13)).astype(np.uint16)
    Path("fields").mkdir()
    np.save("fields/a.npy", bands)
    tifffile.imwrite("fields/b.tif", np.moveaxis(bands, 2, 0))
    put("fields/c.png")
    vit = ("--model", "test_vit", "--mean", "4500", "--std", "2500", "--save", "report", "overlay")
    status, rows, err = explain(capsys, "fields", *vit, "--weights", "13.safetensors")
    assert status == 1 and [row["image"] for row in rows] == [f"fields{os.sep}a.npy", f"fields{os.sep}b.tif"]
    assert rows[0]["score"] == rows[1]["score"] and {row["method"] for row in rows} == {"integrated_drop"}
    assert any("c.png cannot be used: Three colours are not the 13 bands" in line for line in err)
    with Image.open("explanations/a.npy.overlay.png") as overlay:
        assert overlay.size == (180, 170)
    radiograph = (np.asarray(CAT.convert("L")).astype(np.uint16) * 15)[:, :300]
    Image.fromarray(radiograph).save("radiograph.png")
    datasets.pictures._warn_once.cache_clear()
    vit = ("--model", "test_vit", "--mean", "0.5", "--std", "0.5", "--save", "report", "overlay")
    status, _, err = explain(capsys, "radiograph.png", *vit, "--weights", "1.safetensors")
    assert status == 0 and any("colours become grey" in line for line in err)
    assert sum("no number above 4095" in line for line in err) == 1


@pytest.mark.parametrize(("family", "method"), [("vit", "integrated_drop"), ("shared_positions", "gradient_attention")])
def test_without_gates_the_best_method_is_taken_that_the_vit_can_have(family, method):
    options = {"img_size": 32, "num_classes": 4}
    name = "vit_tiny_patch16_224" if family == "vit" else "vit_relpos_small_patch16_224"
    vit = timm.create_model(name, **options, embed_dim=48, depth=2, num_heads=3).eval()
    assert untrained_method(vit) == method
    assert by_removal(vit).kind == ("drop" if family == "vit" else "mean")


def test_a_batch_of_any_size_gives_the_same_and_only_one_is_read_ahead(here, capsys, monkeypatch, ours):
    for i in range(5):
        put(f"in/{i}.png", CAT.rotate(30 * i))
    one, three = (explain(capsys, "in", "--batch", n)[1] for n in (1, 3))
    assert [row["image"] for row in one] == [f"in{os.sep}{i}.png" for i in range(5)]
    for a, b in zip(one, three, strict=True):
        assert a["keep"] == b["keep"] and a["kl"] == pytest.approx(b["kl"], abs=1e-5)
    assert len({row["kl"] for row in one}) == 5
    read = []
    monkeypatch.setattr("diffmask_lite.commands.photographs.load_image", lambda path, _: read.append(path) or CAT)
    planned = {Path(f"{i}.jpg"): here / "out" / f"{i}.png" for i in range(7)}
    rows = explain_files(ours[1], CIFAR10.classes, planned, pytest.fail, Question(), batch=2)
    next(rows)
    assert len(read) == 2
    assert len(list(rows)) == 6 and len(read) == 7


# What cannot be read is named, and the rest goes on


def truncated(path):
    put(path)
    path.write_bytes(path.read_bytes()[:3000])


SPOILT = {
    "truncated.jpg": (truncated, "truncated"),
    "text.jpg": (lambda path: path.write_text("not a picture"), "no kind of picture"),
    "strip.png": (lambda path: put(path, Image.new("L", (40_000, 2))), "too narrow a strip"),
    "bomb.png": (lambda path: put(path, Image.new("L", (300, 300))), "exceeds limit"),
    "secret.png": (put, "secret.png cannot be read as an image (Permission denied)."),
    "locked/b.png": (put, "locked cannot be opened (Permission denied)"),
}


def test_broken_files_among_good_ones_are_named_one_by_one(here, capsys, monkeypatch):
    for name, (spoil, _) in SPOILT.items():
        spoil(here / "in" / name)
    for name in ("a.png", "z.png"):
        put(f"in/{name}", CAT.resize((200, 200)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)  # Pillow refuses what is twice as large

    def forbidden(right):  # the tests may run as root, to whom nothing is forbidden
        def guarded(path, *rest):
            if Path(path).name in {"secret.png", "locked"}:
                raise PermissionError(13, "Permission denied", str(path))
            return right(path, *rest)

        return guarded

    monkeypatch.setattr(Image, "open", forbidden(Image.open))
    monkeypatch.setattr(os, "scandir", forbidden(os.scandir))
    (here / "empty").mkdir()
    status, rows, err = explain(capsys, "nowhere.jpg", "in", "empty", "--batch", 1)
    assert status == 1 and [Path(row["image"]).name for row in rows] == ["a.png", "z.png"]
    assert err[-1] == "2 explained, 8 not." and len(err) == 9
    for name, (_, why) in SPOILT.items():
        (line,) = [line for line in err if f"in{os.sep}{name.split('/')[0]}" in line]
        assert why in sentence(line)
    assert "diffmask_lite: There is no file or folder nowhere.jpg." in err
    (line,) = [line for line in err if "There is no picture (" in line]
    assert sentence(line).endswith("under empty.")
    assert explain(capsys, "empty") == (1, [], [line, "0 explained, 1 not."])


# Figures


def test_figures_lie_as_their_photographs_do_and_none_shares_a_name(drawing, capsys):
    for name in ("in/a/x.jpg", "in/b/x.jpg", "in/b/x.png", "in/x.jpg"):
        put(name, ASTRONAUT if "b" in name else CAT)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (drawing / "in").rglob("*.*")}
    status, rows, _ = explain(capsys, "in", "in/a/x.jpg", "in/../in/x.jpg", "--out", "new/out")
    assert status == 0 and len(rows) == 4  # what is named twice is explained once
    wanted = {"a/x.jpg.png", "b/x.jpg.png", "b/x.png.png", "x.jpg.png"}
    assert tree("new/out") == wanted == {Path(row["figure"]).relative_to("new/out").as_posix() for row in rows}
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (drawing / "in").rglob("*.*")}
    explain(capsys, "in/a/x.jpg", "in/b/x.jpg")
    assert tree("explanations") == {"a/x.jpg.png", "b/x.jpg.png"}
    with Image.open("explanations/a/x.jpg.png") as one, Image.open("explanations/b/x.jpg.png") as other:
        assert one.format == "PNG" and one.width == other.width == 900
        assert not np.array_equal(np.asarray(one)[:200], np.asarray(other)[:200])


def test_a_second_run_replaces_figures_and_does_not_explain_them(here, capsys):
    put("cat.png")
    put("dog.png")
    (here / "explanations" / "dog.png.png").mkdir(parents=True)
    (here / "explanations" / "cat.png.png").write_text("old")
    for _ in range(2):
        status, rows, err = explain(capsys, ".")
        assert status == 1 and [row["image"] for row in rows] == ["cat.png"] and err[1:] == ["1 explained, 1 not."]
        assert "The report of dog.png cannot be written to" in sentence(err[0])
    assert tree(here) == {"cat.png", "dog.png", "explanations/cat.png.png"}
    with Image.open("explanations/cat.png.png") as figure:
        assert figure.format == "PNG"


@pytest.mark.parametrize("out", [".", "in", "in/sub/.."])
def test_nothing_is_written_beside_a_photograph(here, capsys, out):
    (here / "in" / "sub").mkdir(parents=True)
    put("in/cat.png")
    put("dog.png")
    status, rows, err = explain(capsys, "in" if out != "." else "dog.png", "--out", out)
    assert status == 1 and rows == [] and "name another folder with --out" in sentence(err[0])
    assert tree(here) == {"in/cat.png", "dog.png"}


def test_names_of_files_are_no_formulas_and_need_be_no_text(drawing, capsys):
    names = ["$x_{$.png", "写真.png", "two words.png", "a" * 200 + ".png"]
    for name in names:
        put(name)
    if sys.platform == "linux":  # where a name is bytes
        put("odd.png").rename(os.fsdecode(b"\xff.png"))
        names.append(os.fsdecode(b"\xff.png"))
    assert main(["explain", *names, "--device", "cpu"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(names)} explained, 0 not." and len(tree("explanations")) == len(names)
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"{name.encode('utf-8', 'backslashreplace').decode()}: cat")


def test_a_name_that_a_terminal_cannot_show_ends_no_folder(here, monkeypatch):
    for name in ("a", "写真", "z"):
        put(f"in/{name}.png")
    truncated(here / "in" / "字.png")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    with monkeypatch.context() as narrow:
        narrow.setattr(sys, "stdout", out)
        narrow.setattr(sys, "stderr", err)
        assert main(["explain", "in", "--device", "cpu"]) == 1
    said = [stream.buffer.getvalue().decode("cp1252") for stream in (out, err) if stream.flush() is None]
    assert (
        "\\u5199\\u771f.png: cat" in said[0]
        and "z.png" in said[0]
        and "3 explained, 1 not." in said[0]
        and "\\u5b57.png" in said[1]
    )


def page(index=0, agree=True, heading="holiday/photo.jpg", h=4, w=4):
    """What `plots.explained` takes: two images, of which one is drawn, for four classes."""
    draw = torch.Generator().manual_seed(0)
    pictures, mask = 0.6 + 0.4 * torch.rand(2, 8 * h, 8 * w, 3, generator=draw), torch.rand(2, h, w, generator=draw)
    keep, (before, after) = mask > 0.5, 3 * torch.randn(2, 2, 4, generator=draw)
    result = SimpleNamespace(mask=mask, keep=keep, logits=before, threshold=0.5, multilabel=False)
    check = SimpleNamespace(
        kl=torch.tensor([0.037, 4.25]), agree=torch.tensor([agree] * 2), kept=keep.float().mean((1, 2)), logits=after
    )
    names = ["a class with a long and winding name, and a synonym", "automobile", "bird", "cat"]
    fine = np.asarray(pictures[index]).repeat(7, 0).repeat(7, 1)
    return fine, pictures[index], result, check, names, index, heading


@pytest.mark.parametrize(
    "arguments",
    [page(), page(1, False), page(h=2, w=5), page(h=8, w=3), page(heading="a_$x$ " * 40), page(heading="")],
    ids=["one", "changed", "wide", "tall", "long", "empty"],
)
def test_the_figure_is_readable(arguments):
    assert_readable(lambda: plots.explained(*arguments))


def scored():
    """A page of scores: the second class is explained, which is likely neither before nor after."""
    fine, picture, result, check, names, index, heading = page()
    score = 3 * (result.mask - 0.5)
    result = SimpleNamespace(mask=None, score=score, keep=result.keep, logits=result.logits, threshold=None, multilabel=False)
    options = {"method": "gradient_attention", "target": 1, "rule": "the best 20%, others the mean patch"}
    options |= {"part": "padded for the ViT; patches of padding count as patches"}
    return partial(plots.explained, fine, picture, result, check, names, index, heading, **options), result


def test_the_figure_of_scores_is_readable_and_says_what_they_are():
    draw, result = scored()
    assert_readable(draw)
    figure = draw()
    middle, right, below = figure.axes[1:4]
    bar = figure.axes[4]
    low, high = middle.images[-1].get_clim()
    most = result.score[0].abs().max().item()
    assert np.allclose(middle.images[-1].get_array(), result.score[0])
    assert (low, high) == pytest.approx((-most, most)) and "score" in bar.get_ylabel()
    assert right.get_title().replace("\n", " ") == "hard mask, the best 20%, others the mean patch"
    p = result.logits[0].softmax(0)[1].item()
    assert below.get_title().startswith(f"Explained: automobile, {p:.2f}")
    assert "automobile" in [label.get_text() for label in below.get_yticklabels()]


def test_a_target_is_among_the_bars_however_unlikely():
    logits = torch.tensor([9.0, 8, 7, 6, 5, -9])
    figure = plots.Drawing()
    answers(figure.subplots(), torch.stack([logits, logits]).softmax(1).numpy(), list("abcdef"), 5, target=5)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list("abcdf")


def test_the_figure_shows_what_it_is_given():
    fine, picture, result, check, names, index, heading = page(1)
    figure = plots.explained(fine, picture, result, check, names, index, heading)
    left, middle, right, below = figure.axes[:4]
    assert np.array_equal(left.images[0].get_array(), fine)
    assert np.allclose(middle.images[-1].get_array(), result.mask[1])
    shown = np.asarray(right.images[0].get_array())
    keep = np.asarray(result.keep[1]).repeat(shown.shape[0] // 4, 0).repeat(shown.shape[1] // 4, 1)
    assert np.allclose(shown[keep], np.asarray(picture)[keep]) and (shown[~keep] == 0.5).all()
    before, after = (logits[1].double().softmax(0) for logits in (result.logits, check.logits))
    widths = sorted(bar.get_width() for bar in below.patches)
    assert widths == pytest.approx(sorted([*before.tolist(), *after.tolist()]), abs=1e-6)
    words = below.get_title()
    assert f"({before.max():.2f})" in words and f"({after.max():.2f})" in words and f"KL {check.kl[1]:.2f} nats" in words
    assert f"{int(result.keep[1].sum())} of 16 kept (" in right.get_xlabel()
    assert heading in plots.alt_text(figure)
    other = SimpleNamespace(**vars(check) | {"kept": check.kept + 0.1})
    with pytest.raises(ValueError, match="another mask") as error:
        plots.explained(fine, picture, result, other, names, index)
    assert_one_sentence(error.value)


# Other ViTs


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with small timm ViTs, each with untrained weights and gates; one with ImageNet's number of classes."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "broken.gates").write_bytes(b"no safetensors")
    kinds = {"many": ("test_vit", {}), "few": ("test_vit", {"num_classes": 7, "img_size": 96}), "other": ("test_vit3", {})}
    for name, (architecture, options) in kinds.items():
        torch.manual_seed(len(name))
        vit = timm.create_model(architecture, **options)
        save_file(vit.state_dict(), folder / f"{name}.vit")
        DiffMask(vit).save(folder / f"{name}.gates")
    torch.manual_seed(99)
    save_file(timm.create_model("test_vit").state_dict(), folder / "stranger.vit")
    return folder


def of(tiny, gates, vit=None):
    return "--model", "test_vit", "--gates", tiny / f"{gates}.gates", "--weights", tiny / f"{vit or gates}.vit"


@pytest.mark.parametrize("name, grid, classes", [("many", 10, 1000), ("few", 6, 7)])
def test_any_timm_vit_with_its_gates(here, capsys, tiny, name, grid, classes):
    put("cat.png")
    status, (row,), _ = explain(capsys, "cat.png", *of(tiny, name))
    assert status == 0 and np.shape(row["keep"]) == (grid, grid)
    words = timm.data.ImageNetInfo().label_descriptions() if classes == 1000 else [f"class {i}" for i in range(7)]
    assert row["class"] == words[row["index"]] and row["class_after"] == words[row["index_after"]]
    vit = timm.create_model("test_vit", num_classes=classes, img_size=16 * grid)
    vit.load_state_dict(load_file(tiny / f"{name}.vit"))
    image = datasets.preprocess(vit)(CAT)[None]
    assert row["p"] == pytest.approx(vit.eval()(image).softmax(1).max().item(), abs=1e-5)


def test_a_multilabel_vit_is_answered_label_by_label(here, capsys, tiny):
    put("cat.png")
    vit = timm.create_model("test_vit", num_classes=7, img_size=96).eval()
    vit.load_state_dict(load_file(tiny / "few.vit"))
    vit.pretrained_cfg["problem_type"] = "multi_label_classification"
    DiffMask(vit).save("labels.gates")
    p = vit(datasets.preprocess(vit)(CAT)[None]).sigmoid()[0]
    labels = (p > 0.5).nonzero().flatten().tolist()
    assert 0 < len(labels) < 7
    asked = "cat.png", "--model", "test_vit", "--weights", tiny / "few.vit", "--gates"
    for given in ((), ("--multilabel",)):  # the gates know it, too
        status, (row,), err = explain(capsys, *asked, "labels.gates", *given)
        assert status == 0 and row["index"] == labels and row["class"] == [f"class {i}" for i in labels]
        assert row["p"] == pytest.approx(p[labels].tolist(), abs=1e-5) and "kl" in row
    assert main(["explain", *map(str, asked), "labels.gates", "--device", "cpu"]) == 0
    assert ", ".join(f"class {i} ({p[i]:.2f})" for i in labels) in capsys.readouterr().out
    status, _, err = explain(capsys, *asked, tiny / "few.gates", "--multilabel")
    assert status == 1 and "multilabel False, but this one has multilabel True" in sentence(err[-1])


def test_a_crop_that_is_said_is_the_part_that_the_vit_gets(here, capsys, tiny):
    """A square of 100 pixels: timm's test_vit takes 95 % of its side; one of half the side lies in the middle."""
    Image.new("RGB", (100, 100), (200, 90, 30)).save("square.png")
    boxes = []
    for arguments in ((), ("--crop", "0.5")):
        status, (row,), _ = explain(capsys, "square.png", "--model", "test_vit", "--weights", tiny / "many.vit", *arguments)
        assert status == 0
        boxes.append(row["crop"])
    timms, half = boxes
    assert timms != half and all(abs(side - wanted) < 1 for side, wanted in zip(half, (25, 25, 75, 75), strict=True))


def test_what_does_not_belong_together_is_refused(here, capsys, tiny):
    put("cat.png")
    gates, vit = ["--gates", tiny / "many.gates"], ["--weights", tiny / "many.vit"]
    refusals = {
        "is for a ViT with size [160, 160]": of(tiny, "many", "few"),
        "with other weights": of(tiny, "many", "stranger"),
        "is for a ViT with": of(tiny, "other", "many"),
        "is for a ViT with size": ("--weights", weights.folder() / "cifar10_vit.safetensors", *gates),
        "not a whole safetensors file": of(tiny, "broken", "many"),
        "gates are what DiffMask.save or train-gates wrote": ("--gates", tiny / "broken.gates"),
        "There is no file": of(tiny, "nowhere", "many"),
        "add --pretrained, or --weights FILE": ("--model", "test_vit", *gates),
        "There are no gates for test_vit": ("--model", "test_vit", *vit, "--method", "diffmask"),
        "nearest: test_vit": ("--model", "tst_vit", *gates, *vit),
        "does not hold the ViT that comes with us (": vit,
        "not from both": (*of(tiny, "many"), "--pretrained"),
        "leave --pretrained out": ("--pretrained",),
        "leave --mean out": ("--mean", "0.5"),
        "--threshold is a probability": ("--threshold", "1"),
        "--batch must be at least 1": ("--batch", "0"),
        "--device": ("--device", "abacus"),
        "--share is a share": ("--share", "0"),
        "pass one of them": ("--share", "0.1", "--threshold", "0.3"),
        "--threshold is for masks of gates": ("--method", "direct", "--threshold", "0.3"),
        "These gates do not know the class": (*of(tiny, "many"), "--target", "1"),
        "rollout does not know the class": ("--method", "rollout", "--target", "cat"),
        "the nearest name is 'cat'": ("--method", "direct", "--target", "cta"),
    }
    for words, arguments in refusals.items():
        status, rows, err = explain(capsys, "cat.png", *arguments)
        assert status == 1 and rows == [] and len(err) == 1, (words, err)
        assert words in sentence(err[0]), (words, err)
    assert tree(here) == {"cat.png"}


def test_pretrained_weights_are_asked_for_with_their_own_head(tiny, monkeypatch):
    """A head of another size would be a new, untrained one; so gates for such a head must not fit in silence."""
    asked, right = [], timm.create_model

    def fake(name, pretrained, **options):
        asked.append((name, pretrained, options))
        return right(name, **options)

    monkeypatch.setattr(timm, "create_model", fake)
    with pytest.raises(ValueError, match="classes 7, but this one has classes 1000"):
        load_explainer("test_vit", tiny / "few.gates", pretrained=True)
    assert asked == [("test_vit", True, {"img_size": (96, 96)})]

    def offline(*_args, **_options):
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nCheck your internet connection.")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"timm could not make test_vit \(We couldn't connect") as error:
        load_explainer("test_vit", tiny / "many.gates", pretrained=True)
    assert_one_sentence(error.value)


# As people meet it


def test_the_command_in_a_shell(tmp_path):
    put(tmp_path / "in" / "cat.jpg")
    truncated(tmp_path / "in" / "cut.jpg")
    command = [sys.executable, "-m", "diffmask_lite", "explain", "in", "--device", "cpu"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    first, last = result.stdout.splitlines()
    assert first.startswith(f"in{os.sep}cat.jpg: cat (") and first.endswith(f"explanations{os.sep}cat.jpg.png")
    assert last == "1 explained, 1 not." and result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "cut.jpg cannot be read as an image" in sentence(line)


def test_the_commands_of_the_page_for_ones_own_vit(here, capsys):
    for name in ("photo.jpg", "holiday/a.jpg", "holiday/b.jpg"):
        put(name)
    page = (ROOT / "docs" / "your_own_vit.md").read_text("utf-8")
    block = re.search(r"<!-- explain-commands -->\n+```bash\n(.*?)\n```", page, re.DOTALL)
    *ours, other = map(shlex.split, block[1].splitlines())
    for words, count in zip(ours, (3, 1, 1), strict=True):
        assert words[:3] == ["python", "-m", "diffmask_lite"] and main(words[3:]) == 0
        assert f"{count} explained, 0 not." in "".join(capsys.readouterr())
    options = parser().parse_args(other[3:])
    assert options.pretrained and timm.is_model(options.model) and options.gates == Path("gates.safetensors")


def test_the_help_orders_methods_as_they_were_measured(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    named = re.findall(r"^  (\w+)  +(?:\d|the control)", capsys.readouterr().out, re.MULTILINE)
    assert len(named) == 6 and set(named) <= set(METHODS) and named[0] == UNTRAINED[0]
    scores = results.load("cifar10").scores.query("metric == 'srg' and removal == 'drop'").groupby("method")["value"].mean()
    measured = [scores[name] for name in named if name in scores]
    assert len(measured) >= 4 and measured == sorted(measured, reverse=True)


def test_ctrl_c_says_how_far_it_came(here, capsys, monkeypatch):
    for i in range(3):
        put(f"in/{i}.png")
    figures = iter([plots.Drawing(figsize=(1, 1))])

    def pressed(*_arguments, **_options):
        for figure in figures:
            return figure
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "explained", pressed)
    status, rows, err = explain(capsys, "in")
    assert status == 130 and len(rows) == 1 and err == ["1 explained, 0 not, stopped before the end."]
