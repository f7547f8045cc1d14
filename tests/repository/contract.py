"""The notebook contract: rules that each notebook of the course keeps, as functions that yield its faults, in words.

No kernel is needed: the rules read what is stored. CONTRIBUTING.md says the same in prose.
"""

import ast
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

import badges
from reading import GOALS, QUIZ, exercises, goals, headings, prose, section, text_of

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = (ROOT / "tools" / "bootstrap_cell.py").read_text("utf-8").rstrip("\n")
MAX_BYTES = 1_500_000
CHECK = "check"  # the tag of cells that assert what the prose claims
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # in JupyterLab, in Colab
MIN_CHECKED = 3
MAX_CELLS, MAX_WORDS, MAX_LINES, FIRST_FIGURE = 90, 3500, 8, 8  # lines: of the median code cell; figure: within so many cells
GLOSSARY = "../docs/glossary.md"
MAX_GOAL = 120
NO_VERBS = {"a", "an", "the", "know", "learn", "understand"}
BEFORE = [GOALS, "Before you start"]
AFTER = ["Recap", QUIZ, "References"]
SLIDE_TYPES = {"slide", "subslide", "fragment", "notes", "skip"}
RULES: list[Callable[["Notebook"], Iterator[str]]] = []


def rule(check: Callable[["Notebook"], Iterator[str]]) -> Callable[["Notebook"], Iterator[str]]:
    RULES.append(check)
    return check


@dataclass
class Notebook:
    """One notebook as stored, with its file name and those of the whole course in order."""

    name: str
    content: nbformat.NotebookNode
    size: int
    names: list[str]

    @classmethod
    def load(cls, path: Path, names: list[str]) -> "Notebook":
        return cls(path.name, nbformat.read(path, as_version=4), path.stat().st_size, names)

    @property
    def cells(self) -> list:
        return self.content.cells

    @property
    def code(self) -> list:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def number(self) -> int:
        return self.names.index(self.name)


def has_png(cell) -> bool:
    return cell.cell_type == "code" and any("image/png" in output.get("data", {}) for output in cell.outputs)


def is_claim(cell) -> bool:
    """Whether a cell asserts what the prose claims."""
    return cell.cell_type == "code" and CHECK in cell.metadata.get("tags", [])


def shows_widget(cell) -> bool:
    return cell.cell_type == "code" and bool(re.search(r"\bwidgets\.\w+\(|\binteract(ive)?\(", cell.source))


@rule
def names_are_numbered(notebook: Notebook) -> Iterator[str]:
    """NN_slug.ipynb, numbered from 00 without gaps."""
    number = notebook.number
    if not re.fullmatch(rf"{number:02d}_[a-z0-9_]+\.ipynb", notebook.name):
        yield f"{notebook.name} should be {number:02d}_some_slug.ipynb: numbers run from 00 without gaps"


@rule
def first_cell_introduces(notebook: Notebook) -> Iterator[str]:
    """The first cell has the title, the Colab badge of this very path, and the minutes."""
    cell = notebook.cells[0]
    if cell.cell_type != "markdown" or not cell.source.startswith("# "):
        yield "the first cell is not Markdown that starts with '# Title'"
    if badges.badge(notebook.name, badges.home()) not in cell.source.splitlines():
        yield "the first cell lacks the right Colab badge: run python tools/badges.py"
    if not badges.MINUTES.search(cell.source):
        yield "the first cell does not say 'N minutes on a 2-core CPU: R to read and E for the exercises.'"
    elif badges.with_minutes(cell.source, notebook.cells) != cell.source:
        yield "the first cell states other minutes than the notebook takes: run python tools/badges.py"
    if badges.times(cell.source).endswith("?"):
        yield f"the first cell does not say 'The machine computes for …', with one of {', '.join(badges.MACHINE)}"
    if len(headings(notebook.cells, 1)) != 1:
        yield "there is more or less than one first-level heading"


@rule
def headings_are_in_order(notebook: Notebook) -> Iterator[str]:
    """The second-level headings frame the lesson."""
    found = headings(notebook.cells, 2)
    if found[:2] != BEFORE or found[-3:] != AFTER:
        yield f"second-level headings should be {BEFORE}, the lesson's, {AFTER}; they are {found}"
    elif len(found) == len(BEFORE) + len(AFTER):
        yield "the lesson has no second-level heading"


