"""What a lecturer needs: the notebooks without solutions, a marking sheet, and the marking of what comes back.

    python tools/handout.py                       student/*.ipynb and marking.md in build/handout
    python tools/handout.py --mark FOLDER         try each exercise of the notebooks in FOLDER; marks.csv in build/handout

FOLDER holds a folder for each student, or files named like anna_00_quickstart.ipynb. Of each notebook only the definitions
under an exercise's heading are run, after the course's imports, in a process with limits of time and memory. That keeps one
hand-in from stopping the others; it is no defence against a student who means harm: mark unknown code in a container.
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
HEADING = re.compile(r"^#{1,3} ", re.MULTILINE)
RUN = ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign


# ---- Hand out -------------------------------------------------------------------------------------------------------


def student_version(content: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without solutions, without answers to the quiz, and with links that hold wherever it is copied."""
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


def hand_out(notebooks: dict[str, nbformat.NotebookNode], output: Path) -> None:
    """Write student/*.ipynb and marking.md into the folder `output`."""
    (output / "student").mkdir(parents=True, exist_ok=True)
    for name, content in notebooks.items():
        text = nbformat.writes(student_version(content)) + "\n"
        (output / "student" / name).write_text(text, "utf-8", newline="\n")
    (output / "marking.md").write_text(marking_sheet(notebooks), "utf-8", newline="\n")


# ---- Mark -----------------------------------------------------------------------------------------------------------


def handed_in(folder: Path, stems: list[str]) -> dict[str, dict[str, Path]]:
    """What lies in a folder, as {student: {notebook's stem: file}}; a later file of the same name wins over an earlier one."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*.ipynb"), key=lambda path: (path.stat().st_mtime, path)):
        stem = next((stem for stem in stems if stem in path.stem), None)
        inside = path.relative_to(folder)
        if stem and ".ipynb_checkpoints" not in inside.parts:
            before, after = path.stem.split(stem, 1)
            student = inside.parts[0] if len(inside.parts) > 1 else before.strip(" _-.") or after.strip(" _-.") or "?"
            found.setdefault(student, {})[stem] = path
    return dict(sorted(found.items()))


def answer(path: Path, number: int) -> str:
    """The definitions and assignments in the code cells between the heading of an exercise and the next heading."""
    code, inside = [], False
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and HEADING.search(cell.source):
            inside = bool(re.match(rf"### Exercise {number}\b", cell.source))
        elif cell.cell_type == "code" and inside:
            code += [ast.unparse(node) for node in ast.parse(reading.python(cell)).body if isinstance(node, RUN)]
    return "\n".join(code)


def mark(path: Path | None, exercise: Exercise, imports: list[str], seconds: float) -> str:
    """Try one exercise of one hand-in: "passed", "failed: hint" or "not attempted"; never raises for what was handed in."""
    if path is None:
        return "not attempted"
    try:
        code = answer(path, exercise.number)
    except Exception as error:  # no notebook, or no Python
        return f"failed: {type(error).__name__} in {path.name}: {str(error).splitlines()[0]}"
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
            return verdict.read_text("utf-8").replace("\n", " ")
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
    """Write a table, student × exercise, as CSV."""
    students = handed_in(folder, [Path(name).stem for name in notebooks])
    course = [
        (Path(name).stem, exercise, reading.imports(content.cells))
        for name, content in notebooks.items()
        for exercise in reading.exercises(content.cells)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        marks = {
            student: [pool.submit(mark, files.get(stem), exercise, imports, seconds) for stem, exercise, imports in course]
            for student, files in students.items()
        }
    head = [f"{stem[:2]}.{exercise.number} {exercise.function}" for stem, exercise, _ in course]
    table = csv.writer(content := io.StringIO())
    table.writerow(["student", *head, "points"])
    for student, results in marks.items():
        texts = [result.result() for result in results]
        points = sum(POINTS[e.difficulty] for text, (_, e, _) in zip(texts, course, strict=True) if text == "passed")
        table.writerow([student, *texts, points])
    write(target, content.getvalue())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "handout", help="folder (default: build/handout)")
    parser.add_argument("--mark", type=Path, metavar="FOLDER", help="mark the notebooks in this folder")
    parser.add_argument("--seconds", type=float, default=20, help="that one exercise may take (default: 20)")
    options = parser.parse_args(arguments)
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in badges.notebook_paths()}
    if options.mark is None:
        hand_out(notebooks, options.output)
        print(f"{options.output / 'student'} is for the students, {options.output / 'marking.md'} is not.")
    elif options.mark.is_dir():
        mark_all(options.mark, notebooks, options.output / "marks.csv", options.seconds)
        print(options.output / "marks.csv")
    else:
        parser.error(f"{options.mark} is no folder")
    return 0


if __name__ == "__main__":
    sys.exit(main())
