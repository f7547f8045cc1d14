"""The data sets are what they say: the colour grid's truth, CIFAR-10 from either source, and pictures from a folder."""

import ast
import os
import re
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import skimage.data
import tifffile
import timm
import torch
from PIL import Image

from diffmask_lite import datasets
from diffmask_lite.datasets import (
    CIFAR10,
    ColourGrid,
    ImageFolder,
    cat_photograph,
    data_root,
    imagenet_folder,
    load_image,
    preprocess,
)
from diffmask_lite.vit import anatomy, pixel_range, predict
from families import assert_one_sentence, shared

# The colour grid. Its colours are written down here once more, so that counting does not rest on the module's own table.

BLUE = 1
COLOURS = torch.tensor([
    [0.50, 0.50, 0.50], [0.00, 0.45, 0.70], [0.90, 0.62, 0.00], [0.00, 0.62, 0.45],
    [0.84, 0.37, 0.00], [0.80, 0.47, 0.65], [0.94, 0.89, 0.26],
])  # fmt: skip


def seen_colours(images, grid, cell):
    """The nearest colour of each cell, from the pixel at its middle: (n, grid, grid)."""
    middle = torch.arange(grid) * cell + cell // 2
    pixels = (images[:, :, middle][..., middle].movedim(1, -1) + 1) / 2  # (n, grid, grid, 3) in [0, 1]
    return torch.cdist(pixels.flatten(1, 2), COLOURS).argmin(-1).view(-1, grid, grid)


@pytest.mark.parametrize("grid, cell", [(3, 16), (2, 8), (4, 12), (1, 4)])
def test_counts_and_cells_are_those_of_the_pixels(grid, cell):
    data = ColourGrid(300, grid=grid, cell=cell, seed=4)
    images, colours = data.images, seen_colours(data.images, grid, cell)
    assert len(data) == 300 and images.shape == (300, 3, grid * cell, grid * cell)
    assert images.dtype == torch.float32 and data.cells.dtype == torch.bool and images.abs().max() <= 1
    assert torch.equal(colours == BLUE, data.cells)
    for i in range(0, 300, 7):
        image, count, cells = data[i]
        assert type(count) is int and count == (colours[i] == BLUE).sum()
        assert torch.equal(image, images[i]) and torch.equal(cells, data.cells[i])
    each, grey = images.unflatten(2, (grid, cell)).unflatten(4, (grid, cell)).permute(0, 2, 4, 1, 3, 5), colours == 0
    assert torch.equal(each, each[..., :1, :1].expand_as(each))  # a cell has one colour
    assert grey.any() and (each[grey] == 0).all() and (each[~grey].abs().amax((1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_counts_places_and_shares_of_grey_are_equally_likely(grid):
    n, counts, data = 8000, grid * grid + 1, ColourGrid(8000, grid=grid, cell=1)
    seen = seen_colours(data.images, grid, 1)
    assert (data.cells.float().mean(0) - 0.5).abs().max() < 0.03
    assert set(seen.flatten().tolist()) == set(range(len(COLOURS)))
    found = data.cells.flatten(1).sum(1).bincount(minlength=counts)
    assert len(found) == counts
    spread = (n * (1 / counts) * (1 - 1 / counts)) ** 0.5
    assert (found - n / counts).abs().max() < 4 * spread
    few = data.cells.flatten(1).sum(1) == 3
    others = grid * grid - 3
    grey = (seen[few] == 0).flatten(1).sum(1).bincount(minlength=others + 1) / few.sum()  # of the others, none … all alike
    assert (grey - 1 / (others + 1)).abs().max() < 0.06


def test_the_grid_is_a_function_of_its_arguments():
    torch.manual_seed(1)
    first = ColourGrid(20, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first.images, ColourGrid(20, seed=5).images)
    assert not torch.equal(first.images, ColourGrid(20, seed=6).images)
    assert torch.equal(first.cells, ColourGrid(20, cell=2, seed=5).cells)
    for n in (0, -3):
        with pytest.raises(ValueError, match=f"n is {n}") as caught:
            ColourGrid(n)
        assert_one_sentence(caught.value)


# CIFAR-10


@pytest.fixture
def cifar_folder(tmp_path):
    """A data root with two random pictures for each class of each split, and their pixels."""
    draw = np.random.default_rng(0)
    pixels = {split: draw.integers(0, 256, (10, 2, 32, 32, 3), dtype=np.uint8) for split in ("train", "test")}
    for split, pictures in pixels.items():
        for (c, name), i in ((each, i) for each in enumerate(CIFAR10.classes) for i in range(2)):
            path = tmp_path / "cifar10" / split / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[c, i]).save(path)
    return tmp_path, pixels


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_from_a_folder(cifar_folder, split, monkeypatch):
    root, pixels = cifar_folder
    data = CIFAR10(split, root)
    assert data.source == "folder" and len(data) == 20
    assert data.images.shape == (20, 3, 32, 32) and data.images.dtype == torch.uint8
    for i in range(20):
        picture = pixels[split][i // 2, i % 2]
        assert np.array_equal(data.images[i].permute(1, 2, 0).numpy(), picture)
        image, label = data[i]
        expected = (picture / 255 - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]
        np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)
        assert type(label) is int and label == i // 2 == data.labels[i]
    monkeypatch.setenv("DIFFMASK_DATA", str(root))
    for beside in (".ipynb_checkpoints", "cat/.ipynb_checkpoints"):
        (root / "cifar10" / split / beside).mkdir()
    (root / "cifar10" / split / "cat" / "._0.png").write_bytes(b"of macOS")
    assert torch.equal(CIFAR10(split).images, data.images)


def test_the_data_root_is_the_argument_then_the_environment_then_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMASK_DATA", str(tmp_path / "environment"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "environment"
    monkeypatch.delenv("DIFFMASK_DATA")
    assert data_root().parts[-2:] == (".cache", "diffmask_lite")


def test_cifar10_through_torchvision(tmp_path, monkeypatch):
    pixels, asked = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8), []

    def fake(root, train, download):
        asked.append((root, train, download))
        return SimpleNamespace(data=pixels, targets=[9, 0, 4])

    monkeypatch.setattr(datasets.tasks.tv, "CIFAR10", fake)
    data = CIFAR10("test", tmp_path, download=True)
    assert asked == [(tmp_path, False, True)]
    assert data.source == "original" and data.labels.tolist() == [9, 0, 4]
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), pixels)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (URLError(TimeoutError("timed out")), "timed out"),
        (RuntimeError("File not found or corrupted."), "File not found or corrupted"),
    ],
)
def test_a_download_says_why_it_failed(tmp_path, monkeypatch, error, why):
    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr(datasets.tasks.tv, "CIFAR10", fails)
    with pytest.raises(OSError, match="could not be downloaded") as caught:
        CIFAR10("train", tmp_path, download=True)
    assert why in assert_one_sentence(caught.value)


