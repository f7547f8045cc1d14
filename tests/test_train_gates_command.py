"""`train-gates --model`: gates for any timm ViT from a folder of images, their log, resume, warm start, several processes."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from diffmask_lite import DiffMask
from diffmask_lite.__main__ import main
from diffmask_lite.datasets import ImageFolder, preprocess
from diffmask_lite.state import load_state
from diffmask_lite.validation import hold_out

MODEL = "test_vit"  # timm's smallest: 160 × 160 pixels, 100 patches
QUICK = ["--batch", "4", "--workers", "0", "--float32", "--lr", "0.01"]


def vit(seed=0):
    torch.manual_seed(seed)
    return timm.create_model(MODEL).eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Weights of two ViTs of one shape, and pictures in a layout of their own."""
    folder = tmp_path_factory.mktemp("home")
    for seed in (0, 1):
        save_file(vit(seed).state_dict(), folder / f"vit{seed}.safetensors")
    draw = torch.Generator().manual_seed(0)
    for i in range(9):
        place = folder / "photos" / ("deep/er" if i % 2 else "here")
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (40 + i, 60, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place / f"{i}.png")
    return folder


def train(home, out, *more, weights="vit0"):
    command = ["train-gates", "--model", MODEL, "--weights", str(home / f"{weights}.safetensors")]
    return main([*command, "--data", str(home / "photos"), "--out", str(out), *QUICK, *more])


def tensors(path):
    return load_state(path)[0]


def test_it_trains_logs_and_explains(home, tmp_path, capsys):
    assert train(home, tmp_path, "--steps", "3") == 0
    assert "9 images, 1 process;" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "test_vit_gates.csv")
    assert list(table) == ["step", "kl", "kept", "agree", "sparsity", "alpha", "layer"] and table.step.tolist() == [0, 1, 2]
    gates, weights = tmp_path / "test_vit_gates.safetensors", home / "vit0.safetensors"
    explainer = DiffMask.load(gates, vit())
    assert not torch.equal(explainer.gates[0].first.weight, DiffMask(vit()).gates[0].first.weight)
    photo = str(home / "photos" / "here" / "0.png")
    command = ["explain", photo, "--model", MODEL, "--weights", str(weights), "--gates", str(gates), "--out", str(tmp_path)]
    assert main(command) == 0


def test_ranked_gates_are_cut_on_pictures_that_they_did_not_learn_from(home, tmp_path, capsys):
    assert train(home, tmp_path, "--steps", "3", "--ranked", "--eps", "0.01") == 0
    said = capsys.readouterr().out
    assert "7 images, 1 process;" in said and "on 2 held-out images" in said
    explainer = DiffMask.load(tmp_path / "test_vit_gates.safetensors", vit())
    assert explainer.placeholder == "drop" and explainer.context and explainer.cut is not None
    held_out = hold_out(ImageFolder(home / "photos", preprocess(vit())))[1]
    images = torch.stack([image for image, _ in held_out])
    kl = explainer.verify(images, explainer.explain(images).keep).kl.mean().item()
    assert f"KL {kl:.3f} on" in said and kl <= 0.01


def test_the_same_command_goes_on(home, tmp_path, capsys):
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert train(home, whole, "--steps", "5", "--seed", "3") == 0
    assert train(home, part, "--steps", "2", "--seed", "3") == 0
    assert train(home, part, "--steps", "5", "--seed", "3") == 0
    assert "going on from" in capsys.readouterr().out
    name = "test_vit_gates_3.safetensors"
    assert (whole / name).read_bytes() == (part / name).read_bytes()
    assert len(pd.read_csv(part / "test_vit_gates_3.csv")) == 5


def test_a_warm_start_takes_gates_of_other_weights_but_not_their_grey(home, tmp_path):
    assert train(home, tmp_path / "first", "--steps", "4") == 0
    gates = tmp_path / "first" / "test_vit_gates.safetensors"
    more = ["--steps", "1", "--lr", "1e-12", "--start", str(gates)]
    assert train(home, tmp_path / "second", *more, weights="vit1") == 0
    before, after = tensors(gates), tensors(tmp_path / "second" / gates.name)
    torch.testing.assert_close(after["gates.1.first.weight"], before["gates.1.first.weight"])
    own = DiffMask(vit(1)).placeholder
    assert torch.equal(after["placeholder"], own) and not torch.allclose(before["placeholder"], own, atol=1e-3)


def test_two_processes_make_the_gates_of_one(home, tmp_path):
    assert train(home, tmp_path / "one", "--steps", "4") == 0
    root = os.path.dirname(os.path.dirname(__file__))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "diffmask_lite"]
    words = ["train-gates", "--model", MODEL, "--weights", str(home / "vit0.safetensors"), "--data", str(home / "photos")]
    words += ["--out", str(tmp_path / "two"), "--steps", "4", *QUICK]
    said = subprocess.run([*run, *words], capture_output=True, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count("9 images, 2 processes;") == 1
    one, two = (tensors(tmp_path / name / "test_vit_gates.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Name either a task"),
        (["grid", "--model", MODEL], "Name either a task"),
        (["grid", "--batch", "3"], "--batch is not for grid"),
        (["--model", MODEL, "--pretrained", "--plain"], "--plain is not for test_vit"),
        (["--model", MODEL], "add --pretrained, or --weights FILE"),
        (["--model", MODEL, "--weights", "FILE"], "--data FOLDER"),
        (["--model", "vit_tiny_patch16", "--weights", "FILE", "--data", "."], "the nearest name is"),
        (["--model", MODEL, "--weights", "nowhere", "--data", "."], "There is no weights file nowhere"),
        (["--model", MODEL, "--weights", "FILE", "--data", "empty"], "There is no picture"),
        (["--model", MODEL, "--weights", "FILE", "--data", ".", "--start", "x", "--per-class"], "come with --start"),
        (["--model", MODEL, "--weights", "FILE", "--data", ".", "--start", "x"], "There is no weights file x"),
        (["--model", MODEL, "--weights", "FILE", "--data", "broken"], "broken.png cannot be read as an image"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(home, tmp_path, monkeypatch, capsys, words, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.png").write_bytes(b"no picture")
    shutil.copy(home / "vit0.safetensors", tmp_path / "FILE")
    monkeypatch.chdir(tmp_path)
    assert main(["train-gates", *words]) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("diffmask_lite: ") and said in error and len(error.splitlines()) == 1, error
    assert not list(tmp_path.glob("*gates*"))
