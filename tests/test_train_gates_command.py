"""`train-gates`: gates for any timm ViT from a folder of images, their log, resume, warm start, and in which arithmetic."""

import argparse
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from diffmask_lite import DiffMask
from diffmask_lite.__main__ import main
from diffmask_lite.commands import train_gates
from diffmask_lite.datasets import ImageFolder, load_image, preprocess
from diffmask_lite.training import RANKED, fit, hold_out, recipes
from diffmask_lite.vit import UnfitViT
from diffmask_lite.vit.storage import load_tensors
from families import assert_one_sentence, shared

MODEL = "test_vit"  # timm's smallest: 160 × 160 pixels, 100 patches


def vit(seed=0):
    torch.manual_seed(seed)
    return timm.create_model(MODEL).eval()


def make_home(folder):
    """Weights of two ViTs of one shape, and pictures in a layout of their own."""
    folder.mkdir()
    for seed in (0, 1):
        save_file(vit(seed).state_dict(), folder / f"vit{seed}.safetensors")
    save_file(timm.create_model(MODEL, img_size=96).state_dict(), folder / "vit96.safetensors")
    draw = torch.Generator().manual_seed(0)
    for i in range(9):
        place = folder / "photos" / ("deep/er" if i % 2 else "here")
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (40 + i, 60, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home") / "home")


def command(home, out, *more, weights="vit0", plain=True):
    words = ["train-gates", "--model", MODEL, "--weights", str(home / f"{weights}.safetensors"), "--data", str(home / "photos")]
    return [
        *words,
        "--out",
        str(out),
        "--batch",
        "4",
        "--workers",
        "0",
        "--float32",
        "--device",
        "cpu",
        *(["--plain"] if plain else []),
        *more,
    ]


def train(*arguments, **options):
    assert main(command(*arguments, **options)) == 0


def test_it_trains_logs_and_explains(home, tmp_path, capsys):
    train(home, tmp_path, "--steps", "3")
    assert "7 images, 2 more are held out, 1 process, float32; checkpoints go to" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "test_vit_plain_gates.csv")
    assert list(table) == ["step", "kl", "kept", "agree", "sparsity", "alpha", "layer"] and table.step.tolist() == [0, 1, 2]
    gates, weights = tmp_path / "test_vit_plain_gates.safetensors", home / "vit0.safetensors"
    explainer = DiffMask.load(gates, vit())
    assert not torch.equal(explainer.gates[0].first.weight, DiffMask(vit()).gates[0].first.weight)
    photo = str(home / "photos" / "here" / "0.png")
    words = ["explain", photo, "--model", MODEL, "--weights", str(weights), "--gates", str(gates), "--out", str(tmp_path)]
    assert main(words) == 0


