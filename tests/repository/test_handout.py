"""The student version, the marking sheet, the marking of all kinds of hand-ins, and the plans for a lab."""

import ast
import csv
import re
import sys

import nbformat
import pandas as pd
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

    assert code(handout.student_version(content, clear_outputs=False)) == code(content), "a code cell or its output changed"
    assert not any(cell.outputs or cell.execution_count for cell in code(student))
    bare = [cell | {"outputs": [], "execution_count": None} for cell in code(content)]
    assert code(student) == bare, "more than outputs and counts of a code cell changed, say the fold of a check"
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
    stored = {path.name: nbformat.read(path, as_version=4) for path in (tmp_path / "student").iterdir()}
    assert not any(cell.outputs for content in stored.values() for cell in code(content)), "no outputs by default"
    sheet, points = (tmp_path / "marking.md").read_text("utf-8"), 0
    assert sheet.startswith("# Marking sheet")
    for name, content in NOTEBOOKS.items():
        for exercise in reading.exercises(content.cells):
            points += {"easy": 1, "medium": 2, "hard": 3}[exercise.difficulty]
            row = f"| {name[:2]} | {exercise.number} | {exercise.title} | {exercise.difficulty} | {exercise.minutes} |"
            assert exercise.title and row in sheet and exercise.solution in sheet
        assert all(summary in sheet and answer.strip() in sheet for summary, answer in quiz(content))
    assert f"together {points}." in sheet


