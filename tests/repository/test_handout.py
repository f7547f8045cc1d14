"""The student version, the marking sheet, and the marking of good, wrong, broken and endless hand-ins."""

import ast
import csv
import re
import sys

import nbformat
import pytest

import badges
import handout
import reading

PATHS = badges.notebook_paths()
NOTEBOOKS = {path.name: nbformat.read(path, as_version=4) for path in PATHS}
FIRST = PATHS[0].name
EXERCISES = reading.exercises(NOTEBOOKS[FIRST].cells)


BASE = "https://github.com/{}/blob/{}/".format(*badges.home())


def code(content: nbformat.NotebookNode) -> list:
    return [cell for cell in content.cells if cell.cell_type == "code"]


def quiz(content: nbformat.NotebookNode) -> list:
    return reading.FOLDED.findall(reading.section(content.cells, reading.QUIZ, fences=True))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_student_version_holds_no_answer_keeps_all_else_and_its_links_resolve(name):
    content, before = NOTEBOOKS[name], nbformat.writes(NOTEBOOKS[name])
    student = handout.student_version(content)
    assert nbformat.writes(content) == before, "the notebook itself was changed"
    nbformat.validate(student)
    text, exercises = "\n".join(cell.source for cell in student.cells), reading.exercises(content.cells)
    for exercise in exercises:
        assert any(exercise.stub in ast.unparse(ast.parse(reading.python(cell))) for cell in code(student))
        assert exercise.solution not in text and exercise.answer not in text
    assert "Solution</summary>" not in text
    for summary, answer in quiz(content):
        assert f"**{summary}**" in text and answer.strip() not in text

    assert code(student) == code(content), "a code cell or its output changed"
    kept = {cell.id: cell for cell in student.cells}
    gone = [cell for cell in content.cells if cell.id not in kept]
    assert all("<summary>Solution</summary>" in cell.source for cell in gone) and len(gone) == len(exercises)
    for cell in content.cells:
        assert cell.id not in kept or kept[cell.id].metadata == cell.metadata, "slides would change"

    assert "colab" not in student.cells[0].source, "the badge opens the version with solutions"
    for target in (target for cell in student.cells for target in re.findall(r"\]\(([^)\s]+)\)", reading.prose(cell))):
        if target.startswith(BASE):
            assert (badges.ROOT / target.removeprefix(BASE).split("#")[0]).exists(), target
        elif not re.match(r"\w+:|#", target):
            assert target.split("#")[0] in NOTEBOOKS, target


def test_only_links_are_made_absolute():
    markdown = "[a](../docs/glossary.md#b) `f[0](x)` [c](01_c.ipynb) [d](https://e.org)\n\n```python\nfs[0](x)\n```"
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown)])
    assert handout.student_version(content).cells[0].source == markdown.replace("../docs", f"{BASE}docs")


def test_command_writes_student_versions_and_a_marking_sheet_that_holds_everything(tmp_path):
    assert handout.main(["--output", str(tmp_path)]) == 0
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == list(NOTEBOOKS)
    sheet, points = (tmp_path / "marking.md").read_text("utf-8"), 0
    assert sheet.startswith("# Marking sheet")
    for name, content in NOTEBOOKS.items():
        for exercise in reading.exercises(content.cells):
            points += {"easy": 1, "medium": 2, "hard": 3}[exercise.difficulty]
            row = f"| {name[:2]} | {exercise.number} | {exercise.title} | {exercise.difficulty} | {exercise.minutes} |"
            assert exercise.title and row in sheet and exercise.solution in sheet
        assert all(summary in sheet and answer.strip() in sheet for summary, answer in quiz(content))
    assert f"together {points}." in sheet


# ---- Marking ----
def hand_in(path, *answers: str) -> None:
    """Store the first notebook with the stub of each exercise replaced by an answer, '' for none."""
    content = handout.student_version(NOTEBOOKS[FIRST])
    for exercise, answer in zip(EXERCISES, answers, strict=False):
        cell = next(cell for cell in code(content) if f"exercises.{exercise.checker}(" in cell.source)
        cell.source = f"{answer}\n\n\nexercises.{exercise.checker}({exercise.function})" if answer else cell.source
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(content, path)


def define(exercise: reading.Exercise, body: str) -> str:
    return f"def {exercise.function}(*_):\n    {body}"


def test_marks(tmp_path):
    one, two = EXERCISES[:2]
    cheat = f"import diffmask_lite.course.exercises as e\ne.{two.checker} = lambda f: e.Verdict('passed')\n"
    tried = f"%time 1\nlater = no_such_name\nfrom math import pi\n{one.solution}\nraise SystemExit"
    hand_in(tmp_path / "anna" / FIRST, tried, two.solution)
    hand_in(tmp_path / "bert" / "week 1" / FIRST, define(one, "while True: pass"), define(two, "import os; os._exit(0)"))
    hand_in(tmp_path / f"cora_{FIRST}", "def broken(:", cheat + define(two, "return None"))
    hand_in(tmp_path / "dora" / FIRST, "", define(two, "raise KeyboardInterrupt"))
    (tmp_path / "evan").mkdir()
    (tmp_path / "evan" / FIRST).write_text("no notebook", "utf-8")
    hand_in(tmp_path / "fay" / FIRST.replace(".", " (1)."), define(one, "return bytearray(2**33)"))
    handout.mark_all(tmp_path, {FIRST: NOTEBOOKS[FIRST]}, tmp_path / "marks.csv", seconds=5)
    with (tmp_path / "marks.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:3] == ["student", f"00.1 {one.function}", f"00.2 {two.function}"] and head[-1] == "points"
    marks = {row[0]: row[1:] for row in rows}
    assert list(marks) == ["anna", "bert", "cora", "dora", "evan", "fay"]
    assert marks["anna"][:2] == ["passed", "passed"]
    assert marks["anna"][-1] == str(handout.POINTS[one.difficulty] + handout.POINTS[two.difficulty])
    assert "still running after 5 s" in marks["bert"][0] and "ended Python (exit status 0)" in marks["bert"][1]
    assert "SyntaxError" in marks["cora"][0]
    assert marks["cora"][1].startswith("failed: ") and "KeyError" not in marks["cora"][1]
    assert marks["dora"][0] == "not attempted" and "KeyboardInterrupt" in marks["dora"][1]
    assert all(text.startswith("failed: ") for text in marks["evan"][:-1])
    assert marks["fay"][0].startswith("failed: ") and marks["fay"][1] == "not attempted"
    assert "MemoryError" in marks["fay"][0] or sys.platform != "linux"
    assert all(row[-1] == "0" for name, row in marks.items() if name != "anna")


def test_wrong_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        handout.main(["--mark", str(tmp_path / "nowhere")])
    assert "is no folder" in capsys.readouterr().err
