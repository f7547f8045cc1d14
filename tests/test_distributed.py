"""Two processes on one global batch learn what one process learns from the whole of it.

Rounding is all that may differ, since sums are taken in another order. On the colour grid, gradients of the same weights
differed by 2e-7 of the largest. After five steps of Adam weights differed by up to 4e-5: 78 of 37,446 by more than 1e-5, those
whose gradient was below 1e-5 of the largest. In double precision they agreed to 1e-14, and by plain gradient descent to 5e-8.
So Adam blows rounding up. Trainings are compared here by plain descent; with Adam and Muon, the two processes by their bits.
"""

import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from diffmask_lite import RANKED, DiffMask, Ranking, fit, teach
from diffmask_lite.__main__ import main
from diffmask_lite.training import distributed
from diffmask_lite.training.history import COLUMNS
from families import assert_one_sentence, shared, some_images
from runs import Noisy, assert_gradients_agree, gradients, weights
from test_train_gates_command import command, make_home

PATHS = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
FIT, OBJECTIVE, TEACHER = (sys.modules[f"diffmask_lite.training.{name}"] for name in ("fit", "objective", "teacher"))
STEPS, BATCH = 20, 8
RECIPES = {
    "default": {"lr": 0.3},
    "log": {"lr": 0.1, "sparsity": "log", "alpha": 5.0, "warmup": 5},
    "ranking": {"lr": 0.1, "objective": Ranking(), "decay": True},
}
# What only some readers install or use, and what is no part of the package.
HEAVY = ["accelerate", "captum", "matplotlib", "seaborn", "scipy", "skimage", "IPython", "diffmask_lite.course"]
HEAVY += ["diffmask_lite.plots", "diffmask_lite.commands", "experiments", "compare", "train_vit", "train_gates"]
REAL = {"adam": {}, "muon": RANKED["fit"] | {"decay": False}}


def descent(name, explainer, lr):
    """Plain gradient descent in the place of the optimisers of `fit`: it passes rounding on and does not blow it up."""
    return torch.optim.SGD([{"params": list(explainer.parameters()), "initial_lr": lr}], lr=lr)


def undecided(seed=0):
    """Gates that are neither open nor shut, so that noise decides and gradients are large."""
    explainer = DiffMask(shared("vit"), "learned", seed=seed)
    for gate in explainer.gates:
        gate.last.bias.data.fill_(1.5)
    return explainer