def empty(folder):
    for path in folder.rglob("*.png"):
        path.unlink()


CLASSES = "train must hold one folder for each of airplane, automobile"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "cat").rename(folder / "lion"), CLASSES),
        (empty, CLASSES),
        (lambda folder: empty(folder / "dog"), CLASSES),
        (lambda folder: empty(folder) or [path.rmdir() for path in folder.iterdir()], CLASSES),
        (lambda folder: Image.new("RGB", (31, 32)).save(folder / "cat" / "0.png"), "0.png is 32 × 31 × 3"),
    ],
    ids=["another class", "no picture", "an empty class", "no class", "another size"],
)
def test_folders_that_do_not_hold_cifar10_are_refused(cifar_folder, spoil, words):
    root, _ = cifar_folder
    spoil(root / "cifar10" / "train")
    with pytest.raises(ValueError) as caught:
        CIFAR10("train", root)
    message = assert_one_sentence(caught.value)
    assert words in message and str(root) in message


def test_missing_data_is_one_sentence_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        CIFAR10("train", tmp_path)
    message = str(caught.value)
    assert f"CIFAR-10 is not under {tmp_path}" in message and "\n" not in message
    command = re.search(r'python -c "(.*)"$', message)[1]
    call = ast.parse(command).body[-1].value
    assert call.func.id == "CIFAR10"
    assert {k.arg: k.value.value for k in call.keywords} == {"download": True, "root": str(tmp_path)}
    with pytest.raises(ValueError, match="split is 'validation'") as caught:
        CIFAR10("validation", tmp_path)
    assert_one_sentence(caught.value)


# Pictures