@rule
def frame_is_filled(notebook: Notebook) -> Iterator[str]:
    """The sections around the lesson hold what they promise."""
    items = goals(notebook.cells)
    if len(items) < 2 or any(item.split()[0].lower() in NO_VERBS for item in items):
        yield "goals are a list of two or more items that start with a verb one can see done"
    if items and len(items[0]) > MAX_GOAL:
        yield f"the first goal has {len(items[0])} characters; {MAX_GOAL} fit into the README's table"
    start = section(notebook.cells, BEFORE[1])
    if notebook.number and not any(f"]({name}" in start for name in notebook.names[: notebook.number]):
        yield "'Before you start' links back to no earlier notebook"
    if f"]({GLOSSARY})" not in start:
        yield f"'Before you start' does not link to {GLOSSARY}"
    questions = section(notebook.cells, AFTER[1])
    answers = re.findall(r"<details>\s*<summary>.+?</summary>\n\n.+?</details>", questions, flags=re.DOTALL)
    if len(answers) != 3 or questions.count("<details>") != 3:
        yield "'Check yourself' has three folded answers, each with a blank line after its <summary>"
    if "](http" not in section(notebook.cells, AFTER[2]):
        yield "'References' links to nothing"


@rule
def links_resolve(notebook: Notebook) -> Iterator[str]:
    """Relative links lead to files, and the last cell to the neighbours."""
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(cell)):
            path = target.split("#")[0]
            known = not path or path in notebook.names or (ROOT / "notebooks" / path).exists()
            if not re.match(r"https?://|mailto:", target) and not known:
                yield f"the link to {target} leads nowhere"
    last, number = notebook.cells[-1].source, notebook.number
    neighbours = notebook.names[max(number - 1, 0) : number] + notebook.names[number + 1 : number + 2]
    if not last.startswith(badges.NAVIGATION) or any(f"]({name})" not in last for name in neighbours):
        yield "the last cell lacks the links to previous and next: run python tools/badges.py"


@rule
def is_stored_executed(notebook: Notebook) -> Iterator[str]:
    """Executed from a clean kernel in order, with nothing in the outputs that a reader should not see."""
    metadata = notebook.content.metadata
    if [cell.execution_count for cell in notebook.code] != list(range(1, len(notebook.code) + 1)):
        yield "execution counts are not 1 … N: run python tools/run_notebooks.py"
    if metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec is not python3"
    if "widgets" in metadata:
        yield "metadata.widgets is stored; GitHub then refuses to render"
    if notebook.size >= MAX_BYTES:
        yield f"{notebook.size} bytes; {MAX_BYTES} are too many"
    if any(cell.get("attachments") for cell in notebook.cells):
        yield "a picture is attached to a Markdown cell"
    for number, output in ((number, output) for number, cell in enumerate(notebook.code, 1) for output in cell.outputs):
        if output.output_type == "error":
            yield f"code cell {number} stores an error"
        if output.get("name") == "stderr":
            yield f"code cell {number} stores stderr"
        if "\r" in output.get("text", ""):
            yield f"code cell {number} stores progress that was not cleared"
        for kind in output.get("data", {}):
            if kind.startswith("image/") and kind != "image/png":
                yield f"code cell {number} stores {kind}; pictures are PNG"
            if "widget-view" in kind:
                yield f"code cell {number} stores the view of a widget that is not stored"


@rule
def bootstrap_is_canonical(notebook: Notebook) -> Iterator[str]:
    """The first code cell is tools/bootstrap_cell.py, and no other cell installs anything or changes directory."""
    if not notebook.code or notebook.code[0].source != BOOTSTRAP:
        yield "the first code cell is not tools/bootstrap_cell.py: copy it, then run python tools/badges.py"
    for cell in notebook.code[1:]:
        if cell.source == BOOTSTRAP:
            yield "the bootstrap cell is there twice"
        elif re.search(r"pip[\"', ]+install|[%!] ?(pip|conda|cd)\b|\bchdir\(", cell.source):
            yield f"a cell installs something or changes directory: {cell.source.splitlines()[0]}"