def test_pictures_that_do_not_open_are_named_before_the_first_step_and_left_out(home, tmp_path, capsys):
    photos = tmp_path / "photos"
    shutil.copytree(home / "photos", photos)
    (photos / "broken.png").write_bytes((photos / "here" / "0.png").read_bytes()[:200])
    (photos / "._0.png").write_bytes(b"of macOS")
    for folder in (home / "photos", photos):
        train(home, tmp_path / folder.parent.name, "--steps", "2", "--data", str(folder))
    said = capsys.readouterr()
    assert said.out.count("7 images, 2 more are held out, 1 process") == 2
    (line,) = [line for line in said.err.splitlines() if "left out" in line]
    assert f"{photos / 'broken.png'} cannot be read as an image" in line
    first, second = (
        load_tensors(tmp_path / f.parent.name / "test_vit_plain_gates.safetensors")[0] for f in (home / "x", photos)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_order_is_learned_before_the_constraint_and_the_masks_are_tested_on_other_pictures(home, tmp_path, capsys):
    train(home, tmp_path, "--steps", "5", "--eps", "0.3", plain=False)
    said = capsys.readouterr().out
    gates, log = tmp_path / "test_vit_gates.safetensors", pd.read_csv(tmp_path / "test_vit_gates.csv")
    explainer, before = DiffMask.load(gates, vit()), DiffMask(vit(), **RANKED["explainer"])
    assert explainer.placeholder == "drop" and explainer.class_aware and len(log) == 3 and log["kl"].notna().all()
    order = torch.load(tmp_path / "test_vit_gates.checkpoint.order", weights_only=True)
    assert order["step"] == 2  # half of the steps, less one
    first = "gates.0.first.weight"
    assert not torch.equal(order["gates"][first], before.state_dict()[first])
    assert not torch.equal(explainer.state_dict()[first], order["gates"][first])

    data, held_out = hold_out(ImageFolder(home / "photos", preprocess(vit())))
    images = torch.stack([image for image, _ in held_out])
    check = explainer.verify(images, explainer.explain(images).keep)
    assert f"2 held-out images: {check.kept.mean():.0%} of the patches kept, KL {check.kl.mean():.3f} nats (random" in said
    taught, start = recipes.teach(vit(), data, 4, progress=False), DiffMask(vit(), **RANKED["explainer"])
    fit(start, data, 2, batch=4, progress=False, **RANKED["fit"] | {"objective": taught})
    torch.testing.assert_close(order["gates"][first], start.state_dict()[first])


def test_a_tenth_is_held_out_and_few_images_are_said_to_say_little(home, tmp_path, capsys):
    """Of 30 pictures three; of three none, and then it is said that nothing was compared."""
    folders = {n: tmp_path / f"{n}" for n in (3, 30)}
    for n, folder in folders.items():
        folder.mkdir()
        for i in range(n):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    train(home, tmp_path / "a", "--steps", "2", "--data", str(folders[30]))
    said = capsys.readouterr().out
    assert "27 images, 3 more are held out" in said and "3 held-out images:" in said and "; 3 images say little" in said
    train(home, tmp_path / "b", "--steps", "2", "--data", str(folders[3]))
    assert "Too few images to hold some out: these masks were not compared with random ones." in capsys.readouterr().out


def test_a_stopped_training_goes_on_with_the_half_that_it_was_in(home, tmp_path, monkeypatch):
    """The maps are made once: gates that learned the order have no more need of them."""
    train(home, tmp_path / "whole", "--steps", "4", plain=False)
    right, made = recipes.fit, []
    monkeypatch.setattr(recipes, "teach", lambda *a, right=recipes.teach, **k: made.append(1) or right(*a, **k))

    def cut(*arguments, **settings):
        if "objective" not in settings and settings["every"] == 100:
            right(*arguments, **settings | {"every": 1, "watch": lambda step: (_ for _ in ()).throw(KeyboardInterrupt)})
        return right(*arguments, **settings)

    monkeypatch.setattr(recipes, "fit", cut)
    assert main(command(home, tmp_path / "part", "--steps", "4", plain=False)) == 130
    monkeypatch.setattr(recipes, "fit", right)
    train(home, tmp_path / "part", "--steps", "4", plain=False)
    one, two = ((tmp_path / part / "test_vit_gates.safetensors").read_bytes() for part in ("whole", "part"))
    assert one == two and made == [1]


def test_the_same_command_goes_on(home, tmp_path, capsys):
    whole, part = tmp_path / "whole", tmp_path / "part"
    for out, steps in ((whole, "4"), (part, "2"), (part, "4")):
        train(home, out, "--steps", steps, "--seed", "3")
    assert f"going on from {part / 'test_vit_plain_gates_3.checkpoint'}" in capsys.readouterr().out
    name = "test_vit_plain_gates_3.safetensors"
    assert (whole / name).read_bytes() == (part / name).read_bytes()
    assert len(pd.read_csv(part / "test_vit_plain_gates_3.csv")) == 4


def test_a_warm_start_takes_gates_of_other_weights_but_not_their_grey(home, tmp_path):
    train(home, tmp_path / "first", "--steps", "2")
    gates = tmp_path / "first" / "test_vit_plain_gates.safetensors"
    train(home, tmp_path / "second", "--steps", "1", "--lr", "1e-12", "--start", str(gates), weights="vit1")
    before, after = load_tensors(gates)[0], load_tensors(tmp_path / "second" / gates.name)[0]
    torch.testing.assert_close(after["gates.1.first.weight"], before["gates.1.first.weight"])
    own = DiffMask(vit(1)).placeholder
    assert torch.equal(after["placeholder"], own) and not torch.allclose(before["placeholder"], own, atol=1e-3)


def test_a_checkpoint_of_ones_own_starts_from_gates_for_another_head(home, tmp_path, capsys):
    """37 classes on smaller images, in a training's file; the gates learned beside 1,000 classes."""
    torch.manual_seed(5)
    own = timm.create_model(MODEL, num_classes=37, img_size=96).eval()
    torch.save({"model": {f"module.{key}": value for key, value in own.state_dict().items()}}, tmp_path / "own.pth")
    (tmp_path / "names.txt").write_text("".join(f"breed {i}\n" for i in range(37)))
    ours = [
        "--weights",
        str(tmp_path / "own.pth"),
        "--mean",
        "0.4,0.5,0.6",
        "--std",
        "0.3",
        "--names",
        str(tmp_path / "names.txt"),
    ]
    train(home, tmp_path / "first", "--steps", "2", "--size", "96", weights="vit96")
    gates = tmp_path / "first" / "test_vit_plain_gates.safetensors"
    train(home, tmp_path, "--steps", "1", "--lr", "1e-12", "--start", str(gates), *ours)
    said = "test_vit: 37 classes (breed 0 … breed 36); images 3 × 96 × 96, crop 0.95 (center, bicubic), "
    said += "mean 0.4 0.5 0.6, std 0.3 0.3 0.3"
    assert said in capsys.readouterr().out.splitlines()
    before, after = load_tensors(gates)[0], load_tensors(tmp_path / gates.name)[0]
    torch.testing.assert_close(after["gates.1.first.weight"], before["gates.1.first.weight"])

    words = [
        "explain",
        "--json",
        str(home / "photos" / "here" / "0.png"),
        "--model",
        MODEL,
        "--gates",
        str(tmp_path / gates.name),
    ]
    assert main([*words, *ours, "--out", str(tmp_path), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    row = json.loads(out)
    assert said in err.splitlines() and row["class"] == f"breed {row['index']}"
    own.pretrained_cfg |= {"mean": (0.4, 0.5, 0.6), "std": (0.3,) * 3}
    p = own(preprocess(own)(load_image(home / "photos" / "here" / "0.png"))[None]).softmax(1)[0]
    assert row["index"] == p.argmax() and row["p"] == pytest.approx(p.max().item(), abs=1e-5)


def test_a_vit_whose_attention_cannot_be_followed_is_told_of_plain_gates():
    asked = argparse.Namespace(start=None, placeholder=None, plain=False, seed=0)
    with pytest.raises(UnfitViT, match=r"pools by 'map'.*; plain gates fit, with --plain\.") as error:
        train_gates._gates(asked, shared("siglip"))
    assert_one_sentence(error.value)
    asked.plain = True
    assert not train_gates._gates(asked, shared("siglip")).class_aware


def test_class_aware_gates_and_plain_ones_do_not_start_from_each_other(home, tmp_path, capsys):
    for plain, words in ((True, "holds class-aware gates; leave --plain out"), (False, "holds plain gates; add --plain")):
        gates = tmp_path / "gates.safetensors"
        DiffMask(vit(), **(RANKED["explainer"] if plain else {})).save(gates)
        more = ["--steps", "2", "--start", str(gates)]
        assert main(command(home, tmp_path / "out", *more, plain=plain)) == 1 and words in capsys.readouterr().err


@pytest.mark.parametrize(("amx", "exact"), [(False, False), (True, False), (True, True)])
def test_bfloat16_is_for_processors_that_are_faster_in_it(home, tmp_path, monkeypatch, capsys, amx, exact):
    """Elsewhere it is slower, by 1.4 to 15 times; what is printed is what the training is told."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    told, right = [], train_gates.fit
    monkeypatch.setattr(train_gates, "fit", lambda *a, **k: told.append(k["autocast"]) or right(*a, **k))
    words = command(home, tmp_path, "--steps", "1")
    assert main([word for word in words if exact or word != "--float32"]) == 0
    rough = amx and not exact
    assert told == [torch.bfloat16 if rough else None]
    assert f" 1 process, {'bfloat16' if rough else 'float32'};" in capsys.readouterr().out


WRONG = [
    (["--data", "."], "add --pretrained, or --weights FILE"),
    (["--model", "vit_tiny_patch16", "--weights", "FILE", "--data", "."], "nearest: "),
    (["--weights", "nowhere", "--data", "."], "There is no weights file nowhere"),
    (["--weights", "FILE", "--data", "empty"], "There is no picture"),
    (["--weights", "FILE", "--data", ".", "--start", "x", "--placeholder", "drop"], "comes with --start"),
    (["--weights", "FILE", "--data", ".", "--start", "x"], "There is no file x"),
    (["--weights", "FILE", "--data", "broken"], "broken.png cannot be read as an image"),
    (["--weights", "FILE", "--data", "broken", "--eps", "0"], "--eps must be above 0"),
    (["--weights", "FILE", "--data", "broken", "--steps", "1"], "--steps must be at least 2, one for each half"),
    (["--weights", "FILE", "--data", "broken", "--plain", "--steps", "-5"], "--steps must be at least 1"),
    (["--weights", "FILE", "--data", "broken", "--lr", "0.1"], "--lr is for --plain"),
]


@pytest.mark.parametrize(("words", "said"), WRONG)
def test_what_does_not_fit_gets_one_sentence(home, tmp_path, monkeypatch, capsys, words, said):
    for folder in ("empty", "broken"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        (tmp_path / "broken" / f"{name}broken.png").write_bytes(b"no picture")
    shutil.copy(home / "vit0.safetensors", tmp_path / "FILE")
    monkeypatch.chdir(tmp_path)
    assert main(["train-gates", "--model", MODEL, "--device", "cpu", *words]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("diffmask_lite: ") and said in error and len(error.splitlines()) == 1, error
    assert not list(tmp_path.glob("*gates*"))


@pytest.mark.parametrize("words", [["grid"], ["--model", MODEL], ["--data", "."], ["grid", "--model", MODEL, "--data", "."]])
def test_a_model_and_a_folder_must_be_named_and_there_are_no_tasks(words, capsys):
    with pytest.raises(SystemExit):
        main(["train-gates", *words])
    assert "required" in (said := capsys.readouterr().err) or "unrecognized" in said
