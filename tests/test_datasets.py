"""The data sets are what they say: the colour grid's truth, CIFAR-10 from either source, and pictures from a folder."""

import ast
import re
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from diffmask_lite import datasets
from diffmask_lite import vit as see
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
    assert len(data) == 300
    assert data.images.shape == (300, 3, grid * cell, grid * cell) and data.images.dtype == torch.float32
    assert data.cells.shape == (300, grid, grid) and data.cells.dtype == torch.bool
    assert data.images.abs().max() <= 1
    images = data.images
    seen = seen_colours(images, grid, cell) == BLUE
    assert torch.equal(seen, data.cells)
    for i in range(0, 300, 7):
        image, count, cells = data[i]
        assert type(count) is int and count == seen[i].sum()
        assert torch.equal(image, images[i]) and torch.equal(cells, seen[i])


def test_a_cell_has_one_colour_and_grey_is_exactly_zero():
    data = ColourGrid(200)
    grey = seen_colours(data.images, 3, 16) == 0
    cells = data.images.unflatten(2, (3, 16)).unflatten(4, (3, 16)).permute(0, 2, 4, 1, 3, 5)  # (n, 3, 3, C, 16, 16)
    assert torch.equal(cells, cells[..., :1, :1].expand_as(cells))
    assert grey.any() and (cells[grey] == 0).all()
    assert (cells[~grey].abs().amax((1, 2, 3)) > 0.1).all()


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_counts_are_equally_likely(grid):
    n, counts = 8000, grid * grid + 1
    found = ColourGrid(n, grid=grid, cell=1).cells.flatten(1).sum(1).bincount(minlength=counts)
    assert len(found) == counts
    spread = (n * (1 / counts) * (1 - 1 / counts)) ** 0.5
    assert (found - n / counts).abs().max() < 4 * spread


def test_counted_cells_are_anywhere_and_any_number_of_the_others_is_grey():
    data = ColourGrid(6000, cell=1)
    seen = seen_colours(data.images, 3, 1)
    assert (data.cells.float().mean(0) - 0.5).abs().max() < 0.03
    assert set(seen.flatten().tolist()) == set(range(len(COLOURS)))
    few = data.cells.flatten(1).sum(1) == 3
    grey = (seen[few] == 0).flatten(1).sum(1).bincount(minlength=7) / few.sum()  # of the 6 other cells, 0 … 6 alike
    assert (grey - 1 / 7).abs().max() < 0.06


def test_the_grid_is_a_function_of_its_arguments():
    torch.manual_seed(1)
    first = ColourGrid(20, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first.images, ColourGrid(20, seed=5).images)
    assert not torch.equal(first.images, ColourGrid(20, seed=6).images)
    assert torch.equal(first.cells, ColourGrid(20, cell=2, seed=5).cells)


@pytest.mark.parametrize("n", [0, -3])
def test_an_empty_grid_is_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}") as caught:
        ColourGrid(n)
    assert_one_sentence(caught.value)


# CIFAR-10


@pytest.fixture
def cifar_folder(tmp_path):
    """A data root with two random pictures for each class of each split, and their pixels."""
    draw = np.random.default_rng(0)
    pixels = {}
    for split in ("train", "test"):
        pixels[split] = draw.integers(0, 256, (10, 2, 32, 32, 3), dtype=np.uint8)
        for name, pictures in zip(CIFAR10.classes, pixels[split], strict=True):
            folder = tmp_path / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(folder / f"{i}.png")
    return tmp_path, pixels


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_from_a_folder(cifar_folder, split):
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


def test_cifar10_finds_its_folder_by_the_environment(cifar_folder, monkeypatch):
    monkeypatch.setenv("DIFFMASK_DATA", str(cifar_folder[0]))
    assert len(CIFAR10("test")) == 20


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

    monkeypatch.setattr(datasets.tv, "CIFAR10", fake)
    data = CIFAR10("test", tmp_path, download=True)
    assert asked == [(tmp_path, False, True)]
    assert data.source == "original" and data.labels.tolist() == [9, 0, 4]
    assert np.array_equal(data.images.permute(0, 2, 3, 1).numpy(), pixels)


def test_wrong_class_folders_are_refused(cifar_folder):
    root, _ = cifar_folder
    (root / "cifar10" / "train" / "cat").rename(root / "cifar10" / "train" / "lion")
    with pytest.raises(ValueError, match="one folder for each of airplane, automobile") as caught:
        CIFAR10("train", root)
    assert str(root) in assert_one_sentence(caught.value)


def empty_all(folder):
    for path in folder.rglob("*.png"):
        path.unlink()


def empty_one(folder):
    for path in (folder / "dog").iterdir():
        path.unlink()


def remove_all(folder):
    empty_all(folder)
    for path in folder.iterdir():
        path.rmdir()


@pytest.mark.parametrize("spoil", [empty_all, empty_one, remove_all])
def test_empty_class_folders_are_refused(cifar_folder, spoil):
    root, _ = cifar_folder
    spoil(root / "cifar10" / "train")
    with pytest.raises(ValueError, match="one folder for each of airplane, automobile") as caught:
        CIFAR10("train", root)
    assert_one_sentence(caught.value)