CAT = Image.fromarray(skimage.data.chelsea()).resize((60, 40))


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
def test_pictures_of_every_kind_are_read_as_their_rgb(tmp_path, mode):
    picture = CAT.convert(mode)
    picture.save(tmp_path / "odd.tif")
    found = load_image(tmp_path / "odd.tif")
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for ending in ("png", "tif"):
        Image.fromarray(levels).save(tmp_path / f"ramp.{ending}")
        pixels = np.asarray(load_image(tmp_path / f"ramp.{ending}"))
        assert np.array_equal(pixels[..., 0], np.rint(levels / 257)) and pixels.max() == 255


@pytest.mark.parametrize(("most", "white"), [(200, 255), (1000, 1023), (4000, 4095), (9000, 16383)])
def test_fewer_bits_in_sixteen_are_no_black_picture(tmp_path, most, white):
    levels = np.linspace(0, most, 4096).astype(np.uint16).reshape(64, 64)
    for ending in ("png", "tif"):
        Image.fromarray(levels).save(tmp_path / f"radiograph.{ending}")
        datasets.pictures._warn_once.cache_clear()
        with pytest.warns(UserWarning, match=f"no number above {white}, so"):
            pixels = np.asarray(load_image(tmp_path / f"radiograph.{ending}"))
        assert np.array_equal(pixels[..., 0], np.rint(levels * (255 / white)))
    tifffile.imwrite(tmp_path / "negative.tif", levels, photometric="miniswhite")
    assert np.array_equal(255 - np.asarray(load_image(tmp_path / "negative.tif")), pixels)
    deep_png(tmp_path / "colours.png", 50_000)
    assert (np.asarray(load_image(tmp_path / "colours.png")) == 50_000 // 256).all()


def vit_of(channels, **cfg):
    options = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 2}
    return timm.create_model("vit_tiny_patch16_224", **options, in_chans=channels, pretrained_cfg_overlay=cfg)


BANDS = np.random.default_rng(0).integers(0, 9000, (13, 32, 32)).astype(np.uint16)


@pytest.mark.parametrize("ending", ["npy", "tif"])
@pytest.mark.parametrize("last", [True, False], ids=["H W C", "C H W"])
def test_bands_go_through_as_they_are(tmp_path, ending, last):
    """A mean and a standard deviation for each band, in the unit of the file."""
    mean, std = tuple(1000.0 + 100 * band for band in range(13)), tuple(500.0 + 10 * band for band in range(13))
    stored = np.moveaxis(BANDS, 0, 2) if last else BANDS
    (np.save if ending == "npy" else tifffile.imwrite)(tmp_path / f"field.{ending}", stored)
    transform = preprocess(vit_of(13, mean=mean, std=std, crop_pct=1.0))
    ((image, _),) = ImageFolder(tmp_path, transform)
    wanted = (BANDS - np.reshape(mean, (13, 1, 1))) / np.reshape(std, (13, 1, 1))
    np.testing.assert_allclose(image, wanted, atol=1e-4)


def test_one_channel_is_luminance_or_the_numbers_of_the_file(tmp_path):
    transform = preprocess(vit_of(1, mean=(0.2, 0.4, 0.6), std=(0.5, 0.5, 0.5), crop_pct=1.0))
    level = lambda pixels: (pixels / 255 - 0.4) / 0.5  # noqa: E731
    colours = CAT.resize((32, 32))
    np.testing.assert_allclose(transform(colours)[0], level(np.asarray(colours.convert("L"))), atol=1e-5)
    grey, fine = np.asarray(colours.convert("L")), np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    np.testing.assert_allclose(transform(grey)[0], level(grey), atol=1e-5)
    Image.fromarray(fine).save(tmp_path / "fine.tif")
    np.testing.assert_allclose(transform(load_image(tmp_path / "fine.tif", 1))[0], level(255 * fine), atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "picture", "words"),
    [
        (13, CAT, "Three colours are not the 13 bands"),
        (3, np.zeros((40, 40), np.float32), "which takes 3 channels"),
        (3, np.zeros((3, 40, 3)), r"must be \(H, W, 3\) or \(3, H, W\)"),  # either could be the bands
        (13, np.full((13, 40, 40), np.nan), "NaN or infinite"),
        (1, np.full((40, 40), "a"), "is no picture for this ViT"),
    ],
)
def test_what_has_not_the_vits_channels_is_refused(channels, picture, words):
    with pytest.raises(ValueError, match=words) as caught:
        preprocess(vit_of(channels, mean=(0.5,) * 3, std=(0.5,) * 3))(picture)
    assert_one_sentence(caught.value)


