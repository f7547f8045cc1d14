"""`python -m diffmask_lite explain`: real runs on photographs of every kind, and one sentence for each that cannot be read."""

import json
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffmask_lite import DiffMask, datasets, plots, report, weights
from diffmask_lite.__main__ import main, parser
from diffmask_lite.datasets import CIFAR10
from families import assert_one_sentence
from figures import assert_readable
from test_packaging import command
from test_plots import NAMES, data

CAT, ASTRONAUT = Image.fromarray(skimage.data.chelsea()), Image.fromarray(skimage.data.astronaut())


@pytest.fixture(scope="session")
def ours():
    return weights.pretrained("cifar10")


@pytest.fixture
def here(tmp_path, monkeypatch, ours):
    """An empty working directory, and our weights without reading them anew for each run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report.weights, "pretrained", lambda _name: ours)
    return tmp_path


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
    assert line.startswith("diffmask_lite: ")
    message = line.removeprefix("diffmask_lite: ")
    assert message.endswith(".") and "Traceback" not in message
    return message


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


@contextmanager
def taken_away(vit, keep, placeholder):
    """Removal, written down here once more: tokens left out in front of the blocks, or a vector in the embedding's place."""

    def dropped(_module, args):
        return (args[0][:, torch.cat([torch.tensor([True]), keep.flatten()])],)  # the class token stays

    def replaced(_module, _args, out):
        return torch.where(keep.view(1, 64, 1), out, placeholder)

    if isinstance(placeholder, str):
        assert placeholder == "drop"
        handle = vit.blocks[0].register_forward_pre_hook(dropped)
    else:
        handle = vit.patch_embed.register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("trained", [True, False], ids=["shipped gates", "untrained gates"])
@torch.no_grad()
def test_the_numbers_are_those_of_the_vit_asked_by_hand(here, capsys, monkeypatch, ours, trained):
    put("cat.png")
    put("astronaut.png", ASTRONAUT)
    vit, explainer = ours if trained else (ours[0], untrained(ours[0]))
    monkeypatch.setattr(report.weights, "pretrained", lambda _name: (vit, explainer))
    status, rows, err = explain(capsys, "cat.png", "astronaut.png")
    assert status == 0 and err == ["2 explained, 0 not."]
    for row, picture in zip(rows, (CAT, ASTRONAUT), strict=True):
        image = cifar_input(picture)
        keep = torch.tensor(row["keep"]).bool()
        assert torch.equal(keep, explainer.explain(image).mask[0] > 0.5)
        assert 8 < keep.sum() < 56 and row["kl"] > 0.1, "so little is removed that this test sees nothing"
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


def test_a_threshold_keeps_what_lies_above_it(here, capsys, ours):
    put("cat.png")
    mask = ours[1].explain(cifar_input(CAT)).mask[0]
    for threshold in (0.2, 0.9):
        _, (row,), _ = explain(capsys, "cat.png", "--threshold", threshold)
        assert row["threshold"] == threshold and row["keep"] == (mask > threshold).int().tolist()


def test_a_batch_of_any_size_gives_the_same(here, capsys):
    for i in range(5):
        put(f"in/{i}.png", CAT.rotate(30 * i))
    one, three = (explain(capsys, "in", "--batch", n)[1] for n in (1, 3))
    assert [row["image"] for row in one] == [f"in{os.sep}{i}.png" for i in range(5)]
    for a, b in zip(one, three, strict=True):
        assert a["keep"] == b["keep"] and a["kl"] == pytest.approx(b["kl"], abs=1e-5)
    assert len({row["kl"] for row in one}) == 5


def test_only_one_batch_is_read_ahead(here, monkeypatch, ours):
    read = []
    monkeypatch.setattr(report, "load_image", lambda path: read.append(path) or CAT)
    planned = {Path(f"{i}.jpg"): here / "out" / f"{i}.png" for i in range(7)}
    rows = report.explain_files(ours[1], CIFAR10.classes, planned, pytest.fail, batch=2)
    next(rows)
    assert len(read) == 2
    assert len(list(rows)) == 6 and len(read) == 7


