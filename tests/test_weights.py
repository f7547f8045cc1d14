"""Shipped weights load, score what the manifest says, and an altered file is named; the commands that make them work."""

import json
import re
import shutil

import pytest
import torch

from diffmask_lite import DiffMask, classifier, weights
from diffmask_lite.__main__ import GATES, main
from diffmask_lite.datasets import ColourGrid
from diffmask_lite.faithfulness import hard_mask_scores
from diffmask_lite.state import save_state
from families import assert_one_sentence


@pytest.mark.parametrize("name", weights.NAMES)
def test_pretrained_needs_no_network_and_gives_a_vit_and_its_explainer(name):
    vit, explainer = weights.pretrained(name)
    assert explainer.vit is vit and not vit.training and not explainer.training
    assert sum(p.numel() for p in vit.parameters()) <= 3_000_000
    assert type(vit.patch_embed.norm).__name__ == "Identity"  # a pure patch embedding


def test_the_grids_weights_score_what_the_manifest_says():
    vit, explainer = weights.pretrained("grid")
    test = ColourGrid(2000, seed=2)  # as `train-gates` scores
    said = weights.manifest()
    assert classifier.accuracy(vit, test) == pytest.approx(said["grid_vit.safetensors"]["scores"]["test accuracy"], abs=1e-3)
    for key, value in hard_mask_scores(explainer, test.images, test.cells).items():
        assert value == pytest.approx(said["grid_gates.safetensors"]["scores"][key], abs=2e-3), key


def test_the_manifest_lists_every_file_and_all_are_small():
    files = {path.name: path.stat().st_size for path in weights.folder().glob("*.safetensors")}
    said = weights.manifest()
    assert {name: entry["bytes"] for name, entry in said.items()} == files
    assert sum(files.values()) < 12_000_000
    for name, entry in said.items():
        task, plain, part, seed = re.fullmatch(r"(\w+?)(_plain)?_(vit|gates)(?:_(\d+))?\.safetensors", name).groups()
        assert (
            entry["command"].startswith(f"python -m diffmask_lite train-{part} {task} --seed {seed or 0}") and entry["scores"]
        )
        assert entry["seed"] == int(seed or 0) and entry["command"].endswith(" --plain") == bool(plain)


def test_plain_gates_and_other_seeds_have_files_of_their_own():
    _, ranks = weights.pretrained("cifar10")
    plain, other = (weights.pretrained("cifar10", **which)[1] for which in ({"plain": True}, {"seed": 1}))
    assert ranks.per_class and other.per_class and not plain.per_class
    assert not torch.equal(ranks.gates[0].first.weight, other.gates[0].first.weight)
    assert weights.seeds_of("cifar10") == [0, 1, 2] and weights.seeds_of("cifar10", "plain_gates") == [0]
    with pytest.raises(ValueError, match="cifar10_gates_7") as error:
        weights.pretrained("cifar10", seed=7)
    refused(error)
    grid = (weights.pretrained("grid", plain=flag)[1].state_dict() for flag in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in grid), strict=True))


@pytest.fixture
def copied(tmp_path):
    for path in weights.folder().glob("*grid*"):
        shutil.copy(path, tmp_path)
    shutil.copy(weights.folder() / "manifest.json", tmp_path)
    return tmp_path


def refused(error, *words):
    message = assert_one_sentence(error.value)
    assert all(word in message for word in words), message


def test_a_missing_truncated_or_altered_file_names_itself_and_the_command(copied):
    file = copied / "grid_gates.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-10], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="sha256") as error:
            weights.pretrained("grid", copied)
        refused(error, str(file), "train-gates grid")
    file.unlink()
    with pytest.raises(FileNotFoundError) as error:
        weights.pretrained("grid", copied)
    refused(error, str(file), "train-gates grid")


def test_an_unknown_name_a_missing_manifest_and_a_foreign_vit_are_refused(copied, tmp_path):
    with pytest.raises(ValueError, match="grid, cifar10") as error:
        weights.pretrained("imagenet")
    refused(error, "imagenet")
    with pytest.raises(FileNotFoundError, match="manifest") as error:
        weights.pretrained("grid", tmp_path / "nowhere")
    refused(error)
    with pytest.raises(ValueError, match="not for 'cifar10'") as error:
        weights.load_vit(copied / "grid_vit.safetensors", "cifar10")
    refused(error)
    save_state(copied / "other.safetensors", {"x": torch.zeros(1)}, {"kind": "vit", "name": "grid"})
    with pytest.raises(ValueError, match="does not hold") as error:
        weights.load_vit(copied / "other.safetensors", "grid")
    refused(error)


def test_half_precision_files_keep_predictions():
    vit = classifier.build("grid").eval()
    images = ColourGrid(20, seed=3).images
    with torch.no_grad():
        before = vit(images)
        vit.load_state_dict({k: v.half().float() for k, v in vit.state_dict().items()})
        torch.testing.assert_close(vit(images), before, atol=5e-3, rtol=0)