def test_a_normalisation_of_other_bands_is_refused():
    with pytest.raises(ValueError, match="13 channels, but its normalisation is of 3") as caught:
        preprocess(vit_of(13, mean=(0.1, 0.2, 0.3)))
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (97, 61), (64, 64)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("family", ["vit", "not_square"])
def test_the_box_is_what_the_vit_sees(family, fit, size):
    """A white mark on black in the photograph; where the ViT gets it, and where the box says that it is."""
    vit, (width, height) = shared(family), size
    transform = preprocess(vit, fit=fit)
    tall, wide = anatomy(vit).size
    left, top, right, bottom = transform.box(size)
    photo = np.zeros((height, width, 3), np.uint8)
    x, y, side = width // 2 + 5, height // 2 - 9, 6  # a square that no fit cuts off
    photo[y : y + side, x : x + side] = 255
    image = transform(photo) - transform(np.zeros_like(photo))
    weight = (image[0] / image.max()).clamp(min=0)
    row, column = ((weight.sum(axis) * (torch.arange(n) + 0.5)).sum() / weight.sum() for axis, n in ((1, tall), (0, wide)))
    assert row.item() == pytest.approx((y + side / 2 - top) * tall / (bottom - top), abs=0.1)
    assert column.item() == pytest.approx((x + side / 2 - left) * wide / (right - left), abs=0.1)
    if fit == "crop":
        assert left >= 0 and top >= 0 and right <= width + 1e-6 and bottom <= height + 1e-6
    else:
        assert left <= 0 and top <= 0 and right >= width - 1e-6 and bottom >= height - 1e-6
    if fit == "pad":  # as wide as high in the photograph's pixels, and what lies outside of it has the mean colour
        assert (right - left) / wide == pytest.approx((bottom - top) / tall, rel=0.03)
        rows = (torch.arange(tall) + 0.5) * (bottom - top) / tall + top
        columns = (torch.arange(wide) + 0.5) * (right - left) / wide + left
        outside = ((rows < 0) | (rows > height))[:, None] | ((columns < 0) | (columns > width))[None]
        full = transform(np.full_like(photo, 255))
        assert (full[:, outside] == 0).all() and (full[:, ~outside] > 0.5).all()
    if fit == "squash":
        assert (left, top, right, bottom) == (0, 0, width, height)


def test_pictures_are_turned_upright(tmp_path):
    """Orientation 6 says: turn by 90° clockwise to see it. So the stored pixels are turned the other way."""
    exif = Image.Exif()
    exif[0x0112] = 6
    CAT.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(tmp_path / "phone.png")), np.asarray(CAT))


def truncated(path):
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])


def deep_png(path, level):
    """Opaque colours of 16 bits, all of one level, which Pillow reads but does not write."""
    row = b"\0" + np.array(2 * [level, level, level, 65535], ">u2").tobytes()
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 6, 0, 0, 0)), (b"IDAT", zlib.compress(2 * row)), (b"IEND", b"")
    data = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (truncated, "truncated"),
        (lambda path: path.write_text("not a picture"), "no kind of picture"),
        (Path.touch, "it is empty"),
        (lambda path: None, "No such file"),
        (os.mkfifo, "not a file of bytes"),
        (lambda path: deep_png(path, 4095), "14 or fewer, which Pillow cuts off"),
        (lambda path: tifffile.imwrite(path, np.ones((3, 9, 9), np.uint16), photometric="rgb"), "a plane of 16 bits"),
        (lambda path: tifffile.imwrite(path, np.ones((13, 9, 9), np.uint16)), "13 pages or bands"),
    ],
    ids=["truncated", "text", "empty", "missing", "pipe", "colours of 12 bits", "planes", "bands"],
)
def test_a_picture_that_cannot_be_read_is_named(tmp_path, spoil, why):
    path = tmp_path / "broken.png"
    spoil(path)
    with pytest.raises(ValueError, match="cannot be read as an image") as caught:
        load_image(path)
    message = assert_one_sentence(caught.value)
    assert str(path) in message and why in message


