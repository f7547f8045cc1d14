"""Every notebook keeps the contract, and every rule of the contract catches a notebook that breaks it."""

import copy
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import badges
import contract
from contract import BOOTSTRAP, RULES, Notebook

NAMES = [path.name for path in badges.notebook_paths()]
NOTEBOOKS = [Notebook.load(path, NAMES) for path in badges.notebook_paths()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=NAMES)
def test_notebook_keeps(notebook, rule):
    faults = list(rule(notebook))
    assert not faults, f"{notebook.name}: " + "; ".join(faults)


def test_badges_links_and_table_are_in_step():
    assert NOTEBOOKS and badges.rewrite(check=True) == [], "run python tools/badges.py"


# ---- The rules are tested on a small notebook that keeps all of them, and on broken copies of it ----
def markdown(source: str, kind: str):
    return nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


def code(source: str, kind: str, *outputs):
    return nbformat.v4.new_code_cell(source, metadata={"slideshow": {"slide_type": kind}}, outputs=list(outputs))


def printed(text: str, name: str = "stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def shown(kind: str = "image/png"):
    return nbformat.v4.new_output("display_data", {kind: "AAAA", "text/plain": "<Figure size 640x480 with 1 Axes>"})


TIME = "15 minutes on a 2-core CPU: 5 to read and 10 for the exercises. The machine computes for less than one minute."
EXERCISE = "### Exercise {n}: twice\n\nDifficulty: easy · 5 minutes\n\nReturn twice the number."
STUB = "def twice(x):\n    raise NotImplementedError\n\n\nexercises.check_twice(twice)"
ANSWER = "<details><summary>{title}</summary>\n\n{text}\n\n</details>"
SOLUTION = ANSWER.format(title="Solution", text="```python\ndef twice(x):\n    return 2 * x\n```")
QUESTION = "1. Why?\n\n" + ANSWER.format(title="Answer", text="Because.")


ASSERTS = "a, b = 1, 2\n" + "\n".join(f"assert a < {i} * b, 'a is small'" for i in (1, 2, 3))


def exemplary() -> Notebook:
    """The second of two notebooks, with one of everything; it keeps every rule."""
    names = ["00_first.ipynb", "01_second.ipynb"]
    badge, claims = badges.badge(names[1], badges.home()), code(ASSERTS, "skip")
    claims.metadata.update(tags=[contract.CHECK], **contract.FOLDED)
    cells = [
        markdown(f"# Second\n\n{badge}\n\n{TIME}", "slide"),
        code(BOOTSTRAP, "skip"),
        markdown("## What you will be able to do\n\n- count patches\n- drop patches", "slide"),
        markdown("## Before you start\n\n[First](00_first.ipynb). [Words](../docs/glossary.md).", "subslide"),
        code("plots.cat()", "slide", shown()),
        markdown("**Figure.** " + "A cat, and its patches. " * 2, "notes"),
        markdown("## Counting patches", "slide"),
        markdown("A patch is a token.", "notes"),
        code("print(0 < 3)", "slide"),
        claims,
        code("widgets.explore(result)", "skip", printed("slider")),
        code("plots.show(result)", "slide", shown()),
        markdown("**Figure.** The cat's patches are bright, all others are dark.", "notes"),
        markdown(EXERCISE.format(n=1), "slide"),
        code(STUB, "fragment", printed("not attempted yet")),
        markdown(SOLUTION, "skip"),
        markdown(EXERCISE.format(n=2), "slide"),
        code(STUB, "fragment", printed("not attempted yet")),
        markdown(SOLUTION, "skip"),
        markdown("## Recap\n\nPatches count.", "slide"),
        markdown("## Check yourself\n\n" + "\n\n".join([QUESTION] * 3), "slide"),
        markdown("## References\n\n[The paper](https://arxiv.org/abs/2304.06391)", "slide"),
        markdown(badges.navigation(("00_first.ipynb", "First"), None), "skip"),
    ]
    content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    notebook = Notebook(names[1], content, 10_000, names)
    for count, cell in enumerate(notebook.code, 1):
        cell.execution_count = count
    return notebook


def cell_with(notebook: Notebook, text: str):
    return next(cell for cell in notebook.cells if text in cell.source)


def replacing(old: str, new: str):
    """A change that replaces text in the first cell that has it."""

    def change(notebook: Notebook) -> None:
        cell = cell_with(notebook, old)
        cell.source = cell.source.replace(old, new)

    return change


def storing(text: str, *outputs):
    """A change of what the first cell with `text` stores."""
    return lambda notebook: cell_with(notebook, text).update(outputs=list(outputs))


def removing(text: str):
    return lambda notebook: notebook.cells.remove(cell_with(notebook, text))


def marking(text: str, kind):
    return lambda notebook: cell_with(notebook, text).metadata.update(slideshow={"slide_type": kind})


ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
WIDGET = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
# For each rule, changes that break it.
BROKEN = {
    contract.names_are_numbered: {
        "gap": lambda n: n.names.insert(0, "000_gap.ipynb"),
        "slug": lambda n: n.__init__("01-Second.ipynb", n.content, n.size, [n.names[0], "01-Second.ipynb"]),
    },
    contract.first_cell_introduces: {
        "no title": replacing("# Second", "Second"),
        "a second title": replacing("## Counting patches", "# Counting patches"),
        "badge of another notebook": replacing("/01_second", "/00_first"),
        "no minutes": replacing("15 minutes on a 2-core CPU", "quick"),
        "too few minutes": replacing("5 to read", "4 to read"),
        "minutes of other exercises": replacing(" · 5 minutes", " · 6 minutes"),
        "no time of the machine": replacing("The machine computes for less than one minute.", ""),
    },
    contract.headings_are_in_order: {
        "missing": replacing("## Recap", "## Summary"),
        "order": lambda n: n.cells.insert(2, n.cells.pop(3)),
        "no lesson": removing("## Counting patches"),
        "only in code": replacing("## Recap", "```\n## Recap\n```"),
    },
    contract.frame_is_filled: {
        "no goals": replacing("- count patches\n- drop patches", "Much."),
        "a first goal too long for the README": replacing("- count patches", "- count patches" + " and patches" * 10),
        "no verb": replacing("- count patches", "- understand patches"),
        "no link back": replacing("[First](00_first.ipynb)", "First"),
        "no glossary": replacing("[Words](../docs/glossary.md)", "Words"),
        "two questions": replacing(QUESTION + "\n\n" + QUESTION, QUESTION),
        "answer that GitHub does not fold": replacing("Answer</summary>\n\n", "Answer</summary>\n"),
        "no reference": replacing("(https://arxiv.org/abs/2304.06391)", ""),
    },
    contract.links_resolve: {
        "dead link": replacing("A patch", "[A patch](nowhere.ipynb)"),
        "no navigation": removing(badges.NAVIGATION),
        "no previous": lambda n: n.cells[-1].update(source=badges.NAVIGATION),
    },
    contract.is_stored_executed: {
        "count": lambda n: n.code[2].update(execution_count=9),
        "not run": lambda n: n.code[2].update(execution_count=None),
        "kernel": lambda n: n.content.metadata.kernelspec.update(name="my-env"),
        "widget state": lambda n: n.content.metadata.update(widgets={}),
        "widget view": storing("widgets.", WIDGET),
        "size": lambda n: setattr(n, "size", contract.MAX_BYTES),
        "error": storing("widgets.", ERROR),
        "stderr": storing("widgets.", printed("careful", "stderr")),
        "progress": storing("widgets.", printed("1 %\r2 %")),
        "jpeg": storing("plots.", shown("image/jpeg")),
        "attachment": lambda n: n.cells[0].update(attachments={"a.png": {}}),
    },
    contract.bootstrap_is_canonical: {
        "missing": removing(BOOTSTRAP),
        "one blank more": replacing("import sys", "import sys "),
        "twice": replacing("widgets.explore(result)", BOOTSTRAP),
        "pip magic": replacing("widgets.explore(result)", "%pip install timm"),
        "pip call": replacing("widgets.explore(result)", 'run([python, "-m", "pip", "install", "timm"])'),
        "changes directory": replacing("widgets.explore(result)", "os.chdir('..')"),
    },
    contract.claims_are_asserted: {
        "too few": replacing("assert a < 1 * b, 'a is small'\n", ""),
        "no sentence": replacing(", 'a is small'", ""),
        "always true": replacing("a < 1 * b", "True"),
        "nothing asserted": replacing(ASSERTS, "a = 1"),
        "more than asserts": replacing(ASSERTS, ASSERTS + "\nprint(a)"),
        "prints": storing("assert", printed("1")),
        "on a slide": marking("assert", "slide"),
        "not folded": lambda n: cell_with(n, "assert").metadata.pop("jupyter"),
        "open in Colab": lambda n: cell_with(n, "assert").metadata.pop("cellView"),
        "verdict": storing("print(0 < 3)", printed("small: True\n")),
        "compared by nbval": replacing("print(0 < 3)", "# NBVAL_CHECK_OUTPUT\nprint(0 < 3)"),
        "switched off": lambda n: n.code[1].metadata.update(tags=["nbval-ignore-output"]),
        "may fail": lambda n: n.code[1].metadata.update(tags=["raises-exception"]),
    },
    contract.budgets_are_kept: {
        "cells": lambda n: n.cells.extend(markdown("More.", "notes") for _ in range(70)),
        "words": replacing("A patch is a token.", "word " * 3500),
        "lines": lambda n: [cell.update(source="x = 1\n" * 9) for cell in n.code],
        "late figure": removing("plots.cat()"),
    },
    contract.widgets_have_a_static_twin: {
        "no picture": storing("plots.show", printed("a figure")),
        "interact": replacing("print(0 < 3)", "interact(show, layer=(0, 5))"),
        "nothing after": lambda n: n.cells.append(code("widgets.explore(x)", "skip")),
    },
    contract.figures_are_described: {
        "no caption": removing("**Figure.**"),
        "too short": replacing("The cat's patches are bright, all others are dark.", "A mask."),
    },
    contract.exercises_are_complete: {
        "only one": replacing("### Exercise 2", "### Extra"),
        "numbers": replacing("### Exercise 2", "### Exercise 3"),
        "no difficulty": replacing("Difficulty: easy · ", ""),
        "no minutes": replacing(" · 5 minutes", ""),
        "no stub": replacing("raise NotImplementedError", "return 2 * x"),
        "no checker": replacing("exercises.check_twice(twice)", "twice(2)"),
        "checks something else": replacing("check_twice(twice)", "check_twice(thrice)"),
        "stored as solved": storing("check_twice", printed("passed")),
        "no solution": removing("<summary>Solution"),
        "open solution": replacing("<details><summary>Solution</summary>", "Solution"),
        "fence without language": replacing("```python", "```"),
    },
    contract.slides_are_marked: {
        "none": marking("A patch", None),
        "unknown": marking("A patch", "note"),
        "heading": marking("## Recap", "notes"),
        "figure": marking("plots.", "skip"),
        "set-up": marking(BOOTSTRAP, "slide"),
        "no notes": lambda n: [
            cell.metadata.update(slideshow={"slide_type": "skip"}) for cell in n.cells if "notes" in str(cell.metadata)
        ],
    },
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_passes_the_exemplary_notebook_and_catches_each_change_that_breaks_it(rule):
    sound = exemplary()
    assert list(rule(sound)) == []
    for name, change in BROKEN[rule].items():
        notebook = copy.deepcopy(sound)
        change(notebook)
        assert notebook != sound, f"{name}: the change changes nothing"
        assert list(rule(notebook)), f"{name}: a broken notebook passes"


# ---- The bootstrap cell, run in each of the places where it may find itself ----
@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Run the bootstrap cell in a folder where the package cannot be imported; what it installs is only noted."""
    commands = []

    def note(command, check):
        assert check
        commands.append([str(part) for part in command])
        if command[0] == "git":
            command[-1].mkdir()

    def run(folder):
        monkeypatch.chdir(folder)
        exec(compile(BOOTSTRAP, "bootstrap", "exec"), {})
        assert folder.samefile(".")
        return commands

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", note)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    return run


def test_bootstrap_is_short_and_leaves_a_found_package_alone():
    before = list(sys.path)
    for _ in range(2):
        exec(compile(BOOTSTRAP, "bootstrap", "exec"), {})
    assert sys.path == before and len(BOOTSTRAP.splitlines()) <= 25


def test_bootstrap_finds_the_repository_from_below(elsewhere):
    assert elsewhere(contract.ROOT / "tools") == []
    assert sys.path[0] == str(contract.ROOT)


def test_bootstrap_installs_on_colab_and_holds_torch_and_numpy(elsewhere, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    clone, install = elsewhere(tmp_path)
    at = badges.home()
    assert clone[:2] == ["git", "clone"] and {f"https://github.com/{at.repository}", f"--branch={at.branch}"} <= set(clone)
    assert install[-2:] == [clone[-1], "ipywidgets"]
    held = Path(install[install.index("--constraint") + 1]).read_text().split()
    assert held == [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "torchvision", "numpy")]


def test_bootstrap_says_what_is_missing_elsewhere(elsewhere, tmp_path):
    with pytest.raises(ModuleNotFoundError, match=r"^.*clone https://github.com/.*$"):
        elsewhere(tmp_path)
