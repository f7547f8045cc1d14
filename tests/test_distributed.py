"""Two processes on one global batch learn what one process learns from the whole of it."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from diffmask_lite import DiffMask, fit, together
from diffmask_lite.state import load_state, save_state
from diffmask_lite.worth import by_worth
from families import assert_one_sentence, shared, some_images

TESTS = os.path.dirname(__file__)
STEPS, BATCH = 20, 8  # centred RMSprop is not among the recipes: it divides by differences that are all rounding at first
RECIPES = {
    "default": {},
    "ranks by slope": {"rank": 1.0, "decay": True, "masks": "shown"},
    "ranks by worth": {"rank": 1.0, "ranking": by_worth},
    "log": {"sparsity": "log", "alpha": 5.0, "warmup": 5},
}

# What each of the two processes does. It is a program of its own, since a launcher starts programs.
COMMON = """
import json, os, sys, torch
sys.path[:0] = [{tests!r}, {root!r}]
torch.set_num_threads(1)
from families import shared, some_images
from diffmask_lite import DiffMask, fit, together
from diffmask_lite.state import load_state, save_state
from diffmask_lite.worth import by_worth
from test_together import BATCH, RECIPES, STEPS, Seen
os.chdir({folder!r})
rank = int(os.environ["RANK"])
shared("vit").load_state_dict(load_state("vit")[0])
assert together.launched() and together.join(torch.device("cpu")).size == 2
images = some_images(shared("vit"), 24)
"""


class Seen(torch.utils.data.Dataset):
    """Images with noise of their own, as augmentation adds it, and a list of those that were looked at."""

    def __init__(self, images, on_item=lambda count: None):
        self.images, self.seen, self.on_item = images, [], on_item

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.seen.append(i)
        self.on_item(len(self.seen))
        return self.images[i] + 0.1 * torch.randn(())


def launch(folder, body):
    """Run a program in two processes; what they printed, and their exit status."""
    save_state(folder / "vit", shared("vit").state_dict(), {})
    script = folder / "script.py"
    script.write_text(COMMON.format(tests=TESTS, root=os.path.dirname(TESTS), folder=str(folder)) + body)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


def done(folder, body):
    result = launch(folder, body)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Gates, history and images of both processes, for each recipe."""
    folder = tmp_path_factory.mktemp("pair")
    result = done(
        folder,
        """
for name, recipe in RECIPES.items():
    data, explainer = Seen(images), DiffMask(shared("vit"), "learned", seed=rank)  # the main process's gates are what counts
    history = fit(explainer, data, STEPS, batch=BATCH, checkpoint=f"{name}.checkpoint", **recipe)
    table = torch.tensor(history.frame().to_numpy(), dtype=torch.float64)
    save_state(f"{name}.{rank}", {**explainer.state_dict(), "history": table, "seen": torch.tensor(data.seen)}, {})
""",
    )
    return folder, result.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_of_two_processes_equal_those_of_one_with_the_whole_batch(pair, name):
    folder, _ = pair
    first, second = (load_state(folder / f"{name}.{rank}")[0] for rank in (0, 1))
    alone, data = DiffMask(shared("vit"), "learned"), Seen(some_images(shared("vit"), 24))
    start = {key: value.clone() for key, value in alone.state_dict().items()}
    history = fit(alone, data, STEPS, batch=BATCH, progress=False, **RECIPES[name])
    moved = max(float((value - start[key]).abs().max()) for key, value in alone.state_dict().items())
    assert moved > 1e-3, "gates that stayed where they were prove nothing"
    for key, value in alone.state_dict().items():
        assert torch.equal(first[key], second[key]), f"{key} differs between the processes"
        torch.testing.assert_close(first[key], value, atol=1e-5, rtol=0)
    wanted = torch.tensor(history.frame().to_numpy(), dtype=torch.float64)
    assert torch.equal(first["history"], second["history"])
    torch.testing.assert_close(first["history"], wanted, atol=1e-4, rtol=1e-4)  # α among them, so KL of the whole batch

    steps = zip(*(part["seen"].view(STEPS, BATCH // 2) for part in (first, second)), strict=True)
    whole = torch.tensor(data.seen).view(STEPS, BATCH)
    for one, two, both in zip(*zip(*steps, strict=True), whole, strict=True):
        assert not set(one.tolist()) & set(two.tolist()) and torch.equal(torch.cat([one, two]), both)


def test_only_the_main_process_speaks(pair):
    _, said = pair
    assert said.count("20 steps") + said.count("settled") + said.count("idle") + said.count("moving") == len(RECIPES)


def test_a_stopped_run_goes_on_to_bitwise_the_same_gates_and_the_main_process_alone_writes(pair, tmp_path):
    folder, _ = pair
    done(
        tmp_path,
        """
from diffmask_lite import training
writes = []
store, training.save_state = training.save_state, lambda *args: (writes.append(args[0]), store(*args))
for steps in (7, STEPS):
    explainer = DiffMask(shared("vit"), "learned", seed=5 * rank)
    fit(explainer, Seen(images), steps, batch=BATCH, checkpoint="run", every=3, progress=False)
assert len(writes) == (0 if rank else 8), writes
save_state(f"again.{rank}", explainer.state_dict(), {})
""",
    )
    for rank in (0, 1):
        wanted, found = load_state(folder / f"default.{rank}")[0], load_state(tmp_path / f"again.{rank}")[0]
        assert all(torch.equal(value, wanted[key]) for key, value in found.items())


def test_what_goes_wrong_in_one_process_stops_both_in_one_sentence(tmp_path):
    """NaN in the loss of one, an interrupt in one, an uneven batch, and processes that were given different things."""
    done(
        tmp_path,
        """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
def press(count):
    if rank == 1 and count == 3 * BATCH // 2 + 1:
        signal.raise_signal(signal.SIGINT)
history = fit(DiffMask(shared("vit")), Seen(images, press), 9, batch=BATCH, progress=False, checkpoint="stopped")
assert history.interrupted and len(history) == 4, (history.interrupted, len(history))

said = []
def attempt(vit=shared("vit"), **settings):
    try:
        fit(DiffMask(vit), images, 2, progress=False, **{"batch": BATCH, **settings})
    except (ValueError, FloatingPointError) as error:
        said.append(str(error))
attempt(batch=7)
attempt(eps=0.1 + rank)
from diffmask_lite import training
whole = training.kl_divergence
training.kl_divergence = lambda *args: whole(*args) + (float("nan") if rank else 0)
attempt()
save_state(f"said.{rank}", {}, {"said": said})
""",
    )
    for rank in (0, 1):
        said = load_state(tmp_path / f"said.{rank}")[1]["said"]
        for sentence, words in zip(
            said, ("7 images cannot be shared evenly by 2", "different settings", "step 0"), strict=True
        ):
            assert words in sentence
            assert_one_sentence(ValueError(sentence))


def test_a_notebooks_launcher_starts_two_as_well(tmp_path):
    """In a program, since it copies the kernel that calls it, and a kernel of tests is no place to copy."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    (tmp_path / "program.py").write_text(f"""
import torch
from accelerate import notebook_launcher
from diffmask_lite import DiffMask, fit, together, weights
from diffmask_lite.datasets import ColourGrid
def train(name):
    explainer = DiffMask(weights.pretrained("grid")[0])
    fit(explainer, ColourGrid(50, seed=3), 5, batch=8, lr=1e-2, warmup=1, progress=False)
    team = together.join(torch.device("cpu"))
    explainer.save(f"{tmp_path}/{{name}}{{team.rank}}of{{team.size}}")
notebook_launcher(train, ("gates",), num_processes=2, use_port="{port}")
train("gates")
""")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.path.dirname(TESTS)}
    subprocess.run([sys.executable, tmp_path / "program.py"], check=True, capture_output=True, env=environment)
    first, second, alone = (load_state(tmp_path / f"gates{name}")[0] for name in ("0of2", "1of2", "0of1"))
    for key, value in alone.items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("processes", "device", "words"),
    [(1, "cpu", "knows of 1"), (2, "cuda:0", r"has the device cuda:1, but its ViT is on cuda:0")],
)
def test_a_process_in_the_wrong_place_is_told_in_one_sentence(monkeypatch, processes, device, words):
    """What Accelerate would say on machines that this one is not."""
    state = SimpleNamespace(num_processes=processes, process_index=1, device=torch.device("cuda:1"))
    monkeypatch.setattr(together, "_state", lambda cpu: state)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=words) as error:
        together.join(torch.device(device))
    assert_one_sentence(error.value)


def test_a_process_alone_is_a_team_of_one_and_accelerate_is_not_imported():
    code = (
        "import sys, torch, timm; from diffmask_lite import DiffMask, fit\n"
        "vit = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=1)\n"
        "fit(DiffMask(vit), torch.randn(4, 3, 32, 32), 2, batch=2, progress=False)\n"
        "print('accelerate' in sys.modules, torch.distributed.is_initialized())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
    team = together.join(torch.device("cpu"))
    assert team.main and team.rows(7) == slice(0, 7)
