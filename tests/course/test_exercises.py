"""The notebooks' exercises, run: solutions pass, stubs are "not attempted", wrong answers fail with a hint."""

import inspect

import numpy as np
import pytest
import torch

import badges
import contract
import reading
from diffmask_lite.course import exercises

NAMES = [path.name for path in badges.notebook_paths()]
NOTEBOOKS = [contract.Notebook.load(path, NAMES) for path in badges.notebook_paths()]
CASES = [
    pytest.param(notebook, exercise, id=f"{notebook.name[:2]}-{exercise.number}-{exercise.function}")
    for notebook in NOTEBOOKS
    if not list(contract.exercises_are_complete(notebook))  # or it is the affair of the contract's own test
    for exercise in reading.exercises(notebook.cells)
]
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
    if isinstance(value, torch.Tensor | np.ndarray | bool | np.bool_ | int | float | np.number):
        truth = getattr(value, "dtype", type(value)) in (torch.bool, np.dtype(bool), bool)
        return value ^ True if truth else value + 1
    if isinstance(value, dict):
        return {key: spoil(part) for key, part in value.items()}
    return type(value)(spoil(part) for part in value) if isinstance(value, list | tuple) else None


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


def test_every_checker_belongs_to_an_exercise_and_the_reverse():
    checkers = {name for name, _ in inspect.getmembers(exercises, inspect.isfunction) if name.startswith("check_")}
    assert {case.values[1].checker for case in CASES} == checkers


@every_exercise
def test_solution_passes_and_stub_is_not_attempted(notebook, exercise):
    result = check(exercise, define(notebook, exercise, exercise.solution))
    assert result.status == "passed", result.hint
    assert check(exercise, define(notebook, exercise, exercise.stub)).status == "not attempted"


@pytest.mark.parametrize("wrong", WRONG)
@every_exercise
def test_wrong_answer_fails_with_a_hint(notebook, exercise, wrong):
    result = check(exercise, WRONG[wrong](define(notebook, exercise, exercise.solution)))
    assert result.status == "failed" and result.hint
