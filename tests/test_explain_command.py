"""`python -m diffmask_lite explain`: real runs on photographs of every kind, and one sentence for each that cannot be read."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffmask_lite import DiffMask, datasets, plots, weights
from diffmask_lite.__main__ import main, parser
from diffmask_lite.commands.explain import explain_files, load_explainer
from diffmask_lite.datasets import CIFAR10
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
    monkeypatch.setattr(plots, "explained", lambda *_: plots.Drawing(figsize=(1, 1)))
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
    for threshold in (0.2, 0.9):
        _, (row,), _ = explain(capsys, "cat.png", "--threshold", threshold)
        mask = explainer.explain(cifar_input(CAT)).mask[0]
        assert row["threshold"] == threshold and row["keep"] == (mask > threshold).int().tolist()


def test_a_batch_of_any_size_gives_the_same_and_only_one_is_read_ahead(here, capsys, monkeypatch, ours):
    for i in range(5):
        put(f"in/{i}.png", CAT.rotate(30 * i))
    one, three = (explain(capsys, "in", "--batch", n)[1] for n in (1, 3))
    assert [row["image"] for row in one] == [f"in{os.sep}{i}.png" for i in range(5)]
    for a, b in zip(one, three, strict=True):
        assert a["keep"] == b["keep"] and a["kl"] == pytest.approx(b["kl"], abs=1e-5)
    assert len({row["kl"] for row in one}) == 5
    read = []
    monkeypatch.setattr("diffmask_lite.commands.explain.load_image", lambda path: read.append(path) or CAT)
    planned = {Path(f"{i}.jpg"): here / "out" / f"{i}.png" for i in range(7)}
    rows = explain_files(ours[1], CIFAR10.classes, planned, pytest.fail, batch=2)
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
        assert "The figure of dog.png cannot be written to" in sentence(err[0])
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


def test_what_does_not_belong_together_is_refused(here, capsys, tiny):
    put("cat.png")
    gates, vit = ["--gates", tiny / "many.gates"], ["--weights", tiny / "many.vit"]
    refusals = {
        "is for a ViT with size [160, 160]": of(tiny, "many", "few"),
        "with other weights": of(tiny, "many", "stranger"),
        "is for a ViT with": of(tiny, "other", "many"),
        "is for a ViT with size": ("--weights", weights.folder() / "cifar10_vit.safetensors", *gates),
        "not a whole safetensors file": of(tiny, "broken", "many"),
        "There is no weights file": of(tiny, "nowhere", "many"),
        "add --pretrained, or --weights FILE": ("--model", "test_vit", *gates),
        "There are no gates for test_vit": ("--model", "test_vit", *vit),
        "the nearest name is 'test_vit'": ("--model", "tst_vit", *gates, *vit),
        "name a ViT of your own with --model": vit,
        "not from both": (*of(tiny, "many"), "--pretrained"),
        "leave --pretrained out": ("--pretrained",),
        "leave --mean out": ("--mean", "0.5"),
        "--threshold is a probability": ("--threshold", "1"),
        "--batch must be at least 1": ("--batch", "0"),
        "--device": ("--device", "abacus"),
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


def test_the_commands_of_the_readme(here, capsys):
    for name in ("photo.jpg", "holiday/a.jpg", "holiday/b.jpg"):
        put(name)
    block = re.search(r"<!-- explain-commands -->\n+```bash\n(.*?)\n```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    *ours, other = map(shlex.split, block[1].splitlines())
    for words, count in zip(ours, (3, 1), strict=True):
        assert words[:3] == ["python", "-m", "diffmask_lite"] and main(words[3:]) == 0
        assert f"{count} explained, 0 not." in "".join(capsys.readouterr())
    options = parser().parse_args(other[3:])
    assert options.pretrained and timm.is_model(options.model) and options.gates == Path("gates.safetensors")


def test_ctrl_c_says_how_far_it_came(here, capsys, monkeypatch):
    for i in range(3):
        put(f"in/{i}.png")
    figures = iter([plots.Drawing(figsize=(1, 1))])

    def pressed(*_arguments):
        for figure in figures:
            return figure
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "explained", pressed)
    status, rows, err = explain(capsys, "in")
    assert status == 130 and len(rows) == 1 and err == ["1 explained, 0 not, stopped before the end."]
