"""What a lecturer needs: the notebooks without solutions, a marking sheet, and the marking of what comes back.

    python tools/handout.py                       student/*.ipynb and marking.md in build/handout
    python tools/handout.py --no-clear-outputs    the same, and the student versions keep their outputs
    python tools/handout.py --mark FOLDER         try each exercise of the notebooks in FOLDER; marks.csv in build/handout

FOLDER holds a folder for each student, or files named like anna_00_quickstart.ipynb. Of each notebook only the definitions
under an exercise's heading are run, after the course's imports, in a process with limits of time and memory. That keeps one
hand-in from stopping the others; it is no defence against a student who means harm: mark unknown code in a container.

marks.csv has a row for each student and a column for each exercise, with one of

    passed
    failed: why
    not attempted       the exercise is still the stub, or empty
    not handed in       there is no file of this notebook
    unreadable: why     the file is no notebook
    no heading: which   the exercise's heading was deleted, so its code cannot be found

and then the points, and the points possible. The last two rows are those of the class: how many passed, and mean points. All
students count, also those who handed in nothing.
"""

import argparse
import ast
import contextlib
import copy
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

import badges
import reading
from diffmask_lite.vit.storage import write
from reading import FOLDED, QUIZ, Exercise

ROOT = badges.ROOT
POINTS = {"easy": 1, "medium": 2, "hard": 3}
SLACK = 120  # seconds to start Python and import torch, on a busy machine
# Code, which is left alone, or a link to anything but another notebook, which is all that lies beside a student version.
AWAY = re.compile(r"```.*?```|`[^`]*`|\]\((?!\w+:|#|[\w.-]+\.ipynb)(?P<path>[^)\s]+)\)", re.DOTALL)
# An exercise begins at its heading, and ends where the course goes on. A student's own headings do not end it.
EXERCISE = re.compile(r"^### Exercise (\d+)\b|^## Recap *$", re.MULTILINE)
LONGEST = 300  # characters of one result: a spreadsheet's cell holds no more than 32,767
RUN = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign


# ---- Hand out -------------------------------------------------------------------------------------------------------


def student_version(content: nbformat.NotebookNode, clear_outputs: bool = True) -> nbformat.NotebookNode:
    """The notebook without solutions, answers to the quiz and outputs, and with links that hold wherever it is copied."""
    at = badges.home()

    def absolute(found: re.Match) -> str:
        if found["path"] is None:  # code
            return found[0]
        path = os.path.normpath(f"notebooks/{found['path']}").replace(os.sep, "/")
        return f"](https://github.com/{at.repository}/blob/{at.branch}/{path})"

    content = copy.deepcopy(content)
    cells = content.cells
    # The badge would open the version with solutions.
    cells[0].source = "\n\n".join(part for part in cells[0].source.split("\n\n") if not part.startswith(badges.BADGE))
    quiz = next((n for n, cell in enumerate(cells) if f"## {QUIZ}" in cell.source.splitlines()), len(cells))
    for cell in cells[quiz:]:
        cell.source = FOLDED.sub(r"**\g<summary>**", cell.source)
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = AWAY.sub(absolute, cell.source)
    for exercise in reversed(reading.exercises(cells)):
        del cells[exercise.place + 2]
    if clear_outputs:  # last, because an exercise is known by its output, too
        for cell in cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
    return content


