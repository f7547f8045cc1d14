"""The upkeep tools, on a small copy of the repository and on a notebook of a few cells."""

import base64
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from itertools import pairwise

import nbformat
import pytest

import badges
import run_notebooks
import slides

MARKDOWN, CODE = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
TIME = "9 minutes on a 2-core CPU: 9 to read and 0 for the exercises. The machine computes for about one minute."
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
        cells = [MARKDOWN(f"# {title}\n\n{TIME}"), goal, CODE(bootstrap), CODE("1 + 1")]
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
    assert "[Second](notebooks/01_second.ipynb)" in table and "| 5 | 0 | 1 |" in table
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


# What a deck asks of reveal.js and MathJax, as packages of npm.
STUBS = {
    "dist/reveal.css": "",
    "dist/theme/white.css": "",
    "dist/theme/sky.css": "@import url(https://example.org/font.css)",
    "plugin/notes/notes.js": "window.RevealNotes = {};",
    "es5/tex-svg-full.js": "MathJax.startup = {promise: Promise.resolve()};",
    "dist/reveal.js": """window.Reveal = {on() {}, initialize() {
        document.querySelector(".reveal").classList.add("ready");
        if (!location.search) return;
        for (const slide of document.querySelectorAll("section section")) {
            slide.insertAdjacentHTML("afterbegin", '<p class="pdf-page"></p>');
        }
    }};""",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """An archive of each package, so that nothing is fetched."""
    monkeypatch.setattr(slides, "CACHE", tmp_path / "npm")
    (tmp_path / "npm").mkdir()
    for name in slides.LIBRARIES:
        with tarfile.open(tmp_path / "npm" / f"{name}.tgz", "w:gz") as archive:
            for path, text in STUBS.items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))


def of_kind(kind, cell):
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def drawn(kind, *, data=PIXEL):
    cell = of_kind(kind, CODE("show()"))
    cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": data, "text/plain": "<Figure>"})]
    return cell


def test_slides_carry_captions_as_alternative_text_and_their_sections_title(tmp_path, packages):
    caption = of_kind("notes", MARKDOWN('**Figure.** A "cat",\nits patches bright.'))
    path = stored(
        tmp_path,
        of_kind("slide", MARKDOWN("# Predict first: a cat\n\n[![Colab](https://a.org/b.svg)](https://a.org)")),
        drawn("slide"),
        caption,
        name="00_cat",
    )
    assert slides.main([str(path), "--output", str(tmp_path)]) == 0
    page = (tmp_path / "00_cat.slides.html").read_text("utf-8")
    assert page.count("<img") == 1 and PIXEL in page
    assert "its patches bright." in page.split("<img", 1)[1].split(">", 1)[0]
    assert 'class="notes"' in page
    assert page.count("<section") == 4 and page.count("<h2") == 1 and ">A cat<" in page.split("<h2", 1)[1]


@pytest.mark.parametrize("minutes", slides.PATHS)
def test_a_lecture_is_one_deck_of_the_sections_that_teaching_names(minutes):
    named, deck = slides.sections(minutes), slides.lecture(minutes)
    nbformat.validate(deck)
    text = "\n".join(cell.source for cell in deck.cells)
    assert all(f"# {heading}\n" in text + "\n" for headings in named.values() for heading in headings)
    assert "# Recap" not in text and "## Before you start" not in text and "assert " not in text
    code = [cell for cell in deck.cells if cell.cell_type == "code" and cell.source]
    assert code and all("show-code" in cell.metadata.get("tags", []) for cell in code)
    assert set(slides.sections(45)) == set(slides.sections(90)) and len(named) == len(badges.notebook_paths())
    table = (slides.ROOT / "docs" / "teaching.md").read_text("utf-8").split("A question")[0]
    rows = [row.split("|") for row in re.findall(r"^\| \d\d \|.*$", table, re.MULTILINE)]
    assert sum(int(row[2 * len(slides.PATHS[minutes]) + 1]) for row in rows) <= minutes

    seen = [cell for cell in deck.cells if slides.kind_of(cell) != "notes"]
    starts = [cell for cell in seen if slides.kind_of(cell) == "slide"]
    assert minutes / 2 < len(starts) <= minutes, "at most one slide a minute"
    assert all(re.search("^#{1,3} ", cell.source, re.MULTILINE) for cell in starts), "a slide without a title"
    asked = [after for cell, after in pairwise(seen) if "**Predict first" in cell.source]
    assert len(asked) > 4 and all(slides.kind_of(cell) == "slide" for cell in asked), "a question beside its answer"


