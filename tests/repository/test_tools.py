"""The upkeep tools, on a small copy of the repository and on a notebook of a few cells."""

import base64
import html
import json
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
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    badges.rewrite(tmp_path)  # now it is in step with our own address
    badges.move("someone-else/my.fork", None, tmp_path)
    return tmp_path


def test_fork_is_stale_until_it_is_rewritten(fork):
    notebooks = ["notebooks/00_first.ipynb", "notebooks/01_second.ipynb"]
    assert sorted(badges.rewrite(fork, check=True)) == sorted([*badges.MENTIONS, *notebooks])
    badges.rewrite(fork)
    assert badges.rewrite(fork) == [], "a second run changes something"


def test_publishing_takes_one_command(fork):
    command = [sys.executable, fork / "tools" / "badges.py", "--repository", "someone-else/my.fork", "--branch", "v1.0"]
    subprocess.run(command, check=True)
    assert badges.home(fork) == ("someone-else/my.fork", "v1.0")
    assert badges.rewrite(fork) == []
    files = ["pyproject.toml", *badges.MENTIONS, "notebooks/00_first.ipynb", "notebooks/01_second.ipynb"]
    for name in files:
        text = (fork / name).read_text("utf-8")
        assert badges.home().repository not in text, f"{name} still names the old repository"
        assert "someone-else/my.fork" in text
        assert name in {"CITATION.cff"} or "v1.0" in text


@pytest.mark.parametrize("address", [("my.fork", None), ("https://github.com/a/b", None), (None, "two words"), (None, "")])
def test_address_of_another_form_is_refused(fork, address):
    before = (fork / "pyproject.toml").read_bytes()
    with pytest.raises(ValueError, match=r"is not (OWNER/NAME|the name of a branch)"):
        badges.move(*address, fork)
    assert (fork / "pyproject.toml").read_bytes() == before


def test_placeholder_can_be_moved_to_and_from(fork):
    for address in (("OWNER/diffmask_lite", "main"), ("OWNER/NAME", "release/1.0"), ("a-b/c.d", "v1.0")):
        badges.move(*address, fork)
        badges.rewrite(fork)
        assert badges.home(fork) == address
        assert f'"https://github.com/{address[0]}", "{address[1]}"' in (fork / "tools/bootstrap_cell.py").read_text("utf-8")


def test_new_goal_makes_the_readme_stale(fork):
    badges.rewrite(fork)
    path = fork / "notebooks" / "01_second.ipynb"
    path.write_text(path.read_text("utf-8").replace("Count | patches", "Colour patches"), "utf-8")
    assert badges.rewrite(fork, check=True) == ["README.md"]


def test_check_changes_nothing(fork):
    before = {path: path.read_bytes() for path in fork.rglob("*") if path.is_file()}
    assert badges.rewrite(fork, check=True)
    assert before == {path: path.read_bytes() for path in fork.rglob("*") if path.is_file()}


def test_badges_leave_other_cells_alone_and_link_the_neighbours(fork):
    badges.rewrite(fork)
    first, second = (nbformat.read(path, as_version=4) for path in badges.notebook_paths(fork))
    assert [cell.source for cell in first.cells[3:]] == [
        "1 + 1",
        f"{badges.NAVIGATION}\nNext: [Second](01_second.ipynb) →",
    ]
    assert second.cells[-1].source == f"{badges.NAVIGATION}\n← Previous: [First | steps](00_first.ipynb)"
    table = (fork / "README.md").read_text("utf-8")
    assert "[Second](notebooks/01_second.ipynb)" in table and "| 7 |" in table
    assert r"First \| steps" in table and r"| count \| patches in pictures |" in table, "a bare bar would open a column"


def test_address_that_is_no_repository_is_refused(fork):
    project = fork / "pyproject.toml"
    project.write_text(project.read_text("utf-8").replace("https://github.com/", "https://example.org/"), "utf-8")
    with pytest.raises(ValueError, match=r"not https://github\.com/owner/name"):
        badges.rewrite(fork)


def stored(tmp_path, *sources):
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[MARKDOWN("# Title"), *map(CODE, sources)]), path)
    return path


def test_notebook_is_run_in_place_and_to_the_same_bytes(tmp_path):
    path = stored(tmp_path, "from pathlib import Path\nprint(Path.cwd().name, flush=True)\nprint('two')", "1 + 1")
    assert len(run_notebooks.run(path)) == 2
    before = path.read_bytes()
    run_notebooks.run(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["notebook.ipynb"]
    content = nbformat.read(path, as_version=4)
    code = content.cells[1:]
    assert [cell.execution_count for cell in code] == [1, 2]
    assert [output.text for output in code[0].outputs] == [f"{tmp_path.name}\ntwo\n"]
    assert content.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


@pytest.mark.parametrize("source", ["1 / 0", "import sys\nprint('careful', file=sys.stderr)"], ids=["raises", "stderr"])
def test_notebook_with_a_fault_is_left_as_it_was(tmp_path, source):
    path = stored(tmp_path, "1 + 1", source)
    before = path.read_bytes()
    with pytest.raises(run_notebooks.Fault, match="cell 2"):
        run_notebooks.run(path)
    assert path.read_bytes() == before


def test_normalise_takes_out_what_differs_from_run_to_run():
    data = {run_notebooks.WIDGET: {"model_id": "random"}, "text/plain": "interactive(…)"}
    cell = CODE("f()", metadata={"execution": {"iopub.status.busy": "now"}, "slideshow": {"slide_type": "skip"}})
    cell.outputs = [nbformat.v4.new_output("display_data", data)]
    content = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    del cell["id"]  # as in notebooks of an older format
    run_notebooks.normalise(content)
    assert "widgets" not in content.metadata
    assert cell.metadata == {"slideshow": {"slide_type": "skip"}}
    assert cell.id == "cell-0"
    assert cell.outputs[0].data == {"text/plain": "interactive(…)"}


def test_slides_carry_captions_as_alternative_text(tmp_path):
    figure = CODE("show()", metadata={"slideshow": {"slide_type": "slide"}})
    figure.outputs = [nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})]
    notes = {"slideshow": {"slide_type": "notes"}}
    caption = MARKDOWN('**Figure.** A "cat",\nits patches bright.', metadata=notes)
    path = tmp_path / "00_cat.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[MARKDOWN("# Cat"), figure, caption]), path)
    assert slides.main([str(path), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "00_cat.slides.html").read_text("utf-8")
    assert "slide.scrollHeight <= 720" in page, "what is too tall must shrink"
    assert page.count("<img") == 1 and PIXEL in page
    assert "its patches bright." in page.split("<img", 1)[1].split(">", 1)[0]
    assert 'class="notes"' in page


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
    cells = [MARKDOWN("# Short", metadata=kind), MARKDOWN("# Long\n\n" + "A line.\n\n" * 100, metadata=kind)]
    path = tmp_path / "00_two.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert slides.main([str(path), "--check", "--output", str(tmp_path), "--reveal", tmp_path.as_uri()]) == 1
    _, *faults = capsys.readouterr().out.splitlines()
    assert len(faults) == 1 and "slide 1/0" in faults[0] and faults[0].endswith("Long")
