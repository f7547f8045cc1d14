"""The notebooks' exercises, run: solutions pass, stubs are "not attempted", wrong answers fail with a hint."""

import inspect

import numpy as np
import pytest
import torch

import badges
import contract
import reading
from diffmask_lite import exercises

PATHS = badges.notebook_paths()
NAMES = [path.name for path in PATHS]


def collect() -> list:
    """All exercises as (notebook, exercise); notebooks that break the rules are the contract test's affair."""
    cases = []
    for path in PATHS:
        notebook = contract.Notebook.load(path, NAMES)
        if not contract.exercises_are_complete(notebook):
            for exercise in reading.exercises(notebook.cells):
                cases.append(pytest.param(notebook, exercise, id=f"{path.stem}-{exercise.number}-{exercise.function}"))
    return cases


CASES = collect()
every_exercise = pytest.mark.parametrize(("notebook", "exercise"), CASES)


def define(notebook: contract.Notebook, exercise: reading.Exercise, source: str):
    """The exercise's function as `source` defines it."""
    names: dict = {"__name__": "__main__"}
    lesson = [cell for cell in notebook.cells if cell.source != contract.BOOTSTRAP]
    exec(compile("\n".join(reading.imports(lesson)), notebook.name, "exec"), names)
    exec(compile(source, f"{notebook.name}, exercise {exercise.number}", "exec"), names)
    return names[exercise.function]


def check(exercise: reading.Exercise, answer):
    return getattr(exercises, exercise.checker)(answer)


def spoil(value):
    """A plausible wrong version of a right result: numbers are off by one, truth values are turned round."""
    if isinstance(value, bool | np.bool_):
        return not value
    if isinstance(value, torch.Tensor):
        return ~value if value.dtype == torch.bool else value + 1
    if isinstance(value, np.ndarray):
        return ~value if value.dtype == bool else value + 1
    if isinstance(value, int | float | np.number):
        return value + 1
    if isinstance(value, dict):
        return {key: spoil(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(spoil(part) for part in value)
    return None


def raises(*_, **__):
    raise ValueError("wrong on purpose")


WRONG = {
    "returns nothing": lambda solution: lambda *_, **__: None,
    "returns 0": lambda solution: lambda *_, **__: 0.0,
    "returns a text": lambda solution: lambda *_, **__: "patch",
    "takes no argument": lambda solution: lambda: None,
    "raises": lambda solution: raises,
    "is not a function": lambda solution: None,
    "is off by one": lambda solution: lambda *args, **named: spoil(solution(*args, **named)),
}


def test_there_are_exercises():
    assert CASES, "no notebook has an exercise that could be read"


def test_every_checker_belongs_to_an_exercise_and_the_reverse():
    checkers = {name for name, _ in inspect.getmembers(exercises, inspect.isfunction) if name.startswith("check_")}
    assert {case.values[1].checker for case in CASES} == checkers


@every_exercise
def test_solution_passes(notebook, exercise):
    result = check(exercise, define(notebook, exercise, exercise.solution))
    assert result.status == "passed", result.hint


@every_exercise
def test_stub_is_not_attempted(notebook, exercise):
    assert check(exercise, define(notebook, exercise, exercise.stub)).status == "not attempted"


@pytest.mark.parametrize("wrong", WRONG)
@every_exercise
def test_wrong_answer_fails_with_a_hint(notebook, exercise, wrong):
    result = check(exercise, WRONG[wrong](define(notebook, exercise, exercise.solution)))
    assert result.status == "failed"
    assert result.hint


# ---- Notebook 04: wrong answers of the kinds that readers give -------------------------------------------------------


def spread(mask, tall, wide):
    return mask.repeat_interleave(tall, 0).repeat_interleave(wide, 1)[..., None]


def blend(picture, mask):
    z = spread(mask, picture.shape[0] // mask.shape[0], picture.shape[1] // mask.shape[1])
    return z * picture + (1 - z) * 0.5


def blend_bilinear(picture, mask):
    z = torch.nn.functional.interpolate(mask[None, None], size=picture.shape[:2], mode="bilinear")[0, 0, ..., None]
    return z * picture + (1 - z) * 0.5


def blend_tiled(picture, mask):
    z = mask.repeat(picture.shape[0] // mask.shape[0], picture.shape[1] // mask.shape[1])[..., None]
    return z * picture + (1 - z) * 0.5


BLENDS = {
    "black instead of grey": (
        lambda p, m: spread(m, 2, 2) * p,
        "leaves grey: the patch in row 1, column 1",
    ),
    "stretched": (lambda p, m: blend(p, (m - m.min()) / (m.max() - m.min()).clamp(min=1e-9)), "changes nothing: the patch"),
    "smoothed": (blend_bilinear, "each with one value of its own: the patch in row 1, column 1"),
    "tiled": (blend_tiled, "each with one value of its own: the patch in row 1, column 1"),
    "grey scale": (lambda p, m: blend(p, m)[..., 0], "the shape should be (4, 6, 3)"),
    "kept alone": (lambda p, m: [], "should return a tensor"),
}


@pytest.mark.parametrize(("answer", "words"), BLENDS.values(), ids=BLENDS)
def test_the_blend_hint_names_one_patch_and_no_nested_lists(answer, words):
    said = exercises.check_blend(answer)
    assert said.status == "failed" and words in said.hint
    assert "[[" not in said.hint and len(said.hint) < 260


def grow(cost, n, m, alone=False):
    keep = torch.zeros(n, dtype=torch.bool)
    for _ in range(m):
        left = (~keep).nonzero().flatten()
        trials = keep.repeat(len(left), 1)
        trials[torch.arange(len(left)), left] = True
        costs = torch.cat([cost(trial[None]) for trial in trials]) if alone else cost(trials)
        keep = trials[costs.argmin()]
    return keep


def shrink(cost, n, m):
    keep = torch.ones(n, dtype=torch.bool)
    while keep.sum() > m:
        left = keep.nonzero().flatten()
        trials = keep.repeat(len(left), 1)
        trials[torch.arange(len(left)), left] = False
        keep = trials[cost(trials).argmin()]
    return keep


def best_alone(cost, n, m):
    return torch.zeros(n).bool().index_fill(0, cost(torch.eye(n).bool()).argsort()[:m], True)


GROWS = {
    "shrinks": (shrink, "do not start from all"),
    "one trial a call": (lambda cost, n, m: grow(cost, n, m, alone=True), "called 9 times"),
    "the best of the first round": (best_alone, "once patch 1 is kept"),
    "a guess": (lambda cost, n, m: torch.isin(torch.arange(n), torch.tensor([1, 3, 2, 4, 0])[:m]), "never called"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "words"), GROWS.values(), ids=GROWS)
def test_the_grow_checker_refuses_what_costs_more_or_is_not_greedy(answer, words):
    said = exercises.check_grow(answer)
    assert said.status == "failed" and words in said.hint


def test_right_blends_and_grows_pass():
    assert exercises.check_blend(blend).status == "passed"
    assert exercises.check_grow(grow).status == "passed"
