"""The upkeep tools, on a small copy of the repository and on a notebook of a few cells."""

import base64
import html
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

import badges
import run_notebooks
import slides

MARKDOWN, CODE = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
PIXEL = base64.b64encode(b"not really a picture").decode()


@pytest.fixture
def fork(tmp_path):
    """A copy of all that badges.py reads, with two short notebooks, under another owner."""
    for name in ("pyproject.toml", "tools/badges.py", "tools/reading.py", *badges.MENTIONS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(badges.ROOT / name, tmp_path / name)
    bootstrap = (badges.ROOT / "tools" / "bootstrap_cell.py").read_text("utf-8").rstrip("\n")
    (tmp_path / "notebooks").mkdir()
    for name, title in (("00_first", "First | steps"), ("01_second", "Second")):
        goal = MARKDOWN("## What you will be able to do\n\n- Count | patches\n  in pictures.\n- Drop them.")
        cells = [MARKDOWN(f"# {title}\n\n7 minutes on a 2-core CPU"), goal, CODE(bootstrap), CODE("1 + 1")]
        stored(tmp_path / "notebooks", *cells, name=name)
    badges.rewrite(tmp_path)  # now it is in step with our own address
    badges.move("someone-else/my.fork", None, tmp_path)
    return tmp_path


def test_fork_is_stale_until_it_is_rewritten_and_a_check_changes_nothing(fork):
    before = {path: path.read_bytes() for path in fork.rglob("*") if path.is_file()}
    notebooks = ["notebooks/00_first.ipynb", "notebooks/01_second.ipynb"]
    assert sorted(badges.rewrite(fork, check=True)) == sorted([*badges.MENTIONS, *notebooks])
    assert before == {path: path.read_bytes() for path in fork.rglob("*") if path.is_file()}
    badges.rewrite(fork)
    assert badges.rewrite(fork) == [], "a second run changes something"

    first, second = (nbformat.read(path, as_version=4) for path in badges.notebook_paths(fork))
    forth = f"{badges.NAVIGATION}\nNext: [Second](01_second.ipynb) →"
    assert [cell.source for cell in first.cells[3:]] == ["1 + 1", forth], "another cell was changed"
    assert second.cells[-1].source == f"{badges.NAVIGATION}\n← Previous: [First | steps](00_first.ipynb)"
    table = (fork / "README.md").read_text("utf-8")
    assert "[Second](notebooks/01_second.ipynb)" in table and "| 7 |" in table
    assert r"First \| steps" in table and r"| count \| patches in pictures |" in table, "a bare bar would open a column"

    path = badges.notebook_paths(fork)[1]
    path.write_text(path.read_text("utf-8").replace("Count | patches", "Colour patches"), "utf-8")
    assert badges.rewrite(fork, check=True) == ["README.md"], "a new goal makes the README stale"


def test_publishing_takes_one_command_and_the_address_can_be_moved_on(fork):
    command = [sys.executable, fork / "tools" / "badges.py", "--repository", "someone-else/my.fork", "--branch", "v1.0"]
    subprocess.run(command, check=True)
    assert badges.home(fork) == ("someone-else/my.fork", "v1.0")
    assert badges.rewrite(fork) == []
    for name in ("pyproject.toml", *badges.MENTIONS, "notebooks/00_first.ipynb", "notebooks/01_second.ipynb"):
        text = (fork / name).read_text("utf-8")
        assert badges.home().repository not in text, f"{name} still names the old repository"
        assert "someone-else/my.fork" in text and (name == "CITATION.cff" or "v1.0" in text)
    for address in (("OWNER/diffmask_lite", "main"), ("OWNER/NAME", "release/1.0"), ("a-b/c.d", "v1.0")):
        badges.move(*address, fork)
        badges.rewrite(fork)
        assert badges.home(fork) == address
        assert f'"https://github.com/{address[0]}", "{address[1]}"' in (fork / "tools/bootstrap_cell.py").read_text("utf-8")


@pytest.mark.parametrize("address", [("my.fork", None), ("https://github.com/a/b", None), (None, "two words"), (None, "")])
def test_address_of_another_form_is_refused(fork, address):
    project = fork / "pyproject.toml"
    before = project.read_bytes()
    with pytest.raises(ValueError, match=r"is not (OWNER/NAME|the name of a branch)"):
        badges.move(*address, fork)
    assert project.read_bytes() == before
    project.write_text(project.read_text("utf-8").replace("https://github.com/", "https://example.org/"), "utf-8")
    with pytest.raises(ValueError, match=r"not https://github\.com/owner/name"):
        badges.rewrite(fork)


def stored(tmp_path, *cells, name="notebook"):
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), path)
    return path


def test_notebook_is_run_in_place_and_to_the_same_bytes(tmp_path):
    source = "from pathlib import Path\nprint(Path.cwd().name, flush=True)\nprint('two')"
    path = stored(tmp_path, MARKDOWN("# Title"), CODE(source), CODE("1 + 1"))
    assert len(run_notebooks.run(path)) == 2
    before = path.read_bytes()
    run_notebooks.run(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["notebook.ipynb"]
    content = nbformat.read(path, as_version=4)
    code = content.cells[1:]
    assert [cell.execution_count for cell in code] == [1, 2]
    assert [output.text for output in code[0].outputs] == [f"{tmp_path.name}\ntwo\n"]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert content.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}