def test_accuracy_counts_right_labels_and_can_drop_patches():
    vit, _ = weights.pretrained("grid")
    data = ColourGrid(300, seed=8)
    flawed = [(image, count if i % 4 else (count + 1) % 10) for i, (image, count, _) in enumerate(data)]
    assert classifier.accuracy(vit, flawed) == pytest.approx(0.75, abs=0.01)
    nothing = classifier.accuracy(vit, data, share=0.0)  # without any patch every image gets the same answer
    assert nothing <= max(data.cells.flatten(1).sum(1).bincount()) / 300 + 1e-6
    assert nothing < classifier.accuracy(vit, data, share=8 / 9) < classifier.accuracy(vit, data, batch=77)


def test_train_vit_resumes_to_bitwise_the_same_weights(tmp_path, monkeypatch):
    whole = classifier.train_vit("grid", steps=6, progress=False)
    right, calls = classifier.save_state, []

    def save_early(path, tensors, meta):  # a checkpoint at step 4, then the power goes
        right(path, tensors, meta)
        calls.append(meta["step"])
        raise OSError("the power went")

    checkpoint = tmp_path / "vit.safetensors"
    monkeypatch.setattr(classifier, "EVERY", 4)
    monkeypatch.setattr(classifier, "save_state", save_early)
    with pytest.raises(OSError, match="power"):
        classifier.train_vit("grid", steps=6, progress=False, checkpoint=checkpoint)
    monkeypatch.setattr(classifier, "save_state", right)
    again = classifier.train_vit("grid", steps=6, progress=False, checkpoint=checkpoint)
    assert calls == [4]
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    with pytest.raises(ValueError, match="another run: steps") as error:
        classifier.train_vit("grid", steps=7, progress=False, checkpoint=checkpoint)
    refused(error)


def test_a_recipe_with_muon_gives_it_the_matrices():
    recipe = classifier.RECIPES["cifar10"]
    model = classifier.build("cifar10")
    optimizer = classifier._optimizer(model, recipe)
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    uses = {name: "momentum_buffer" in optimizer.state[p] for name, p in model.named_parameters()}
    assert uses["blocks.0.attn.qkv.weight"] and uses["patch_embed.proj.weight"]
    assert not uses["pos_embed"] and not uses["blocks.0.norm1.weight"] and not uses["blocks.0.attn.qkv.bias"]


def test_the_learning_rate_rises_stays_and_falls_to_0():
    recipe = classifier.Recipe({}, steps=100, warmup=10, decay=0.4)
    rates = [classifier._rate(recipe, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:61] == [1.0] * 52 and rates[100] == pytest.approx(0)
    assert rates[80] == pytest.approx(0.5) and rates[61:] == sorted(rates[61:], reverse=True)
    whole = classifier.Recipe({}, steps=100, warmup=1)
    assert classifier._rate(whole, 50, 100) == pytest.approx(0.5)


@pytest.fixture
def cifar(tmp_path):
    """A data root with three images a class, where a class has a colour of its own."""
    from PIL import Image

    from diffmask_lite.datasets import CIFAR10

    for split in ("train", "test"):
        for label, name in enumerate(CIFAR10.classes):
            folder = tmp_path / "data" / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (32, 32), (25 * label, 100 + 10 * i, 250 - 25 * label)).save(folder / f"{i}.png")
    return tmp_path / "data"


def test_the_two_commands_train_score_and_register(tmp_path, cifar, capsys):
    common = ["--data", str(cifar), "--out", str(tmp_path / "out"), "--steps", "3"]
    assert main(["train-vit", "cifar10", *common, "--checkpoint", str(tmp_path / "vit")]) == 0
    assert main(["train-gates", "cifar10", *common, "--checkpoint", str(tmp_path / "gates"), "--eps", "0.2"]) == 0
    said = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert said["cifar10_vit.safetensors"]["command"] == "python -m diffmask_lite train-vit cifar10 --seed 0 --steps 3"
    made = said["cifar10_gates.safetensors"]["command"]
    assert made == "python -m diffmask_lite train-gates cifar10 --seed 0 --steps 3 --eps 0.2"
    assert 0 <= said["cifar10_vit.safetensors"]["scores"]["test accuracy"] <= 1
    assert set(said["cifar10_gates.safetensors"]["scores"]) == {"kl", "agreement", "kept", "test images", "source"}
    _, explainer = weights.pretrained("cifar10", tmp_path / "out")
    assert isinstance(explainer, DiffMask) and explainer.placeholder == "drop" and explainer.cut is not None
    assert "test accuracy" in capsys.readouterr().out


def test_the_commands_say_in_one_sentence_what_is_missing(tmp_path, capsys):
    assert main(["train-vit", "cifar10", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("diffmask_lite: CIFAR-10 is not under") and "download=True" in said
    assert main(["train-gates", "grid", "--out", str(tmp_path)]) == 1
    assert "There is no weights file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train-gates", "--help"])
    assert "KL divergence allowed, in nats" in capsys.readouterr().out
    assert set(GATES) == {*weights.NAMES, "cifar10 plain"}