def marking_sheet(notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """All exercises with points and solutions, and all quiz questions with answers, as Markdown; {file name: content}."""
    points = ", ".join(f"{difficulty} {n}" for difficulty, n in POINTS.items())
    rows, texts, total = [], [], 0
    for name, content in notebooks.items():
        texts.append(f"## {badges.title(content.cells[0].source)}")
        for exercise in reading.exercises(content.cells):
            worth = POINTS[exercise.difficulty]
            total += worth
            effort = f"{exercise.difficulty} | {exercise.minutes} | {worth}"
            rows.append(f"| {name[:2]} | {exercise.number} | {exercise.title} | {effort} |")
            task = content.cells[exercise.place].source.split("\n", 1)[1].strip()
            texts.append(f"### {name[:2]}, exercise {exercise.number}: {exercise.title}\n\nPoints: {worth} · {task}")
            texts.append(f"**Solution**\n\n{exercise.answer}")
        quiz = FOLDED.sub(r"**\g<summary>**\g<answer>", reading.section(content.cells, QUIZ, fences=True))
        texts.append(f"### {name[:2]}, {QUIZ.lower()}\n\n{quiz}")
    head = ["# Marking sheet", f"Points are a suggestion: {points}; together {total}. Not for the students."]
    table = ["| notebook | exercise | title | difficulty | minutes | points |", "|---|---|---|---|---|---|", *rows]
    return "\n\n".join([*head, "\n".join(table), *texts]) + "\n"


def hand_out(notebooks: dict[str, nbformat.NotebookNode], output: Path, clear_outputs: bool = True) -> None:
    """Write student/*.ipynb and marking.md into the folder `output`."""
    (output / "student").mkdir(parents=True, exist_ok=True)
    for name, content in notebooks.items():
        text = nbformat.writes(student_version(content, clear_outputs)) + "\n"
        (output / "student" / name).write_text(text, "utf-8", newline="\n")
    (output / "marking.md").write_text(marking_sheet(notebooks), "utf-8", newline="\n")


# ---- Mark -----------------------------------------------------------------------------------------------------------


def handed_in(folder: Path, stems: list[str]) -> dict[str, dict[str, Path]]:
    """What lies in a folder, as {student: {notebook's stem: file}}; a later file of the same name wins over an earlier one.

    An empty folder is a student who handed in nothing. Notebooks of other names are printed, since nobody marks them.
    """
    found: dict[str, dict[str, Path]] = {path.name: {} for path in folder.iterdir() if path.is_dir() and not hidden(path.name)}
    files = [path for path in folder.rglob("*.ipynb") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.stat().st_mtime, path)):
        inside = path.relative_to(folder)
        stem = next((stem for stem in stems if stem in path.stem), None)
        if any(map(hidden, inside.parts)):
            continue
        if stem is None:
            print(f"Not marked, because its name is none of the course's: {inside}")
            continue
        before, after = path.stem.split(stem, 1)
        student = inside.parts[0] if len(inside.parts) > 1 else before.strip(" _-.") or after.strip(" _-.") or "?"
        found.setdefault(student, {})[stem] = path
    return dict(sorted(found.items()))


def hidden(name: str) -> bool:
    """Whether a program left a file or folder there: .ipynb_checkpoints, or the __MACOSX of an archive."""
    return name.startswith((".", "__"))


def cells_of(path: Path, number: int, given: set[str]) -> list[nbformat.NotebookNode] | None:
    """The code cells under the heading of an exercise that are not as `given`; None where the heading is missing."""
    code, inside, there = [], False, False
    for cell in nbformat.read(path, as_version=4).cells:
        for heading in EXERCISE.finditer(reading.prose(cell)):
            inside = heading[1] == str(number)
            there |= inside
        if cell.cell_type == "code" and inside and cell.source.strip() not in given:
            code.append(cell)
    return code if there else None


def definitions(cells: list[nbformat.NotebookNode]) -> str:
    """The definitions, imports and assignments at the top level of code cells."""
    nodes = [node for cell in cells for node in ast.parse(reading.python(cell)).body if isinstance(node, RUN)]
    return "\n".join(map(ast.unparse, nodes))


def sources(content: nbformat.NotebookNode) -> set[str]:
    """The code cells of a notebook of the course: what of them is unchanged is nobody's answer."""
    return {cell.source.strip() for cell in content.cells if cell.cell_type == "code"}


