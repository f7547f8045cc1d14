"""Seeded streams, data order, and checkpoints that are whole or refused."""

import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from timm.optim import Lookahead, Muon
from torch import nn

from diffmask_lite import state
from diffmask_lite.state import epoch_order, load_state, pack_optimizer, save_state, stream, unpack_optimizer
from families import assert_one_sentence

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "step": torch.tensor(7), "keep": torch.tensor([True, False])}
META = {"name": "grid", "steps": 3, "lr": 0.1 + 0.2, "text": "h × w", "nested": {"list": [1, None, True]}}


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value), name


# Streams and order


def test_a_stream_depends_on_all_that_is_named_and_on_nothing_else():
    def draw(*where):
        return torch.rand(4, generator=stream(*where)).tolist()

    names = [(0, "noise", 1), (0, "noise", 2), (0, "order", 1), (1, "noise", 1), (0, "noise", 1, 1), (0, "noise")]
    torch.manual_seed(1)
    first = [draw(*name) for name in names]
    torch.manual_seed(2)
    assert first == [draw(*name) for name in reversed(names)][::-1]
    assert len(set(map(tuple, first))) == len(names)


@pytest.mark.parametrize("length", [1, 7, 10])
def test_every_epoch_is_a_permutation(length):
    order = epoch_order(length, seed=3, start=0, count=5 * length)
    for epoch in range(5):
        assert sorted(order[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_and_seeds_differ():
    first, second = (epoch_order(50, seed=0, start=start, count=50) for start in (0, 50))
    assert first != second
    assert first != epoch_order(50, seed=1, start=0, count=50)


@pytest.mark.parametrize("batch", [1, 3, 10, 23])
def test_the_order_goes_on_from_any_position(batch):
    whole = epoch_order(10, seed=0, start=0, count=69)
    for start in range(0, 69 - batch):
        assert epoch_order(10, seed=0, start=start, count=batch) == whole[start : start + batch]


# Files


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "folder" / "state.safetensors"
    save_state(path, TENSORS, META)
    tensors, meta = load_state(path)
    assert_same(tensors, TENSORS)
    assert meta == META
    assert os.listdir(path.parent) == [path.name]


def test_tensors_may_have_gradients_and_strides(tmp_path):
    weight = nn.Parameter(torch.arange(6.0).view(2, 3))
    save_state(tmp_path / "state", {"weight": weight, "turned": weight.T, "part": weight[:, 1]}, {})
    tensors, _ = load_state(tmp_path / "state")
    assert_same(tensors, {"weight": weight.data, "turned": weight.data.T, "part": weight.data[:, 1]})


def test_what_was_loaded_outlives_its_file(tmp_path):
    path = tmp_path / "state"
    save_state(path, TENSORS, META)
    tensors, _ = load_state(path)
    save_state(path, {name: torch.zeros_like(value) for name, value in TENSORS.items()}, META)
    path.unlink()
    assert_same(tensors, TENSORS)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, failing, monkeypatch):
    path = tmp_path / "state"
    save_state(path, TENSORS, META)

    def fail(*_args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state.os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            save_state(path, {"weight": torch.zeros(9)}, {})
    tensors, meta = load_state(path)
    assert_same(tensors, TENSORS)
    assert meta == META
    assert os.listdir(tmp_path) == ["state"]


def test_meta_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "state"
    save_state(path, TENSORS, META)
    with pytest.raises(TypeError):
        save_state(path, TENSORS, {"tensor": torch.zeros(1)})
    assert load_state(path)[1] == META
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "state"
    save_state(path, TENSORS, META)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="not a whole safetensors file") as caught:
        load_state(path)
    assert str(path) in assert_one_sentence(caught.value)


class Trap:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, write):
    path, sprung = tmp_path / "state", tmp_path / "sprung"
    with path.open("wb") as file:
        write({"weight": torch.zeros(2), "trap": Trap(sprung)}, file)
    with pytest.raises(ValueError, match="pickle, which is never loaded here") as caught:
        load_state(path)
    assert_one_sentence(caught.value)
    assert not sprung.exists()
    with path.open("rb") as file:  # the trap is a real one
        pickle.load(file) if write is pickle.dump else torch.load(file, weights_only=False)
    assert sprung.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"meta": "a note"}], ids=["none", "format", "note"])
def test_safetensors_of_others_are_refused(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, metadata)
    with pytest.raises(ValueError, match="diffmask_lite did not write it") as caught:
        load_state(path)
    assert str(path) in assert_one_sentence(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file") as caught:
        load_state(tmp_path / "nowhere")
    assert "nowhere" in assert_one_sentence(caught.value)


# Optimizers


def adamw(groups):
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95))


def lookahead(groups):
    return Lookahead(adamw(groups), alpha=0.5, k=3)


def muon(groups):
    return Muon(groups, lr=0.01, nesterov=True)  # its state also says, as a bool, which parameters are matrices


def momentum(groups):
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def beginning(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    return model, make([{"params": model[0].parameters(), "weight_decay": 0.1}, {"params": model[2].parameters()}])


def train(model, optimizer, steps):
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + step)
        loss = model(torch.randn(16, 4, generator=stream(0, "batch", step))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("saved_at", [0, 1, 5, 6])
@pytest.mark.parametrize("make", [adamw, lookahead, momentum, muon])
def test_a_resumed_optimizer_goes_on_bit_by_bit(tmp_path, make, saved_at):
    whole, optimizer = beginning(make)
    train(whole, optimizer, range(13))

    model, optimizer = beginning(make)
    train(model, optimizer, range(saved_at))
    tensors, meta = pack_optimizer(optimizer)
    save_state(tmp_path / "state", {**tensors, **model.state_dict()}, {"optimizer": meta})

    resumed, optimizer = beginning(make)
    tensors, meta = load_state(tmp_path / "state")
    resumed.load_state_dict({name: tensors[name] for name in resumed.state_dict()})
    unpack_optimizer(optimizer, tensors, meta["optimizer"])
    train(resumed, optimizer, range(saved_at, 13))
    assert_same(resumed.state_dict(), whole.state_dict())


def test_without_the_optimizers_state_the_steps_would_differ():
    """What the test above relies on: a fresh optimizer does go another way."""
    whole, optimizer = beginning(lookahead)
    train(whole, optimizer, range(13))
    model, optimizer = beginning(lookahead)
    train(model, optimizer, range(5))
    train(model, lookahead(model.parameters()), range(5, 13))
    assert not torch.equal(model[0].weight, whole[0].weight)


def test_two_optimizers_fit_in_one_file():
    (_, first), (_, second) = beginning(adamw), beginning(lookahead)
    for optimizer in (first, second):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = torch.ones_like(weight)
    first.step()
    for _ in range(4):
        second.step()
    tensors, metas = {}, {}
    for name, optimizer in (("gates", first), ("alphas", second)):
        found, metas[name] = pack_optimizer(optimizer, name)
        assert not tensors.keys() & found.keys()
        tensors |= found
    metas = json.loads(json.dumps(metas))
    _, fresh = beginning(adamw)
    unpack_optimizer(fresh, tensors, metas["gates"], "gates")
    expected, got = first.state_dict()["state"], fresh.state_dict()["state"]
    assert expected.keys() == got.keys()
    for index in expected:
        assert_same(got[index], expected[index])