# Pictures of every kind


def turned(picture, orientation, path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return put(path, picture, exif=exif)


def test_a_turned_photograph_is_explained_upright(here, capsys):
    """Orientation 6 says: turn by 90° clockwise to see it; so the stored pixels are turned the other way."""
    put("upright.png")
    turned(CAT.transpose(Image.Transpose.ROTATE_90), 6, "phone.png")
    put("lying.png", CAT.transpose(Image.Transpose.ROTATE_90))
    _, (upright, phone, lying), _ = explain(capsys, "upright.png", "phone.png", "lying.png")
    assert phone["keep"] == upright["keep"] and phone["kl"] == upright["kl"] and phone["p"] == upright["p"]
    assert lying["keep"] != upright["keep"]


KINDS = {
    "grey": lambda: CAT.convert("L"),
    "rgba": lambda: CAT.convert("RGBA"),
    "grey and alpha": lambda: CAT.convert("LA"),
    "palette": lambda: CAT.convert("P", palette=Image.Palette.ADAPTIVE),
    "one bit": lambda: CAT.convert("1"),
    "sixteen bits": lambda: Image.fromarray(np.asarray(CAT.convert("L")).astype(np.uint16) * 257),
    "cmyk": lambda: CAT.convert("CMYK"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_kind_are_read_as_their_rgb(here, capsys, kind):
    picture = KINDS[kind]()
    put("odd.tif", picture)
    wanted = {"sixteen bits": CAT.convert("L")}.get(kind, picture).convert("RGB")
    put("plain.png", wanted)
    status, (odd, plain), _ = explain(capsys, "odd.tif", "plain.png")
    assert status == 0 and odd["keep"] == plain["keep"] and odd["p"] == plain["p"]


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for ending in ("png", "tif"):
        Image.fromarray(levels).save(tmp_path / f"ramp.{ending}")
        pixels = np.asarray(datasets.load_image(tmp_path / f"ramp.{ending}"))
        assert np.array_equal(pixels[..., 0], np.rint(levels / 257)) and pixels.max() == 255


# What cannot be read is named, and the rest goes on


def truncated(path):
    put(path)
    path.write_bytes(path.read_bytes()[:3000])


def no_picture(path):
    path.write_text("not a picture")


def floats(path):
    Image.fromarray(np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)).save(path, format="TIFF")


def strip(path):
    Image.new("L", (40_000, 2)).save(path)


SPOILT = {
    "truncated.jpg": (truncated, "truncated"),
    "text.jpg": (no_picture, "no kind of picture"),
    "empty.png": (Path.touch, "no kind of picture"),
    "floats.tif": (floats, "has no white"),
    "strip.png": (strip, "too narrow a strip"),
}


def test_broken_files_among_good_ones_are_named_one_by_one(here, capsys):
    for name, (spoil, _) in SPOILT.items():
        (here / "in").mkdir(exist_ok=True)
        spoil(here / "in" / name)
    put("in/a.png")
    put("in/z.png")
    status, rows, err = explain(capsys, "in", "--batch", 1)
    assert status == 1 and [Path(row["image"]).name for row in rows] == ["a.png", "z.png"]
    assert err[-1] == "2 explained, 5 not." and len(err) == 6
    for name, (_, why) in SPOILT.items():
        (line,) = [line for line in err if name in line]
        assert why in sentence(line)


def test_a_bomb_is_named(here, capsys, monkeypatch):
    put("in/bomb.png", Image.new("L", (300, 300)))
    put("in/cat.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)  # Pillow refuses what is twice as large; CAT is larger still
    put("in/cat.png", CAT.resize((200, 200)))
    status, rows, err = explain(capsys, "in")
    assert status == 1 and [Path(row["image"]).name for row in rows] == ["cat.png"]
    assert "bomb.png cannot be read" in sentence(err[0]) and "exceeds limit" in err[0]


def test_a_file_without_permission_is_named(here, capsys, monkeypatch):
    put("in/a.png")
    put("in/secret.png")
    right = Image.open

    def guarded(path, *rest):  # the tests may run as root, to whom nothing is forbidden
        if Path(path).name == "secret.png":
            raise PermissionError(13, "Permission denied", str(path))
        return right(path, *rest)

    monkeypatch.setattr(Image, "open", guarded)
    status, rows, err = explain(capsys, "in")
    assert status == 1 and len(rows) == 1
    assert sentence(err[0]) == f"in{os.sep}secret.png cannot be read as an image (Permission denied)."


def test_a_folder_that_cannot_be_opened_is_named(here, capsys, monkeypatch):
    put("in/a.png")
    put("in/locked/b.png")
    right = os.scandir

    def guarded(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return right(path)

    monkeypatch.setattr(os, "scandir", guarded)
    status, rows, err = explain(capsys, "in")
    assert status == 1 and len(rows) == 1 and err[-1] == "1 explained, 1 not."
    assert "locked cannot be opened (Permission denied)" in sentence(err[0])


def test_what_is_not_there_is_named_and_the_rest_goes_on(here, capsys):
    put("cat.png")
    (here / "empty").mkdir()
    status, rows, err = explain(capsys, "nowhere.jpg", "cat.png", "empty")
    assert status == 1 and len(rows) == 1 and err[-1] == "1 explained, 2 not."
    assert sentence(err[0]) == "There is no file or folder nowhere.jpg."
    assert sentence(err[1]).startswith("There is no picture (") and sentence(err[1]).endswith("under empty.")
    status, rows, err = explain(capsys, "empty")
    assert (status, rows, err[-1]) == (1, [], "0 explained, 1 not.")


# Figures


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_figures_lie_as_their_photographs_do_and_none_shares_a_name(here, capsys):
    for name in ("in/a/x.jpg", "in/b/x.jpg", "in/b/x.png", "in/x.jpg"):
        put(name)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (here / "in").rglob("*.*")}
    status, rows, _ = explain(capsys, "in", "in/a/x.jpg", "in/../in/x.jpg", "--out", "new/out")
    assert status == 0 and len(rows) == 4  # what is named twice is explained once
    wanted = {"a/x.jpg.png", "b/x.jpg.png", "b/x.png.png", "x.jpg.png"}
    assert tree("new/out") == wanted == {Path(row["figure"]).relative_to("new/out").as_posix() for row in rows}
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (here / "in").rglob("*.*")}
    for row in rows:
        with Image.open(row["figure"]) as figure:
            assert figure.format == "PNG" and figure.width == 900


def test_files_of_two_folders_keep_apart(here, capsys):
    put("a/x.jpg")
    put("b/x.jpg", ASTRONAUT)
    _, rows, _ = explain(capsys, "a/x.jpg", "b/x.jpg")
    assert tree("explanations") == {"a/x.jpg.png", "b/x.jpg.png"}
    first, second = (Path(row["figure"]).read_bytes() for row in rows)
    assert first != second


def test_a_second_run_replaces_figures_and_does_not_explain_them(here, capsys):
    put("cat.png")
    (here / "explanations").mkdir()
    (here / "explanations" / "cat.png.png").write_text("old")
    for _ in range(2):
        _, rows, err = explain(capsys, ".")
        assert len(rows) == 1 and err == ["1 explained, 0 not."]
    assert tree(here) == {"cat.png", "explanations/cat.png.png"}
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


def test_a_figure_that_cannot_be_written_is_named(here, capsys):
    put("in/a.png")
    put("in/b.png")
    (here / "explanations" / "a.png.png").mkdir(parents=True)
    status, rows, err = explain(capsys, "in")
    assert status == 1 and [Path(row["image"]).name for row in rows] == ["b.png"]
    assert "a.png cannot be written to" in sentence(err[0])


@pytest.mark.parametrize("name", ["$x_{$.png", "写真.png", "two words.png", "a" * 200 + ".png"])
def test_names_of_files_are_no_formulas(here, capsys, name):
    put(name)
    status, rows, err = explain(capsys, name)
    assert status == 0 and Path(rows[0]["figure"]).is_file() and err == ["1 explained, 0 not."]


@pytest.mark.skipif(sys.platform != "linux", reason="Skipped: names that are no text exist on Linux alone")
def test_a_name_that_is_no_text_is_shown_with_escapes(here, capsys):
    path = os.fsdecode(b"\xff.png")
    CAT.save(here / "cat.png")
    (here / "cat.png").rename(here / path)
    assert main(["explain", path, "--device", "cpu"]) == 0
    assert "udcff.png: cat" in capsys.readouterr().out


def page(index=0, agree=True, classes=4, heading="holiday/photo.jpg", **sizes):
    pictures, result, check = data(**sizes)
    fine = np.asarray(pictures[index]).repeat(7, 0).repeat(7, 1)
    result = SimpleNamespace(**vars(result) | {"threshold": 0.5})
    check = SimpleNamespace(**vars(check) | {"agree": torch.full((len(pictures),), agree)})
    names = ["a class with a long and winding name, and a synonym", *NAMES[1:]]
    return fine, pictures[index], result, check, names[:classes], index, heading


@pytest.mark.parametrize(
    "arguments",
    [page(), page(1, False), page(h=2, w=5), page(h=8, w=3), page(heading="a_$x$ " * 40), page(heading="")],
    ids=["one", "changed", "wide", "tall", "long name", "no name"],
)
def test_the_figure_is_readable(arguments):
    assert_readable(lambda: plots.explained(*arguments))


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


def test_a_check_of_another_mask_is_refused():
    fine, picture, result, check, names, index, _ = page()
    with pytest.raises(ValueError, match="another mask") as error:
        plots.explained(fine, picture, result, SimpleNamespace(**vars(check) | {"kept": check.kept + 0.1}), names, index)
    assert_one_sentence(error.value)


# Other ViTs


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with two small timm ViTs, each with untrained weights and gates; one with ImageNet's number of classes."""
    folder = tmp_path_factory.mktemp("tiny")
    for name, options in {"many": {}, "few": {"num_classes": 7, "img_size": 96}}.items():
        torch.manual_seed(len(name))
        vit = timm.create_model("test_vit", **options)
        save_file(vit.state_dict(), folder / f"{name}.vit")
        DiffMask(vit).save(folder / f"{name}.gates")
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
    vit.load_state_dict({key: value for key, value in load_file(tiny / f"{name}.vit").items()})
    image = datasets.preprocess(vit)(CAT)[None]
    assert row["p"] == pytest.approx(vit.eval()(image).softmax(1).max().item(), abs=1e-5)


def test_names_of_classes():
    heads = {1000: "tench, Tinca tinca", 21843: "organism, being", 10: "class 0"}
    for classes, first in heads.items():
        names = report.class_names(SimpleNamespace(num_classes=classes))
        assert len(names) == classes and names[0] == first


def test_gates_and_vit_that_do_not_belong_together_are_refused(here, capsys, tiny):
    put("cat.png")
    other = DiffMask(timm.create_model("test_vit3"))
    other.save(tiny / "other.gates")
    (tiny / "broken.gates").write_bytes(b"no safetensors")
    gates, vit = ["--gates", tiny / "many.gates"], ["--weights", tiny / "many.vit"]
    refusals = {
        "does not hold the weights of test_vit": of(tiny, "many", "few"),
        "is for a ViT with": ("--model", "test_vit", "--gates", tiny / "other.gates", *vit),
        "is for a ViT with size": ("--weights", weights.folder() / "cifar10_vit.safetensors", *gates),
        "not a whole safetensors file": ("--model", "test_vit", "--gates", tiny / "broken.gates", *vit),
        "There is no weights file": ("--model", "test_vit", "--gates", "nowhere.gates", *vit),
        "add --pretrained, or --weights FILE": ("--model", "test_vit", *gates),
        "There are no gates for test_vit": ("--model", "test_vit", *vit),
        "the nearest name is 'test_vit'": ("--model", "tst_vit", *gates, *vit),
        "not from both": (*of(tiny, "many"), "--pretrained"),
        "leave --pretrained out": ("--pretrained",),
        "--threshold is a probability": ("--threshold", "1"),
        "--batch must be at least 1": ("--batch", "0"),
        "--device": ("--device", "abacus"),
    }
    for words, arguments in refusals.items():
        status, rows, err = explain(capsys, "cat.png", *arguments)
        assert status == 1 and rows == [] and len(err) == 1, (words, err)
        assert words in sentence(err[0]), (words, err)
    assert tree(here) == {"cat.png"}


def test_gates_of_the_same_shape_but_other_weights_are_refused(here, capsys, tiny):
    put("cat.png")
    torch.manual_seed(99)
    save_file(timm.create_model("test_vit").state_dict(), tiny / "stranger.vit")
    status, rows, err = explain(capsys, "cat.png", *of(tiny, "many", "stranger"))
    assert status == 1 and rows == [] and "with other weights" in sentence(err[0])


def test_pretrained_weights_are_asked_for_with_their_own_head(tiny, monkeypatch):
    """A head of another size would be a new, untrained one; so gates for such a head must not fit in silence."""
    asked, right = [], timm.create_model

    def fake(name, pretrained, **options):
        asked.append((name, pretrained, options))
        return right(name, **options)

    monkeypatch.setattr(timm, "create_model", fake)
    with pytest.raises(ValueError, match="classes 7, but this one has classes 1000"):
        report.load_explainer("test_vit", tiny / "few.gates", pretrained=True)
    assert asked == [("test_vit", True, {"img_size": (96, 96)})]


def test_a_download_that_fails_is_one_sentence(tiny, monkeypatch):
    def offline(*_args, **_options):
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nCheck your internet connection.")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"timm could not make test_vit \(We couldn't connect") as error:
        report.load_explainer("test_vit", tiny / "many.gates", pretrained=True)
    assert_one_sentence(error.value)


# As people meet it


def test_the_command_in_a_shell(tmp_path):
    put(tmp_path / "in" / "cat.jpg")
    truncated(tmp_path / "in" / "cut.jpg")
    command = [sys.executable, "-m", "diffmask_lite", "explain", "in", "--device", "cpu"]
    root = Path(report.__file__).parents[1]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    first, last = result.stdout.splitlines()
    assert first.startswith(f"in{os.sep}cat.jpg: cat (") and first.endswith(f"explanations{os.sep}cat.jpg.png")
    assert last == "1 explained, 1 not." and result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "cut.jpg cannot be read as an image" in sentence(line)


def test_the_commands_of_the_readme(here, capsys):
    for name in ("photo.jpg", "holiday/a.jpg", "holiday/b.jpg"):
        put(name)
    *ours, other = [shlex.split(line) for line in command("explain-commands")]
    for words, count in zip(ours, (3, 1), strict=True):
        assert words[:3] == ["python", "-m", "diffmask_lite"] and main(words[3:]) == 0
        out, err = capsys.readouterr()
        assert f"{count} explained, 0 not." in out + err
    options = parser().parse_args(other[3:])
    assert options.pretrained and timm.is_model(options.model) and options.gates == Path("gates.safetensors")


def test_ctrl_c_says_how_far_it_came(here, capsys, monkeypatch):
    for i in range(3):
        put(f"in/{i}.png")
    right, calls = plots.explained, []

    def pressed(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return right(*arguments)

    monkeypatch.setattr(plots, "explained", pressed)
    status, rows, err = explain(capsys, "in")
    assert status == 130 and len(rows) == 1 and err == ["1 explained, 0 not, stopped before the end."]
