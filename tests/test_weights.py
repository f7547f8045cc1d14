"""Our shipped weights load, score what the manifest says, and an altered file is named."""

import re
import shutil
import socket

import pytest
import torch

import train_gates
import train_vit
from diffmask_lite import weights
from diffmask_lite.datasets import ColourGrid
from diffmask_lite.faithfulness import hard_mask_scores
from diffmask_lite.vit.storage import save_tensors
from families import assert_one_sentence


def refused(call, kind, words):
    with pytest.raises(kind, match=words) as error:
        call()
    return assert_one_sentence(error.value)


@pytest.mark.parametrize("name", weights.NAMES)
def test_pretrained_gives_a_vit_and_its_explainer_without_a_network(name, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was asked for"))
    vit, explainer = weights.pretrained(name)
    assert explainer.vit is vit and not vit.training and not explainer.training
    assert sum(p.numel() for p in vit.parameters()) <= 3_000_000
    assert type(vit.patch_embed.norm).__name__ == "Identity"  # a pure patch embedding
    assert vit.pretrained_cfg["mean"] == weights.ARCHITECTURES[name]["pretrained_cfg_overlay"]["mean"]


def test_each_kind_of_gates_and_each_seed_has_a_file_of_its_own():
    kinds = {kind: weights.pretrained("cifar10", kind=kind)[1] for kind in weights.KINDS}
    assert [kind for kind, explainer in kinds.items() if explainer.class_aware] == ["diffmask"]
    assert [kind for kind, explainer in kinds.items() if explainer.published] == ["published"]
    other = weights.pretrained("cifar10", seed=1)[1]
    assert not torch.equal(kinds["diffmask"].gates[0].first.weight, other.gates[0].first.weight)
    assert [weights.seeds_of("cifar10", kind) for kind in weights.KINDS] == [[0, 1, 2]] * 3
    assert [weights.seeds_of("grid", kind) for kind in weights.KINDS] == [[0], [], []]


def test_the_grids_weights_score_what_the_manifest_says():
    vit, explainer = weights.pretrained("grid")
    test, said = ColourGrid(2000, seed=2), weights.manifest()  # as the scripts score
    assert train_vit.accuracy(vit, test) == pytest.approx(said["grid_vit.safetensors"]["scores"]["test accuracy"], abs=1e-3)
    for key, value in hard_mask_scores(explainer, test.images, test.cells).items():
        assert value == pytest.approx(said["grid_gates.safetensors"]["scores"][key], abs=2e-3), key


def test_the_manifest_lists_every_file_its_arithmetic_and_a_command_that_is_understood(monkeypatch):
    """The scripts are stopped where they first look for data: their options are read by then."""
    files = {path.name: path.stat().st_size for path in weights.folder().glob("*.safetensors")}
    said = weights.manifest()
    assert {name: entry["bytes"] for name, entry in said.items()} == files and sum(files.values()) < 14_000_000
    scripts, asked = {"vit": train_vit, "gates": train_gates}, []
    for script in scripts.values():
        monkeypatch.setattr(script, "test_set", lambda name, root: asked.append(name) or (_ for _ in ()).throw(EOFError))
    for name, entry in said.items():
        task, kind, part, seed = re.fullmatch(r"(\w+?)_?(plain|published)?_(vit|gates)(?:_(\d+))?\.safetensors", name).groups()
        start, words = f"python experiments/train_{part}.py ", entry["command"].split()[2:]
        assert entry["command"].startswith(f"{start}{task} --seed {seed or 0}")
        assert {"--plain", "--published"} & set(words) == ({f"--{kind}"} if kind else set())
        with pytest.raises(EOFError):
            scripts[part].main(words)
        assert entry["arithmetic"] in ("float32", "bfloat16") and entry["seed"] == int(seed or 0) and entry["scores"]
    assert asked == [re.match("grid|cifar10", name)[0] for name in said]


def test_what_is_missing_altered_or_foreign_names_itself_and_the_command(tmp_path):
    for path in [*weights.folder().glob("*grid*.safetensors"), weights.folder() / "manifest.json"]:
        shutil.copy(path, tmp_path)
    file = tmp_path / "grid_gates.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-10], whole[:-1] + bytes([whole[-1] ^ 1]), b"", None):
        file.unlink() if content is None else file.write_bytes(content)
        kind, words = (FileNotFoundError, "There is no") if content is None else (ValueError, "sha256")
        message = refused(lambda: weights.pretrained("grid", tmp_path), kind, words)
        assert str(file) in message and "train_gates.py grid" in message
    (tmp_path / "broken").mkdir()
    for content in ('{"grid_gates.safetensors": {"sha2', "[1]", '{"grid_gates.safetensors": {}}', "[" * 100_000):
        (tmp_path / "broken" / "manifest.json").write_text(content)
        refused(lambda: weights.pretrained("grid", tmp_path / "broken"), ValueError, "not a whole manifest")
    other = tmp_path / "other.safetensors"
    save_tensors(other, {"x": torch.zeros(1)}, {"kind": "vit", "name": "grid"})
    refused(lambda: weights.pretrained("cifar10", seed=7), ValueError, "cifar10_gates_7")
    refused(lambda: weights.pretrained("grid", kind="plain"), ValueError, "grid_plain_gates")
    refused(lambda: weights.pretrained("grid", kind="rank"), ValueError, "diffmask, plain, published")
    refused(lambda: weights.pretrained("imagenet"), ValueError, "grid, cifar10")
    refused(lambda: weights.build("imagenet"), ValueError, "grid, cifar10")
    refused(lambda: weights.pretrained("grid", tmp_path / "nowhere"), FileNotFoundError, "manifest")
    refused(lambda: weights.load_vit(tmp_path / "grid_vit.safetensors", "cifar10"), ValueError, "not for 'cifar10'")
    refused(lambda: weights.load_vit(other, "grid"), ValueError, "does not hold")