def test_a_lectures_slides_hold_what_belongs_together_and_fits():
    def numbers():
        return CODE("", outputs=[nbformat.v4.new_output("stream", text="1\n2\n")])

    def prose():
        return MARKDOWN("A line of words. " * 60)

    ask, note = MARKDOWN("**Predict first.** How many?"), of_kind("notes", MARKDOWN("Two."))
    cells = [MARKDOWN("## One"), prose(), numbers(), prose(), MARKDOWN("## Two"), ask, numbers(), note]
    slides.fill_slides(cells)
    marks = {"slide": "S", "-": "-", "notes": "n"}
    assert "".join(marks[slides.kind_of(cell)] for cell in cells) == "S--SS-Sn"

    png = base64.b64encode(bytes(16) + struct.pack(">II", 900, 90)).decode()  # a PNG up to its width and height
    first, second, caption = drawn("slide", data=png), drawn("slide", data=png), MARKDOWN("**Figure.** A")
    slides.describe_figures(nbformat.v4.new_notebook(cells=[first, caption, second, MARKDOWN(caption.source)]))
    cells = [MARKDOWN("## One"), first, second]
    slides.fill_slides(cells)
    assert [slides.kind_of(cell) for cell in cells] == ["slide", "-", "slide"], "a figure with its title, and two apart"
    assert slides.tall(first) == 30 + 128, "code is a line, a figure is as wide as its slide"


def test_a_deck_asks_no_network_for_anything(tmp_path, packages):
    assert slides.main(["--path", "45", "--output", str(tmp_path / "deck")]) == 0
    page = (tmp_path / "deck" / "lecture_45.slides.html").read_text("utf-8")
    asking = r"""<(?:script|img)[^>]* src="([^"]{,99})|<link[^>]* href="([^"]*)|@import([^;]*)|url\(([^)]{,99})"""
    loaded = re.findall(asking, page)
    loaded = [address for found in loaded for address in found if address and not address.startswith("data:")]
    assert len(loaded) >= 5 and not [address for address in loaded if not (tmp_path / "deck" / address).is_file()]
    assert "import " not in "".join(re.findall("<script.*?</script>", page, re.DOTALL))
    assert not list((tmp_path / "deck").rglob("sky.css")), "other themes ask a network for fonts"


def test_a_deck_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="install npm"):
        slides.libraries(tmp_path / "deck")


def test_faults_of_a_deck_are_named():
    def page(*slides):
        return '<div class="reveal slide ready">' + "".join(f'<section class="present" data-size="{s}">' for s in slides)

    deck = page('1280x720" data-name="a &lt;b', '1280x721" data-name="tall', '1300x300" data-name="wide', '9x9" data-name="')
    count, found = slides.faults(deck + '<g data-mjx-error="no \\x">')
    assert count == 4 and [fault.split(" ")[1] for fault in found] == ["formula", "2", "3", "4"]
    for broken in ("<body></body>", deck.replace(" ready", "")):
        with pytest.raises(RuntimeError, match="did not start"):
            slides.faults(broken)


@pytest.mark.skipif(not any(map(shutil.which, slides.BROWSERS)), reason="Skipped: no Chromium or Chrome; install one")
def test_browser_measures_slides(tmp_path, packages, capsys):
    long, wide = MARKDOWN("# Long\n\n" + "A line.\n\n" * 100), MARKDOWN("# Shrunk\n\n" + "A line.\n\n" * 12)
    path = stored(tmp_path, *(of_kind("slide", cell) for cell in (MARKDOWN("# Short"), long, wide, MARKDOWN("No title"))))
    content = nbformat.read(path, as_version=4)
    content.cells.insert(0, of_kind("slide", MARKDOWN("Nothing above it")))
    nbformat.write(content, path)
    assert slides.main([str(path), "--check", "--output", str(tmp_path)]) == 1
    _, count, *faults = capsys.readouterr().out.splitlines()
    assert count == "  5 slides, 2 faults"
    assert [fault.split()[1] for fault in faults] == ["1", "3"] and faults[1].endswith("Long")