def test_a_switch_keeps_the_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(badges, "notebook_paths", lambda: PATHS[:1])
    for switch, kept in (("--clear-outputs", False), ("--no-clear-outputs", True)):
        assert handout.main(["--output", str(tmp_path), switch]) == 0
        student = nbformat.read(tmp_path / "student" / FIRST, as_version=4)
        assert any(cell.outputs for cell in code(student)) is kept


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
    with (tmp_path / "marks.csv").open(encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["student", f"00.1 {one.function}", f"00.2 {two.function}", "points", "possible"]
    marks = {row[0]: row[1:] for row in rows}
    assert list(marks) == ["anna", "bert", "cora", "dora", "evan", "fay", "class: passed", "class: mean points"]
    worth = str(handout.POINTS[one.difficulty] + handout.POINTS[two.difficulty])
    assert marks["anna"] == ["passed", "passed", worth, worth]
    assert "still running after 5 s" in marks["bert"][0] and "ended Python (exit status 0)" in marks["bert"][1]
    assert "SyntaxError" in marks["cora"][0]
    assert marks["cora"][1].startswith("failed: ") and "KeyError" not in marks["cora"][1]
    assert marks["dora"][0] == "not attempted" and "KeyboardInterrupt" in marks["dora"][1]
    assert all(text.startswith("unreadable: ") and FIRST in text for text in marks["evan"][:2])
    assert marks["fay"][0].startswith("failed: ") and marks["fay"][1] == "not attempted"
    assert "MemoryError" in marks["fay"][0] or sys.platform != "linux"
    assert all(marks[name][2:] == ["0", worth] for name in ("bert", "cora", "dora", "evan", "fay"))
    assert marks["class: passed"][:2] == ["1", "1"]


def table(folder, monkeypatch, verdict) -> pd.DataFrame:
    """The table of a folder as pandas reads it; `verdict(path, exercise)` stands in for the trial."""
    monkeypatch.setattr(handout, "mark", lambda path, exercise, *_: verdict(path, exercise))
    handout.mark_all(folder, {FIRST: NOTEBOOKS[FIRST]}, folder / "marks.csv", seconds=5)
    return pd.read_csv(folder / "marks.csv", index_col="student")


def test_totals_of_students_and_class(tmp_path, monkeypatch):
    right = {"anna": (1, 2), "bert": (2,), "Jürgen": ()}
    for student in right:
        hand_in(tmp_path / student / FIRST)
    (tmp_path / "zoe").mkdir()  # who handed in nothing still counts
    found = table(
        tmp_path,
        monkeypatch,
        lambda path, exercise: "passed" if path and exercise.number in right[path.parent.name] else "failed: passed",
    )
    assert [exercise.difficulty for exercise in EXERCISES] == ["easy", "medium"], "1 and 2 points, on which what follows rests"
    assert found.loc[["anna", "bert", "Jürgen", "zoe"], "points"].tolist() == [3, 2, 0, 0]
    assert found.drop("class: passed")["possible"].eq(3).all()
    first, second = found.columns[:2]
    assert found.loc["class: passed", [first, second]].astype(int).tolist() == [1, 2]
    assert found.loc["class: mean points", [first, second, "points"]].astype(float).tolist() == [0.25, 1, 1.25]
    assert list(found.index[-2:]) == ["class: passed", "class: mean points"] and len(found) == 6


def test_table_opens_in_a_spreadsheet(tmp_path, monkeypatch):
    hand_in(tmp_path / "=1+1" / FIRST)
    found = table(tmp_path, monkeypatch, lambda *_: 'failed: two\r\nlines, "quoted" \0 ' + "x" * 40_000)
    assert (tmp_path / "marks.csv").read_bytes().startswith("\ufeffstudent,".encode()), "Excel takes it for another encoding"
    assert found.index[0] == "'=1+1"
    text = found.iloc[0, 0]
    assert text.startswith('failed: two lines, "quoted" x') and len(text) <= 300


def test_an_empty_class_has_a_table(tmp_path, monkeypatch):
    assert table(tmp_path, monkeypatch, lambda *_: "passed").loc["class: mean points", "points"] == 0


def told(path) -> list[str]:
    """What is said of both exercises of a hand-in that needs no trial."""
    return [handout.mark(path, exercise, [], handout.sources(NOTEBOOKS[FIRST]), 5) for exercise in EXERCISES]


def test_what_was_not_tried_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(handout.subprocess, "Popen", lambda *_, **__: pytest.fail("an exercise was tried"))
    path = tmp_path / FIRST
    assert told(None) == ["not handed in"] * 2
    hand_in(path)
    assert told(path) == ["not attempted"] * 2, "left as it was"
    content = nbformat.read(path, as_version=4)
    for cell in code(content):
        cell.source = "" if "exercises.check_" in cell.source else cell.source
    nbformat.write(content, path)
    assert told(path) == ["not attempted"] * 2, "emptied"
    content.cells = [cell for cell in content.cells if not cell.source.startswith("### Exercise 1")]
    nbformat.write(content, path)
    assert told(path) == [f"no heading: '### Exercise 1' is not in {FIRST}", "not attempted"]
    for damaged in ("", "no notebook", "[]", '{"cells": [{}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'):
        path.write_text(damaged, "utf-8")
        assert all(text.startswith("unreadable: ") and FIRST in text for text in told(path)), damaged


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_answer_is_found_among_what_a_student_wrote_around_it(name, tmp_path):
    content, answer = handout.student_version(NOTEBOOKS[name]), "def answer():\n    return {}"
    exercises, given = reading.exercises(NOTEBOOKS[name].cells), handout.sources(NOTEBOOKS[name])
    nbformat.write(content, tmp_path / name)
    assert all(handout.cells_of(tmp_path / name, exercise.number, given) == [] for exercise in exercises), "nothing is new"
    for exercise in exercises:
        place = next(n for n, cell in enumerate(content.cells) if cell.source.startswith(f"### Exercise {exercise.number}:"))
        content.cells[place].source = "My name is Anna.\n\n" + content.cells[place].source
        content.cells[place + 1].source = answer.format(exercise.number)
        note = "## My answer\n\n```python\n### Exercise 9\n```"
        content.cells.insert(place + 1, nbformat.v4.new_markdown_cell(note))
    nbformat.write(content, tmp_path / name)
    for exercise in exercises:
        found = handout.cells_of(tmp_path / name, exercise.number, given)
        assert [cell.source for cell in found] == [answer.format(exercise.number)]


def test_who_handed_in_what(tmp_path, capsys):
    files = ("anna/week 1/{}", "bert_{}", "{}_cora.ipynb", ".trash/{}", "__MACOSX/anna/{}", "anna/.ipynb_checkpoints/{}")
    stem = FIRST.removesuffix(".ipynb")
    for file in (*files, "anna/homework.ipynb"):
        path = tmp_path / file.format(stem if file.endswith(".ipynb") else FIRST)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", "utf-8")
    (tmp_path / "dora").mkdir()
    found = handout.handed_in(tmp_path, [stem])
    assert list(found) == ["anna", "bert", "cora", "dora"]
    assert all(list(found[student]) == [stem] for student in ("anna", "bert", "cora")) and found["dora"] == {}
    assert capsys.readouterr().out.split(": ")[-1].strip().replace("\\", "/") == "anna/homework.ipynb"


def test_wrong_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        handout.main(["--mark", str(tmp_path / "nowhere")])
    assert "is no folder" in capsys.readouterr().err


# ---- Plans for a lab ----
TEACHING = (badges.ROOT / "docs" / "teaching.md").read_text("utf-8")
LAB = re.compile(r"^\| (\w+) \| (\d\d) \| (\d): (.+?) \| (\w+) \| (\d+) \|$", re.MULTILINE)
TOTAL = re.compile(r"^\| (\w+) \| together \| \| \| (\d+) \|$", re.MULTILINE)
OFFERED = {
    (name[:2], exercise.number): (exercise.title, exercise.difficulty, exercise.minutes)
    for name, content in NOTEBOOKS.items()
    for exercise in reading.exercises(content.cells)
}


def lab_faults(text: str) -> list[str]:
    """Where the plans for a lab differ from the notebooks, do not add up, or take more than 90 minutes."""
    found, planned = [], {}
    for lab, notebook, number, title, difficulty, minutes in LAB.findall(text):
        planned.setdefault(lab, []).append((notebook, int(number), int(minutes)))
        if OFFERED.get((notebook, int(number))) != (title, difficulty, int(minutes)):
            found.append(f"{lab}: no notebook has {notebook}, exercise {number}: {title}, {difficulty}, {minutes} minutes")
    if set(planned) != {"beginners", "harder"}:
        found.append(f"the labs are {sorted(planned)}")
    together = {lab: int(minutes) for lab, minutes in TOTAL.findall(text)}
    for lab, rows in planned.items():
        total = sum(minutes for *_, minutes in rows)
        if total != together.get(lab):
            found.append(f"{lab}: the exercises take {total} minutes, and the plan says {together.get(lab)}")
        if not 75 <= total <= 90:
            found.append(f"{lab}: {total} minutes do not fill a lab of 90")
        if len(set(rows)) < len(rows):
            found.append(f"{lab}: an exercise comes twice")
    return found


def test_labs_are_made_of_the_notebooks_exercises():
    assert lab_faults(TEACHING) == []
    assert len(LAB.findall(TEACHING)) == len(re.findall(r"^\| (?:beginners|harder) \| \d", TEACHING, re.MULTILINE))
    rows = {lab: [row for row in LAB.findall(TEACHING) if row[0] == lab] for lab in ("beginners", "harder")}
    assert all(row[4] != "hard" for row in rows["beginners"]), "as the page says"
    hard = [place for place, (_, difficulty, _) in OFFERED.items() if difficulty == "hard"]
    assert [(notebook, int(number)) for _, notebook, number, *_ in rows["harder"]] == hard, "the page says: all hard exercises"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (r"\| easy \| 5 \|", "| easy | 6 |", "no notebook has"),
        (r"\| hard \| 15 \|", "| medium | 15 |", "no notebook has"),
        (r"\| 00 \| 1: ", "| 00 | 9: ", "no notebook has"),
        (r"\| 00 \| 1: (.+?) \|", r"| 00 | 1: not \1 |", "no notebook has"),
        (r"(together .*\| )\d+", r"\g<1>90", "the plan says 90"),
        (r"(?m)^\| beginners .*\n", "", "the labs are"),
        (r"((?m:^)\| harder \| \d.*\n)", r"\1\1", "comes twice"),
        (r"((?m:^)\| harder \| \d.*\n)", r"\1\1", "do not fill"),
    ],
)
def test_a_wrong_plan_is_found(old, new, fault):
    wrong = re.sub(old, new, TEACHING)
    assert wrong != TEACHING and any(fault in text for text in lab_faults(wrong))