def test_a_picture_of_another_size_is_named(cifar_folder):
    root, _ = cifar_folder
    odd = root / "cifar10" / "train" / "cat" / "0.png"
    Image.new("RGB", (31, 32)).save(odd)
    with pytest.raises(ValueError, match="31 × 32") as caught:
        CIFAR10("train", root)
    assert str(odd) in assert_one_sentence(caught.value)


def test_missing_data_is_one_sentence_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        CIFAR10("train", tmp_path)
    message = str(caught.value)
    assert f"CIFAR-10 is not under {tmp_path}" in message and "\n" not in message
    command = re.search(r'python -c "(.*)"$', message)[1]
    call = ast.parse(command).body[-1].value
    assert call.func.id == "CIFAR10"
    assert {k.arg: k.value.value for k in call.keywords} == {"download": True, "root": str(tmp_path)}


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="split is 'validation'") as caught:
        CIFAR10("validation", tmp_path)
    assert_one_sentence(caught.value)


# Pictures


def test_pictures_are_turned_upright(tmp_path):
    """Orientation 6 says: turn by 90° clockwise to see it. So the stored left edge is seen at the top."""
    stored = np.zeros((16, 32, 3), dtype=np.uint8)
    stored[:, :16] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    picture = load_image(tmp_path / "phone.jpg")
    assert picture.size == (16, 32) and picture.mode == "RGB"
    assert picture.getpixel((8, 4))[0] > 200 and picture.getpixel((8, 28))[0] < 50


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "picture.tif"
    Image.new("RGB", (5, 4), (200, 200, 200)).convert(mode).save(path)
    picture = load_image(path)
    assert picture.mode == "RGB" and picture.size == (5, 4)
    assert all(abs(level - 200) < 6 for level in picture.getpixel((2, 2)))


def text(path):
    path.write_text("not a picture")


def truncated(path):
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])


def empty(path):
    path.touch()


def missing(_path):
    pass


@pytest.mark.parametrize("spoil", [text, truncated, empty, missing])
def test_a_broken_picture_is_named(tmp_path, spoil):
    path = tmp_path / "broken.png"
    spoil(path)
    with pytest.raises(ValueError, match="cannot be read as an image") as caught:
        load_image(path)
    assert str(path) in assert_one_sentence(caught.value)


def test_a_folder_of_pictures(tmp_path):
    for name, level in (("b/x.PNG", 10), ("a/deep/y.jpg", 20), ("z.webp", 30)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (level,) * 3).save(path)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "album.jpg").mkdir()
    data = ImageFolder(tmp_path, lambda picture: torch.tensor(picture.getpixel((4, 4))[0]))
    assert [path.name for path in data.paths] == ["y.jpg", "x.PNG", "z.webp"]
    assert len(data) == 3
    assert [(abs(level - 10 * i) < 4, name) for level, name, i in ((*data[0], 2), (*data[1], 1), (*data[2], 3))] == [
        (True, "deep"),
        (True, "b"),
        (True, tmp_path.name),
    ]


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_pictures_is_named(tmp_path, name):
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(FileNotFoundError, match="no picture") as caught:
        ImageFolder(tmp_path / name, preprocess(shared("vit")))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("family", ["vit", "siglip", "clip", "not_square", "dinov2_registers", "dynamic_size"])
def test_preprocessing_gives_what_the_vit_takes(family):
    model = shared(family)
    transform = preprocess(model)
    image = transform(cat_photograph())
    assert image.shape == (3, *see.anatomy(model).size) and image.dtype == torch.float32
    assert see.predict(model, image[None]).isfinite().all()
    for level, picture in zip(see.pixel_range(model), ("black", "white"), strict=True):
        flat = transform(Image.new("RGB", (300, 200), picture))
        torch.testing.assert_close(flat, level.expand_as(flat))


def test_preprocessing_follows_the_vits_own_normalisation():
    cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 0.125)}
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1, num_heads=3, num_classes=2, pretrained_cfg_overlay=cfg
    )
    grey = preprocess(model)(Image.new("RGB", (32, 32), (51, 51, 51)))  # 51 / 255 = 0.2
    torch.testing.assert_close(grey[:, 7, 7], torch.tensor([0.2, 0.0, -0.8]))


def test_the_cat_needs_no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.socket.connect", refuse)
    picture = cat_photograph()
    assert picture.size == (240, 240) and picture.mode == "RGB"
    pixels = np.asarray(picture)
    assert pixels.std() > 20


def test_imagenet_is_found_in_torchvisions_layouts_and_else_the_command_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Imagenette.*download=True") as error:
        imagenet_folder(tmp_path)
    assert str(tmp_path) in str(error.value)
    (tmp_path / "imagenet" / "train").mkdir(parents=True)  # without a class in it
    with pytest.raises(FileNotFoundError):
        imagenet_folder(tmp_path)
    (tmp_path / "imagenet" / "val" / "n01440764").mkdir(parents=True)
    assert imagenet_folder(tmp_path) == tmp_path / "imagenet" / "val"
    (tmp_path / "imagenette2-320" / "train" / "n01440764").mkdir(parents=True)
    assert imagenet_folder(tmp_path) == tmp_path / "imagenette2-320" / "train"