def trained(recipe, rank=0, steps=STEPS):
    """Gates by plain descent: all that must agree, as tensors."""
    data, explainer = Noisy(some_images(shared("vit"), 24)), undecided(seed=rank)  # the main process's gates are what counts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FIT, "make_optimizer", descent)
        history = fit(explainer, data, steps, batch=BATCH, progress=rank == 0, **recipe)
    taken = torch.tensor(data.looked_at[-steps * BATCH // int(os.environ.get("WORLD_SIZE", "1")) :])  # and not the hashed ones
    found = {"weights": weights(explainer), "gradients": gradients(explainer), "taken": taken}
    return found | {"history": torch.tensor(history.frame().to_numpy(), dtype=torch.float64)}


def work(command):
    """What each of the two processes does, in a program of its own, since a launcher starts programs."""
    rank, images, writes, said = int(os.environ["RANK"]), some_images(shared("vit"), 24), [], []
    torch.set_num_threads(1)
    shared("vit").load_state_dict(torch.load("vit"))
    assert distributed.launched() and distributed.join(torch.device("cpu")).size == 2
    found = {"trained": {name: trained(recipe, rank) for name, recipe in RECIPES.items()}, "said": said}

    store = FIT.save_checkpoint
    FIT.save_checkpoint = lambda path, *args, **state: (writes.append(path), store(path, *args, **state))
    for name, recipe in REAL.items():
        whole, options = undecided(seed=rank), {"batch": BATCH, "every": 3, "progress": False, **recipe}
        fit(whole, Noisy(images), 12, **options)
        for steps in (5, 12):
            again = undecided(seed=7 * rank)
            fit(again, Noisy(images), steps, checkpoint=name, **options)
        found[name] = [weights(whole), weights(again)]
    found["writes"] = len(writes)

    def press(count):
        if rank == 1 and count == 3 * BATCH // 2 + 1:
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    asked, right = [], TEACHER.integrated_drop
    TEACHER.integrated_drop = lambda vit, some: asked.extend(some) or right(vit, some)
    for _ in range(2):
        found["maps"] = teach(shared("vit"), images[:5], 2, progress=False, checkpoint="maps").term.maps
    found["asked"] = len(asked)
    history = fit(undecided(), Noisy(images, press), 9, batch=BATCH, progress=False)
    found["stopped"] = [history.interrupted, len(history)]

    def attempt(data=images, **settings):
        with pytest.raises((ValueError, FloatingPointError)) as error:
            fit(undecided(), data, 2, **{"batch": BATCH, "progress": False, **settings})
        said.append(assert_one_sentence(error.value))

    attempt(batch=7), attempt(eps=0.1 + rank), attempt(images + rank)
    with pytest.MonkeyPatch.context() as patch:
        bad = float("nan") if rank else 0
        patch.setattr(OBJECTIVE, "kl_divergence", lambda *logits, right=OBJECTIVE.kl_divergence: right(*logits) + bad)
        attempt()
    torch.save(found, f"found{rank}")
    sys.exit(main(command))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both processes of one launch leave, and what they print."""
    folder = tmp_path_factory.mktemp("pair")
    torch.save(shared("vit").state_dict(), folder / "vit")
    words = command(make_home(folder / "home"), folder / "two", "--steps", "4")
    (folder / "script.py").write_text(f"import sys\nsys.path[:0] = {PATHS}\nfrom test_distributed import work\nwork({words})\n")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py"]
    result = subprocess.run(run, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stdout + result.stderr
    (folder / "said").write_text(result.stdout)
    return folder


@pytest.fixture(scope="module")
def pair(folder):
    return [torch.load(folder / f"found{rank}") for rank in (0, 1)]


@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_of_two_processes_equal_those_of_one_with_the_whole_batch(pair, name):
    first, second = (found["trained"][name] for found in pair)
    alone, start = trained(RECIPES[name]), weights(undecided())
    for key in ("weights", "history"):
        assert torch.equal(first[key].nan_to_num(), second[key].nan_to_num()), f"{key} differs between the processes"
    assert all(torch.equal(value, second["gradients"][key]) for key, value in first["gradients"].items())
    moved = (alone["weights"] - start).abs().max().item()
    assert moved > 1e-2, "gates that stayed where they were prove nothing"
    torch.testing.assert_close(first["weights"], alone["weights"], atol=1e-4 * moved, rtol=0)
    assert_gradients_agree(first["gradients"], alone["gradients"])
    close = {column: 1e-4 for column in COLUMNS} | {"kept": 1e-2, "agree": 0.2}  # rounding may open a gate, or move a class
    for column, ours, wanted in zip(COLUMNS, first["history"].T, alone["history"].T, strict=True):
        torch.testing.assert_close(ours, wanted, atol=close[column], rtol=1e-3, equal_nan=True)
    one, two = (part["taken"].view(STEPS, BATCH // 2) for part in (first, second))
    assert torch.equal(torch.cat([one, two], dim=1), alone["taken"].view(STEPS, BATCH))


@pytest.mark.parametrize("name", REAL)
def test_a_stopped_run_goes_on_to_bitwise_the_same_gates_and_the_main_process_alone_writes(pair, name):
    """At 3 and 5, then at 6, 9 and 12 steps, for each of the optimisers; and both processes have the same bits."""
    whole = pair[0][name][0]
    assert all(torch.equal(whole, found) for part in pair for found in part[name])
    assert [part["writes"] for part in pair] == [5 * len(REAL), 0]


def test_processes_share_the_making_of_maps_and_all_have_the_same(pair, folder):
    alone = teach(shared("vit"), some_images(shared("vit"), 24)[:5], progress=False).term.maps
    assert torch.equal(pair[0]["maps"], pair[1]["maps"])
    torch.testing.assert_close(pair[0]["maps"], alone, atol=1e-5, rtol=1e-4)
    assert [part["asked"] for part in pair] == [3, 2], "each makes its share, and none is made twice"
    stored = torch.load(folder / "maps", weights_only=True)["maps"]  # by the main process, for any number of them
    assert torch.equal(stored.flatten(1), pair[0]["maps"]) and not list(folder.glob("maps.*"))


def test_what_goes_wrong_in_one_process_stops_both_in_one_sentence(pair):
    """An interrupt in one, an uneven batch, processes that were given different things, and NaN in the loss of one."""
    words = ("7 images cannot be shared evenly by 2", "different settings", "different settings, data", "step 0")
    for part in pair:
        assert part["stopped"] == [True, 4]
        assert all(word in sentence for sentence, word in zip(part["said"], words, strict=True)), part["said"]


def test_the_command_learns_the_same_and_only_the_main_process_speaks(folder, tmp_path):
    said = (folder / "said").read_text()
    assert (
        said.count("20 steps") + said.count("settled") + said.count("idle") + said.count("moving") + said.count("ordered") == 4
    )
    assert said.count("7 images, 2 more are held out, 2 processes") == said.count("test_vit_plain_gates.csv: 4 steps") == 1
    assert main(command(folder / "home", tmp_path, "--steps", "4")) == 0
    one, two = (pd.read_csv(out / "test_vit_plain_gates.csv") for out in (tmp_path, folder / "two"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-2, atol=1e-2)


def test_a_notebooks_launcher_starts_two_as_well_and_the_package_loads_no_more_than_it_needs(tmp_path):
    """In a program, since the launcher copies the kernel that calls it, and a kernel of tests is no place to copy."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    program = f"""
import socket, sys
sys.path[:0] = {PATHS}
connect = socket.socket.connect
def refuse(*_): raise AssertionError("a connection was asked for")
socket.socket.connect = refuse
import diffmask_lite
print([name for name in {HEAVY!r} if name in sys.modules])
socket.socket.connect = connect
import torch
torch.set_num_threads(1)
from accelerate import notebook_launcher
from test_distributed import distributed, trained
def train(name):
    found, team = trained({{"lr": 0.3}}, steps=3), distributed.join(torch.device("cpu"))
    torch.save(found, f"{{name}}{{team.rank}}of{{team.size}}")
notebook_launcher(train, ("gates",), num_processes=2, use_port="{port}")
train("gates")
"""
    (tmp_path / "program.py").write_text(program)
    run = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[0] == "[]", "these come with `import diffmask_lite`"
    first, second, alone = (torch.load(tmp_path / f"gates{name}") for name in ("0of2", "1of2", "0of1"))
    assert torch.equal(first["weights"], second["weights"])
    assert_gradients_agree(first["gradients"], alone["gradients"])


def test_a_process_alone_is_a_team_of_one_and_does_without_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # to import it is now an error
    assert len(trained({"lr": 0.3}, steps=2)["history"]) == 2
    team = distributed.join(torch.device("cpu"))
    assert team.main and team.rows(7) == slice(0, 7) and team.mean({"a": torch.tensor(0.25)}) == {"a": 0.25}


WRONG = [(1, "cpu", "knows of 1"), (2, "cuda:0", "has the device cuda:1, but its ViT is on cuda:0")]


@pytest.mark.parametrize(("processes", "device", "words"), WRONG)
def test_a_process_in_the_wrong_place_is_told_in_one_sentence(monkeypatch, processes, device, words):
    """What Accelerate would say on machines that this one is not."""
    state = SimpleNamespace(num_processes=processes, process_index=1, device=torch.device("cuda:1"))
    monkeypatch.setattr(distributed, "_state", lambda cpu: state)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=words) as error:
        distributed.join(torch.device(device))
    assert_one_sentence(error.value)
