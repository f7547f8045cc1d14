"""The images of each step: a function of the seed and the place in the run, whatever the data set draws."""

import os
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset, get_worker_info

from diffmask_lite import DiffMask, fit
from diffmask_lite.training import hold_out
from diffmask_lite.training.data import Seeded, batches, digest, epoch_order
from families import assert_one_sentence, shared, some_images
from runs import QUICK, Noisy, weights


@pytest.fixture(scope="module")
def images():
    return some_images(shared("vit"), 10)


@pytest.mark.parametrize("length", [1, 7, 10])
def test_every_epoch_is_a_permutation_of_its_own_and_can_be_entered_anywhere(length):
    whole = epoch_order(length, seed=3, start=0, count=5 * length)
    epochs = [whole[i * length : (i + 1) * length] for i in range(5)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert length == 1 or (len(set(map(tuple, epochs))) > 1 and whole != epoch_order(length, 1, 0, 5 * length))
    for count in (1, 3, 2 * length):
        for start in range(5 * length - count):
            assert epoch_order(length, 3, start, count) == whole[start : start + count]


def test_what_is_held_out_is_not_learned_from():
    learned, held_out = hold_out(range(50), share=0.2)
    assert len(held_out) == 10 and sorted([*learned, *held_out]) == list(range(50))
    assert list(held_out) == list(hold_out(range(50), share=0.2)[1]) != list(hold_out(range(50), share=0.2, seed=1)[1])
    assert sorted(held_out) != list(range(10)) and len(hold_out(range(30), share=0.01)[1]) == 2
    with pytest.raises(ValueError) as error:
        hold_out(range(2))
    assert_one_sentence(error.value)


def terminate(_count):
    """As a batch system does, which sends SIGTERM to all processes."""
    if get_worker_info() is not None:
        signal.raise_signal(signal.SIGTERM)


def test_worker_processes_give_the_same_batches_and_the_callers_random_numbers_stay(images):
    found, bad = [], images.clone()
    for workers in (0, 2):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
        wanted = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
        torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
        found.append(DiffMask(shared("vit")))
        fit(found[-1], Noisy(images, terminate), 3, workers=workers, **QUICK)
        assert (torch.rand(1), random.random(), np.random.rand()) == wanted  # noqa: NPY002
    assert torch.equal(*map(weights, found))
    bad[:, 0, 0, 0] = torch.inf
    for data, words in ((bad, r"step 0: Items \[.*\] of the data set hold NaN"), ([{"a": 1}] * 5, r"Item \d .* gives a dict")):
        with pytest.raises(ValueError, match=words) as error:
            next(batches(shared("vit"), data, 0, 4, slice(0, 4), range(3), workers=1))
        assert_one_sentence(error.value)


class Dying(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        os._exit(1)  # as a spawned process that does not find the notebook in which the data set is defined


def test_a_data_set_that_other_processes_cannot_have_is_told_what_to_do():
    class Local(Dying):
        pass

    with pytest.raises(ValueError, match=r"step 0: a process that loads images ended .* pass workers=0") as error:
        next(batches(shared("vit"), Dying(), 0, 4, slice(0, 4), range(3), workers=1))
    assert_one_sentence(error.value)
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        with pytest.raises(ValueError, match=r"cannot be sent .*Local.* not in a notebook .* pass workers=0") as error:
            next(batches(shared("vit"), Local(), 0, 4, slice(0, 4), range(3), workers=1))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert_one_sentence(error.value)


def test_a_digest_knows_images_and_their_order_and_not_how_they_are_kept(images):
    """Noise that is drawn for each item is a function of the seed, so it does not make a data set another one."""
    whole = digest(images, 0)
    assert whole == digest(list(images), 0) == digest(TensorDataset(images, torch.arange(10)), 0)
    assert digest(Noisy(images), 0) == digest(Noisy(images), 0) != whole
    others = [images + 0.01, images.flip(0), images.double(), images[:9], torch.cat([images, images])]
    assert len({whole, *(digest(other, 0) for other in others)}) == 6
    many = Noisy(images[:1].expand(1000, -1, -1, -1))
    digest(many, 0)
    assert len(many.looked_at) == 16 and many.looked_at[-1] > 900, "a few items, from all over the data set"


def test_what_items_draw_from_numpy_is_seeded_too_and_the_callers_numbers_stay():
    class Drawn(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return torch.full((1, 1, 1), float(np.random.rand()))  # noqa: NPY002

    np.random.seed(5)  # noqa: NPY002
    wanted = np.random.rand()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first, again, other = (Seeded(Drawn(), 0)[place].item() for place in ((4, 1), (4, 1), (5, 1)))
    assert first == again != other and np.random.rand() == wanted  # noqa: NPY002