@pytest.mark.parametrize("source", ["1 / 0", "import sys\nprint('careful', file=sys.stderr)"], ids=["raises", "stderr"])
def test_notebook_with_a_fault_is_left_as_it_was(tmp_path, source):
    path = stored(tmp_path, MARKDOWN("# Title"), CODE("1 + 1"), CODE(source))
    before = path.read_bytes()
    with pytest.raises(run_notebooks.Fault, match="cell 2"):
        run_notebooks.run(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("workers", "threads"), [("0", None), ("2", "1")])
def test_the_run_counts_skipped_cells_and_each_notebook_keeps_one_worker(tmp_path, workers, threads):
    for name in ("conftest.py", "pyproject.toml", "tests/nbval_sanitize.cfg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(badges.ROOT / name, tmp_path / name)
    (tmp_path / "notebooks").mkdir()
    for name in "ab":
        end = CODE("print('Skipped: cells', x, os.environ.get('OMP_NUM_THREADS'), '\\nSkipped: the same')")
        stored(tmp_path / "notebooks", CODE("import os; x = 0"), *[CODE("x += 1") for _ in range(4)], end, name=name)
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "OMP_"))}
    command = [sys.executable, "-m", "pytest", "-n", workers, "notebooks"]
    try:
        result = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True, timeout=200)
    except subprocess.TimeoutExpired:  # once, of two kernels that started in the same instant one never answered
        result = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 2 notebook cells skipped for want of data " in result.stdout
    assert "".join(f"{name}.ipynb, Cell 5: Skipped: cells 4 {threads} \n" for name in "ab") in result.stdout


def test_normalise_takes_out_what_differs_from_run_to_run():
    data = {run_notebooks.WIDGET: {"model_id": "random"}, "text/plain": "interactive(…)"}
    cell = CODE("f()", metadata={"execution": {"iopub.status.busy": "now"}, "slideshow": {"slide_type": "skip"}})
    cell.outputs = [nbformat.v4.new_output("display_data", data)]
    content = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    del cell["id"]  # as in notebooks of an older format
    run_notebooks.normalise(content)
    assert "widgets" not in content.metadata
    assert cell.metadata == {"slideshow": {"slide_type": "skip"}} and cell.id == "cell-0"
    assert cell.outputs[0].data == {"text/plain": "interactive(…)"}


def test_slides_carry_captions_as_alternative_text(tmp_path):
    figure = CODE("show()", metadata={"slideshow": {"slide_type": "slide"}})
    figure.outputs = [nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})]
    caption = MARKDOWN('**Figure.** A "cat",\nits patches bright.', metadata={"slideshow": {"slide_type": "notes"}})
    path = stored(tmp_path, MARKDOWN("# Cat"), figure, caption, name="00_cat")
    assert slides.main([str(path), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "00_cat.slides.html").read_text("utf-8")
    assert "slide.scrollHeight <= 720" in page, "what is too tall must shrink"
    assert page.count("<img") == 1 and PIXEL in page
    assert "its patches bright." in page.split("<img", 1)[1].split(">", 1)[0]
    assert 'class="notes"' in page


@pytest.mark.parametrize("minutes", slides.PATHS)
def test_a_lecture_is_one_deck_of_the_sections_that_teaching_names(minutes):
    named, deck = slides.sections(minutes), slides.lecture(minutes)
    nbformat.validate(deck)
    text = "\n".join(cell.source for cell in deck.cells)
    assert all(f"# {heading}\n" in text + "\n" for headings in named.values() for heading in headings)
    assert "# Recap" not in text and "## Before you start" not in text and "assert " not in text
    assert all("show-code" in cell.metadata.get("tags", []) for cell in deck.cells if cell.cell_type == "code" and cell.source)
    starts = [cell for cell in deck.cells if cell.metadata["slideshow"]["slide_type"] in ("slide", "subslide")]
    assert minutes / 2 < len(starts) < 1.3 * minutes, "about one slide a minute"
    assert set(slides.sections(45)) == set(slides.sections(90)) and len(named) == len(badges.notebook_paths())


def test_slides_that_are_cut_off_are_named():
    sizes = [["0/0", "a <b>", 1280, 720], ["1/0", "tall", 1280, 721], ["1/1", "wide", 1300, 300]]
    page = f'<body><pre id="sizes">{html.escape(json.dumps(sizes), quote=False)}</pre></body>'
    assert [fault.split(" is ")[0] for fault in slides.cut_off(page)] == ["slide 1/0", "slide 1/1"]
    with pytest.raises(RuntimeError, match="--reveal"):
        slides.cut_off("<body></body>")


# What the check asks of reveal.js, for a deck without vertical slides.
REVEAL = """
const all = () => [...document.querySelectorAll(".slides section section")];
window.Reveal = {
    initialize() {}, addEventListener() {}, slide() {},
    getSlides: all, getIndices: (slide) => ({h: all().indexOf(slide)}),
};
"""


@pytest.mark.skipif(not any(map(shutil.which, slides.BROWSERS)), reason="Skipped: no Chromium or Chrome; install one")
def test_browser_measures_slides(tmp_path, capsys):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "reveal.js").write_text(REVEAL)
    kind = {"slideshow": {"slide_type": "slide"}}
    long = MARKDOWN("# Long\n\n" + "A line.\n\n" * 100, metadata=kind)
    path = stored(tmp_path, MARKDOWN("# Short", metadata=kind), long)
    assert slides.main([str(path), "--check", "--output", str(tmp_path), "--reveal", tmp_path.as_uri()]) == 1
    _, *faults = capsys.readouterr().out.splitlines()
    assert len(faults) == 1 and "slide 1/0" in faults[0] and faults[0].endswith("Long")