def mark(path: Path | None, exercise: Exercise, imports: list[str], given: set[str], seconds: float) -> str:
    """Try one exercise of one hand-in; what it returns, see above. It never raises for what was handed in."""
    if path is None:
        return "not handed in"
    try:
        cells = cells_of(path, exercise.number, given)
    except Exception as error:  # damaged, or no notebook at all
        return f"unreadable: {type(error).__name__} in {path.name}: {error}"
    if cells is None:
        return f"no heading: '### Exercise {exercise.number}' is not in {path.name}"
    try:
        code = definitions(cells)
    except Exception as error:  # no Python
        return f"failed: {type(error).__name__} in {path.name}: {error}"
    if code.strip() in ("", exercise.stub):
        return "not attempted"
    job = {"imports": imports, "code": code, "function": exercise.function, "checker": exercise.checker, "seconds": seconds}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        Path(place, "job.json").write_text(json.dumps(job), "utf-8")
        command = [sys.executable, ROOT / "tools" / "judge.py", "job.json", "verdict.txt"]
        quiet = {stream: subprocess.DEVNULL for stream in ("stdin", "stdout", "stderr")}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        process = subprocess.Popen(command, cwd=place, env=environment, start_new_session=True, **quiet)
        try:
            status = process.wait(seconds + SLACK)
        except subprocess.TimeoutExpired:
            status = None
        end_group(process)
        verdict, late = Path(place, "verdict.txt"), Path(place, "late.txt")
        if verdict.is_file():
            return verdict.read_text("utf-8")
        if status is None or (late.is_file() and late.stat().st_size):
            return f"failed: it was still running after {seconds:g} s"
        return f"failed: it ended Python (exit status {status})"


def end_group(process: subprocess.Popen) -> None:
    """End what is left of a process and of those that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def mark_all(folder: Path, notebooks: dict[str, nbformat.NotebookNode], target: Path, seconds: float) -> None:
    """Write the table, student × exercise, as CSV."""
    students = handed_in(folder, [Path(name).stem for name in notebooks])
    course = [
        (Path(name).stem, exercise, reading.imports(content.cells), sources(content))
        for name, content in notebooks.items()
        for exercise in reading.exercises(content.cells)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        marks = {
            student: [pool.submit(mark, files.get(stem), *task, seconds) for stem, *task in course]
            for student, files in students.items()
        }
    head = [f"{stem[:2]}.{exercise.number} {exercise.function}" for stem, exercise, *_ in course]
    worth = [POINTS[exercise.difficulty] for _, exercise, *_ in course]
    rows, passed = [["student", *head, "points", "possible"]], [0] * len(course)
    for student, results in marks.items():
        texts = [result.result() for result in results]
        right = [text == "passed" for text in texts]
        passed = [n + r for n, r in zip(passed, right, strict=True)]
        points = sum(w * r for w, r in zip(worth, right, strict=True))
        rows.append([plain(student), *map(plain, texts), points, sum(worth)])
    means = [w * n / max(len(marks), 1) for w, n in zip(worth, passed, strict=True)]
    rows.append(["class: passed", *passed, "", ""])
    rows.append(["class: mean points", *(round(m, 2) for m in means), round(sum(means), 2), sum(worth)])
    csv.writer(content := io.StringIO()).writerows(rows)
    write(target, "\ufeff" + content.getvalue())  # the mark by which Excel knows UTF-8; pandas skips it


def plain(text: str) -> str:
    """A text for a cell: one short line, and never a formula, because a spreadsheet would run a name such as =1+1."""
    text = re.sub(r"[\s\x00-\x1f]+", " ", text)[:LONGEST]
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "handout", help="folder (default: build/handout)")
    keep = "take the outputs out of the student versions (default: yes)"
    parser.add_argument("--clear-outputs", action=argparse.BooleanOptionalAction, default=True, help=keep)
    parser.add_argument("--mark", type=Path, metavar="FOLDER", help="mark the notebooks in this folder")
    parser.add_argument("--seconds", type=float, default=20, help="that one exercise may take (default: 20)")
    options = parser.parse_args(arguments)
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in badges.notebook_paths()}
    if options.mark is None:
        hand_out(notebooks, options.output, options.clear_outputs)
        print(f"{options.output / 'student'} is for the students, {options.output / 'marking.md'} is not.")
    elif options.mark.is_dir():
        mark_all(options.mark, notebooks, options.output / "marks.csv", options.seconds)
        print(options.output / "marks.csv")
    else:
        parser.error(f"{options.mark} is no folder")
    return 0


if __name__ == "__main__":
    sys.exit(main())