@rule
def claims_are_asserted(notebook: Notebook) -> Iterator[str]:
    """Claims stand as asserts, each with a sentence, in folded cells that print nothing; a reader sees numbers. No marker of
    nbval is in use: most of them switch a check off."""
    count = 0
    for cell in filter(is_claim, notebook.code):
        start, lines = cell.source.splitlines()[0], ast.parse(cell.source).body
        asserts = [line for line in lines if isinstance(line, ast.Assert)]
        count += len(asserts)
        if not asserts or any(not isinstance(line, ast.Assert | ast.Assign) for line in lines):
            yield f"a check cell holds asserts, and names for them, alone: {start}"
        if any(line.msg is None or isinstance(line.test, ast.Constant) for line in asserts):
            yield f"an assert needs a condition, and a sentence that says what is claimed: {start}"
        if cell.outputs or cell.metadata.get("slideshow", {}).get("slide_type") != "skip":
            yield f"a check cell prints something, or is on a slide: {start}"
        if any(cell.metadata.get(key) != value for key, value in FOLDED.items()):
            yield f"a check cell is not folded; its metadata need {FOLDED}: {start}"
    if count < MIN_CHECKED:
        yield f"{count} claims are asserted; {MIN_CHECKED} are the least"
    for cell in notebook.code:
        if re.search(r": (True|False)\b", text_of(cell)):
            yield f"a cell prints a verdict where a number belongs: {cell.source.splitlines()[0]}"
        tags = cell.metadata.get("tags", [])
        if "nbval" in cell.source.lower() or any(tag.startswith(("nbval", "raises-exception")) for tag in tags):
            yield f"a cell is marked for nbval: {cell.source.splitlines()[0]}"


@rule
def budgets_are_kept(notebook: Notebook) -> Iterator[str]:
    """Few cells, few words, short code, and a figure soon."""
    words = sum(len(prose(cell).split()) for cell in notebook.cells if cell.cell_type == "markdown")
    if len(notebook.cells) > MAX_CELLS or words > MAX_WORDS:
        yield f"{len(notebook.cells)} cells and {words} words; {MAX_CELLS} and {MAX_WORDS} are the most"
    lines = [len(cell.source.splitlines()) for cell in notebook.code if cell.source != BOOTSTRAP]
    if statistics.median(lines) > MAX_LINES:
        yield f"the median code cell has {statistics.median(lines)} lines; {MAX_LINES} are the most"
    if not any(has_png(cell) for cell in notebook.cells[:FIRST_FIGURE]):
        yield f"no figure within the first {FIRST_FIGURE} cells"


@rule
def widgets_have_a_static_twin(notebook: Notebook) -> Iterator[str]:
    """The next code cell after a widget stores a picture, because a widget shows nothing on GitHub."""
    for cell, after in zip(notebook.code, [*notebook.code[1:], None], strict=True):
        if shows_widget(cell) and not (after and has_png(after)):
            yield f"no static figure follows the widget cell: {cell.source.splitlines()[-1]}"


@rule
def figures_are_described(notebook: Notebook) -> Iterator[str]:
    """Under each figure stands a caption that says what is to be seen, for those who cannot see it."""
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        caption = prose(after) if after else ""
        if has_png(cell) and not re.match(r"\*\*Figure\.\*\* .{30,}", caption, flags=re.DOTALL):
            yield f"no caption '**Figure.** …' follows the figure of: {cell.source.splitlines()[-1]}"


@rule
def exercises_are_complete(notebook: Notebook) -> Iterator[str]:
    """Two or three exercises, each with difficulty, minutes, stub, checker and folded solution."""
    try:
        numbers = [exercise.number for exercise in exercises(notebook.cells)]
    except (ValueError, SyntaxError) as error:
        yield str(error)
    else:
        if numbers not in ([1, 2], [1, 2, 3]):
            yield f"exercises should be numbered 1, 2 or 1, 2, 3; they are {numbers}"


@rule
def slides_are_marked(notebook: Notebook) -> Iterator[str]:
    """Each cell says what it is on a slide: headings and figures are shown, the set-up is not, prose becomes notes."""
    kinds = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in notebook.cells]
    for cell, kind in zip(notebook.cells, kinds, strict=True):
        start = cell.source.splitlines()[0] if cell.source else "an empty cell"
        if kind not in SLIDE_TYPES:
            yield f"slide_type is {kind!r}, not one of {sorted(SLIDE_TYPES)}: {start}"
        elif re.search(r"^#{1,3} ", prose(cell), flags=re.MULTILINE) and kind not in {"slide", "subslide"}:
            yield f"a heading is {kind}, not slide or subslide: {start}"
        elif has_png(cell) and kind not in {"slide", "subslide", "fragment"}:
            yield f"a figure is {kind}, so no slide shows it: {start}"
        elif cell.source == BOOTSTRAP and kind != "skip":
            yield f"the set-up is {kind}, not skip"
    if "notes" not in kinds:
        yield "no cell is marked notes, so the slides have no speaker notes"
