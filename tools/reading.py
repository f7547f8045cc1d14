"""Read the parts of a lesson out of a notebook's cells: sections, exercises, folded answers. No kernel is needed."""

import ast
import re
from dataclasses import dataclass

FOLDED = re.compile(r"<details>\s*<summary>(?P<summary>.+?)</summary>(?P<answer>.*?)</details>", re.DOTALL)
EFFORT = re.compile(r"^Difficulty: (easy|medium|hard) · (\d+) minutes", re.MULTILINE)
GOALS = "What you will be able to do"
QUIZ = "Check yourself"


@dataclass
class Exercise:
    """One exercise, taken out of a notebook."""

    number: int
    title: str
    difficulty: str  # easy, medium or hard
    minutes: int
    place: int  # index of its first cell; the next two are stub and solution
    stub: str  # the function's definition as the learner finds it
    function: str  # its name
    checker: str  # check_<name> in diffmask_lite.course.exercises
    answer: str  # all that the fold hides, Markdown
    solution: str  # the python in it


def prose(cell) -> str:
    """A Markdown cell without its fenced code (where a # is no heading and a bracket no link); '' for other cells."""
    source = cell.source if cell.cell_type == "markdown" else ""
    return re.sub(r"^```.*?^```", "", source, flags=re.MULTILINE | re.DOTALL)


def headings(cells: list, level: int) -> list[str]:
    """The headings of one level, in order."""
    text = "\n".join(prose(cell) for cell in cells)
    return re.findall(rf"^#{{{level}}} (.+?)\s*$", text, flags=re.MULTILINE)


def section(cells: list, heading: str, fences: bool = False) -> str:
    """The text under a second-level heading, with or without fenced code; '' where the heading is missing."""
    text = "\n".join(cell.source if fences and cell.cell_type == "markdown" else prose(cell) for cell in cells)
    match = re.search(rf"^## {re.escape(heading)}\s*$(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return match[1].strip() if match else ""


def goals(cells: list) -> list[str]:
    """The items of the list under 'What you will be able to do', each in one line."""
    items = re.findall(r"^[-*] (.+(?:\n[ \t]+\S.*)*)", section(cells, GOALS), flags=re.MULTILINE)
    return [" ".join(item.split()) for item in items]


def python(cell) -> str:
    """The code of a cell without IPython's magic lines, so that `ast` can read it."""
    return "\n".join(line for line in cell.source.splitlines() if not line.lstrip().startswith(("%", "!")))


def imports(cells: list) -> list[str]:
    """The import statements of all code cells that can be parsed."""
    found = []
    for cell in cells:
        if cell.cell_type == "code":
            try:
                tree = ast.parse(python(cell))
            except SyntaxError:
                continue
            found += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return found


def text_of(cell) -> str:
    """What a code cell stores as text. The text that stands in for a picture is none: nbval compares no pictures."""
    parts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(part for part in parts if not re.fullmatch(r"<Figure size .*>\s*", part)).strip()


def minutes(cells: list) -> tuple[int, int]:
    """Minutes to read a notebook, rounded up to the next 5, and those that its exercises state.

    A minute is 150 words, 12 lines of code or 2 pictures. What is folded, the references and the set-up are not read; the texts
    of exercises are, and solving them is apart.
    """
    text = "\n".join(FOLDED.sub("", prose(cell)) for cell in cells).split("## References")[0]
    read = [cell for cell in cells if cell.cell_type == "code" and not cell.metadata.get("jupyter", {}).get("source_hidden")]
    lines = sum(len(cell.source.splitlines()) for cell in read[1:])
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    needed = len(re.findall(r"\w\S*", text)) / 150 + lines / 12 + pictures / 2
    return 5 * -(-int(needed + 0.999) // 5), sum(int(stated[2]) for stated in EFFORT.finditer(text))


def exercises(cells: list) -> list[Exercise]:
    """The exercises of a notebook of the course; ValueError says what one lacks."""
    found = []
    for index, cell in enumerate(cells):
        match = re.match(r"### Exercise (\d+)\b:?(.*)", cell.source) if cell.cell_type == "markdown" else None
        if match is None:
            continue
        number = int(match[1])
        where = f"exercise {number}"
        effort = EFFORT.search(cell.source)
        if not effort:
            raise ValueError(f"{where}: no line such as 'Difficulty: easy · 5 minutes'")
        if [c.cell_type for c in cells[index + 1 : index + 3]] != ["code", "markdown"]:
            raise ValueError(f"{where}: after its heading come one code cell and the solution")
        code, folded = cells[index + 1 : index + 3]
        tree = ast.parse(python(code))
        calls = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and re.fullmatch(r"exercises\.check_\w+", ast.unparse(node.func))
        ]
        if len(calls) != 1 or not calls[0].args or not isinstance(calls[0].args[0], ast.Name):
            raise ValueError(f"{where}: the code cell calls exercises.check_<name>(<function>) once")
        function = calls[0].args[0].id
        stub = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
        if len(stub) != 1 or "raise NotImplementedError" not in ast.unparse(stub[0]):
            raise ValueError(f"{where}: {function} is defined in the code cell and raises NotImplementedError")
        if "not attempted" not in text_of(code).lower():
            raise ValueError(f"{where}: the stored output does not say 'not attempted yet'")
        # Without the blank line after the summary GitHub shows the fence as plain text.
        fold = FOLDED.search(folded.source)
        answer = fold["answer"] if fold and fold["summary"] == "Solution" and fold["answer"].startswith("\n\n") else ""
        solution = re.search(r"^```python\n(.*?)^```\n", answer, flags=re.MULTILINE | re.DOTALL)
        if solution is None or f"def {function}(" not in solution[1]:
            raise ValueError(f"{where}: no folded solution with a ```python fence that defines {function}")
        found.append(
            Exercise(
                number=number,
                title=match[2].strip(),
                difficulty=effort[1],
                minutes=int(effort[2]),
                place=index,
                stub=ast.unparse(stub[0]),
                function=function,
                checker=calls[0].func.attr,
                answer=answer.strip(),
                solution=solution[1],
            )
        )
    return found
