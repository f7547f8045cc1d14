"""Files of tensors are whole or refused, a fingerprint tells one ViT from another, and streams of numbers are seeded."""

import copy
import json
import os
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from diffmask_lite import DiffMask
from diffmask_lite.training.checkpoint import save_checkpoint
from diffmask_lite.vit import fingerprint
from diffmask_lite.vit.randomness import stream
from diffmask_lite.vit.storage import load_tensors, same_weights, save_tensors
from families import assert_one_sentence, build, shared, some_images

TENSORS = {"weight": torch.arange(6.0).view(2, 3), "step": torch.tensor(7), "keep": torch.tensor([True, False])}
META = {"name": "grid", "steps": 3, "lr": 0.1 + 0.2, "text": "h × w", "nested": {"list": [1, None, True]}}


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value), name


def test_round_trip(tmp_path):
    """Tensors may have gradients and strides, and outlive their file."""
    path, weight = tmp_path / "new" / "folder" / "state.safetensors", nn.Parameter(torch.arange(6.0).view(2, 3))
    save_tensors(path, TENSORS | {"learned": weight, "turned": weight.T, "part": weight[:, 1]}, META)
    assert os.listdir(path.parent) == [path.name]
    tensors, meta = load_tensors(path)
    save_tensors(path, {name: torch.zeros_like(value) for name, value in TENSORS.items()}, META)
    path.unlink()
    assert_same(tensors, TENSORS | {"learned": weight.data, "turned": weight.data.T, "part": weight.data[:, 1]})
    assert meta == META


@pytest.mark.parametrize("failing", ["fsync", "replace", None])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, failing, monkeypatch):
    path = tmp_path / "state"
    save_tensors(path, TENSORS, META)

    def fail(*_args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        if failing:
            patch.setattr(os, failing, fail)
        with pytest.raises(OSError if failing else TypeError):
            save_tensors(path, {"weight": torch.zeros(9)}, {} if failing else {"not for JSON": torch.zeros(1)})
    tensors, meta = load_tensors(path)
    assert_same(tensors, TENSORS)
    assert meta == META
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize("save", [save_tensors, lambda path, tensors, meta: save_checkpoint(path, meta, **tensors)])
def test_a_full_disk_is_named_by_the_file_and_leaves_the_old_one(tmp_path, save):
    path = tmp_path / "state"
    path.write_text("old")
    os.symlink("/dev/full", tmp_path / f".state.{os.getpid()}.partial")
    with pytest.raises(OSError, match="No space left") as error:
        save(path, {"weight": torch.zeros(9999)}, {})
    assert str(path) in str(error.value) and path.read_text() == "old" and os.listdir(tmp_path) == ["state"]


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path):
    header = json.dumps({"weight": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    (tmp_path / "state").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_tensors(tmp_path / "state")


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "state"
    save_tensors(path, TENSORS, META)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="not a whole safetensors file") as caught:
        load_tensors(path)
    assert str(path) in assert_one_sentence(caught.value)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_and_never_opened(tmp_path, write):
    path, sprung = tmp_path / "state", tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(sprung),)

    with path.open("wb") as file:
        write({"weight": torch.zeros(2), "trap": Trap()}, file)
    with pytest.raises(ValueError, match="pickle, which is never loaded here") as caught:
        load_tensors(path)
    assert_one_sentence(caught.value)
    assert not sprung.exists()
    with path.open("rb") as file:  # the trap is a real one
        pickle.load(file) if write is pickle.dump else torch.load(file, weights_only=False)
    assert sprung.exists()


OTHERS = {
    "none": None, "format": {"format": "pt"}, "note": {"meta": "a note"}, "no_checksum": {"meta": json.dumps(META)},
    "list": {"meta": "[1]"}, "deep": {"meta": "[" * 100_000},
}  # fmt: skip


@pytest.mark.parametrize("metadata", OTHERS.values(), ids=OTHERS)
def test_safetensors_of_others_are_refused(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, metadata)
    with pytest.raises(ValueError, match="was not written by this version of diffmask_lite") as caught:
        load_tensors(path)
    assert str(path) in assert_one_sentence(caught.value)


@pytest.mark.parametrize("back", [1, 8, 17, 24])
def test_one_flipped_bit_among_the_numbers_is_noticed(tmp_path, back):
    path = tmp_path / "state"
    save_tensors(path, TENSORS, META)
    blob = bytearray(path.read_bytes())
    blob[-back] ^= 1  # numbers come last in the file
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="is damaged: what it holds does not have the checksum") as caught:
        load_tensors(path)
    assert str(path) in assert_one_sentence(caught.value)


def test_a_changed_word_of_the_meta_data_is_noticed(tmp_path):
    path = tmp_path / "state"
    save_tensors(path, TENSORS, {"cut": 0.5})
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.7"))
    with pytest.raises(ValueError, match="is damaged"):
        load_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file") as caught:
        load_tensors(tmp_path / "nowhere")
    assert "nowhere" in assert_one_sentence(caught.value)


def with_buffers():
    model = build("vit")
    model.register_buffer("mean", torch.zeros(3))
    model.register_buffer("seen", torch.tensor(3))
    return model


@pytest.mark.parametrize("name", ["head.bias", "blocks.2.mlp.fc2.weight", "patch_embed.proj.bias", "pos_embed", "mean", "seen"])
def test_gates_are_refused_once_any_number_of_the_vit_is_another(tmp_path, name):
    vit, twin, path = with_buffers(), with_buffers(), tmp_path / "gates"
    DiffMask(vit).save(path)
    assert fingerprint(vit) == fingerprint(twin) and DiffMask.load(path, twin).vit is twin
    twin.state_dict()[name].view(-1)[-1] += 1
    assert not same_weights(fingerprint(vit), fingerprint(twin))
    with pytest.raises(ValueError, match="other weights") as caught:
        DiffMask.load(path, twin)
    assert str(path) in assert_one_sentence(caught.value)
    assert DiffMask.load(path, twin, same_vit=False).vit is twin


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["vit", "dinov3"])
def test_gates_go_with_their_vit_into_another_precision_and_back(tmp_path, family, dtype):
    vit, path = shared(family), tmp_path / "gates"
    other = copy.deepcopy(vit).to(dtype)
    for one, two in ((vit, other), (other, vit)):
        DiffMask(one).save(path)
        result = DiffMask.load(path, two).explain(some_images(two))
        assert result.mask.isfinite().all() and result.logits.dtype == next(two.parameters()).dtype


def test_a_stream_depends_on_all_that_is_named_and_on_nothing_else():
    def draw(*where):
        return torch.rand(4, generator=stream(*where)).tolist()

    names = [(0, "noise", 1), (0, "noise", 2), (0, "order", 1), (1, "noise", 1), (0, "noise", 1, 1), (0, "noise")]
    torch.manual_seed(1)
    first = [draw(*name) for name in names]
    torch.manual_seed(2)
    assert first == [draw(*name) for name in reversed(names)][::-1]
    assert len(set(map(tuple, first))) == len(names)