def test_a_folder_of_pictures(tmp_path):
    (tmp_path / "album.jpg").mkdir()  # no picture either
    (tmp_path / "notes.txt").write_text("not a picture")
    for folder, words in ((tmp_path, "no picture"), (tmp_path / "nowhere", "no folder"), (tmp_path / "notes.txt", "no folder")):
        with pytest.raises(FileNotFoundError, match=words) as caught:
            ImageFolder(folder, preprocess(shared("vit")))
        assert str(folder) in str(caught.value)
    for name, level in (("b/x.PNG", 10), ("a/deep/y.jpg", 20), ("z.webp", 30)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(path)
    data = ImageFolder(tmp_path, lambda picture: round(picture.getpixel((4, 4))[0], -1))
    assert [path.name for path in data.paths] == ["y.jpg", "x.PNG", "z.webp"]
    assert len(data) == 3 and [data[i] for i in range(3)] == [(20, "deep"), (10, "b"), (30, tmp_path.name)]


def test_folders_are_read_through_links_once_and_without_what_systems_put_there(tmp_path):
    pictures = tmp_path / "pictures"
    for name in ("b/x.png", "b/._x.png", ".ipynb_checkpoints/x.png", "b/.hidden/x.png", "../elsewhere/y.png"):
        path = pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    os.mkfifo(pictures / "pipe.png")
    (pictures / "a").symlink_to(pictures / "b")  # the same pictures again, before the folder itself
    (pictures / "b" / "up").symlink_to(pictures)  # a loop
    (pictures / "z").symlink_to(tmp_path / "elsewhere")
    assert [path.relative_to(pictures).as_posix() for path in datasets.find_images(pictures)] == ["b/x.png", "z/y.png"]


def test_what_cannot_be_read_is_left_out_and_named(tmp_path):
    for name in "abc":
        CAT.save(tmp_path / f"{name}.png")
    truncated(tmp_path / "b.png")
    np.save(tmp_path / "d.npy", np.zeros((13, 9, 9)))
    data = ImageFolder(tmp_path, preprocess(shared("vit")))
    short, bands = data.leave_out_broken()
    assert str(tmp_path / "b.png") in short and "truncated" in short
    assert str(tmp_path / "d.npy") in bands and "takes 3 channels" in bands
    assert [path.name for path in data.paths] == ["a.png", "c.png"]
    Image.fromarray(np.full((40, 40), 4000, np.uint16)).save(tmp_path / "a.png")
    datasets.pictures._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="no number above 4095") as caught:
        assert data.leave_out_broken() == [] and len(data[0]) == 2
    assert len(caught) == 1
    for path in data.paths:
        truncated(path)
    with pytest.raises(ValueError, match=r"None of 2 pictures can be read: .*truncated") as error:
        data.leave_out_broken()
    assert_one_sentence(error.value)


@pytest.mark.parametrize("family", ["vit", "siglip", "clip", "not_square", "dinov2_registers", "dynamic_size"])
def test_preprocessing_gives_what_the_vit_takes(family):
    model = shared(family)
    transform = preprocess(model)
    image = transform(cat_photograph())
    assert image.shape == (3, *anatomy(model).size) and image.dtype == torch.float32
    assert predict(model, image[None]).isfinite().all()
    for level, picture in zip(pixel_range(model), ("black", "white"), strict=True):
        flat = transform(Image.new("RGB", (300, 200), picture))
        torch.testing.assert_close(flat, level.expand_as(flat))


def test_preprocessing_follows_the_vits_own_normalisation():
    cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.125)}
    sizes = {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 3, "num_classes": 2}
    model = timm.create_model("vit_tiny_patch16_224", **sizes, pretrained_cfg_overlay=cfg)
    grey = preprocess(model)(Image.new("RGB", (32, 32), (51, 51, 51)))  # 51 / 255 = 0.2
    torch.testing.assert_close(grey[:, 7, 7], torch.tensor([0.2, 0.0, -0.8]))


def test_the_cat_needs_no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)
    picture = cat_photograph()
    assert picture.size == (300, 300) and picture.mode == "RGB" and np.asarray(picture).std() > 20


def test_imagenet_is_found_in_torchvisions_layouts_and_else_the_command_is_named(tmp_path):
    (tmp_path / "imagenet" / "train").mkdir(parents=True)  # without a class in it
    with pytest.raises(FileNotFoundError, match=r"Imagenette.*download=True") as error:
        imagenet_folder(tmp_path)
    assert str(tmp_path) in str(error.value)
    for folder in ("imagenet/val", "imagenette2-320/train"):
        (tmp_path / folder / "n01440764").mkdir(parents=True)
        assert imagenet_folder(tmp_path) == tmp_path / folder
