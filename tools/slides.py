"""Turn the notebooks into slides: one HTML file each in build/slides, made by nbconvert, that needs no network.

    python tools/slides.py
    python tools/slides.py --path 45          one deck of the sections that docs/teaching.md names for 45 minutes; or 90
    python tools/slides.py notebooks/00_quickstart.ipynb --output somewhere
    python tools/slides.py --check    and say what a browser makes of each deck; needs Chromium or Chrome

Open a file in a browser; S shows the speaker notes, which hold the prose. Put ?print-pdf after the address to print it. The
first run fetches reveal.js and MathJax with npm; to project elsewhere, copy the whole folder, since they lie beside the decks.
"""

import argparse
import base64
import html
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from itertools import pairwise
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "npm"
# Package of npm, with its version -> what a deck needs of it. Other themes of reveal.js ask a network for their fonts.
# MathJax draws formulas with SVG here, so it needs no fonts.
REVEAL, MATHJAX, FORMULAS = "reveal.js-5.2.1", "mathjax-3.2.2", "es5/tex-svg-full.js"
THEME = ("dist/reveal.css", "dist/reveal.js", "dist/theme/white.css", "dist/theme/fonts/source-sans-pro/")
LIBRARIES = {REVEAL: (*THEME, "plugin/notes/notes.js", "LICENSE"), MATHJAX: (FORMULAS, "LICENSE")}
PAGE = Path(__file__).with_name("slides.html.j2")
WIDTH, HEIGHT = 1280, 720  # 16 : 9, as most projectors are
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OFFLINE = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
OFFLINE += ["--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"]
OFFLINE += ["--run-all-compositor-stages-before-draw", "--virtual-time-budget=30000", "--dump-dom"]
PATHS = {45: (1,), 90: (1, 3)}  # minutes of a lecture -> the columns of the table in docs/teaching.md that name its sections
FIGURE = re.compile(r"\*\*Figure\.\*\* (.+)", re.DOTALL)
BADGE = re.compile(r"\[!\[.*?\]\(.*?\)\]\(.*?\)\s*")  # a picture of a network's
HEADING = re.compile(r"(#{1,3}) (.+)")


def describe_figures(content: nbformat.NotebookNode) -> None:
    """Make each figure's caption, in the cell under it, its alternative text: nbconvert's slides have no field for one."""
    for cell, after in pairwise(content.cells):
        caption = FIGURE.match(after.source) if after.cell_type == "markdown" else None
        for output in cell.get("outputs", []) if caption else []:
            png = output.get("data", {}).pop("image/png", None)
            if png is not None:
                alt = html.escape(" ".join(caption[1].split()))
                output.data["text/html"] = f'<img alt="{alt}" src="data:image/png;base64,{png.strip()}">'


def heading_of(cell: nbformat.NotebookNode) -> re.Match | None:
    return HEADING.match(cell.source) if cell.cell_type == "markdown" else None


def kind_of(cell: nbformat.NotebookNode) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def add_titles(content: nbformat.NotebookNode) -> None:
    """Give each slide without a heading that of its section, in place, and leave badges out."""
    cells, title = [], ""
    for cell in content.cells:
        cell.source = BADGE.sub("", cell.source)
        if heading := heading_of(cell):
            title = re.sub("Predict first: (.)", lambda match: match[1].upper(), heading[2])  # an answer stands under it, too
        elif title and kind_of(cell) in ("slide", "subslide"):
            cells.append(nbformat.v4.new_markdown_cell(f"## {title}", metadata={"slideshow": {"slide_type": kind_of(cell)}}))
            cell.metadata["slideshow"] = {"slide_type": "-"}
        cells.append(cell)
    content.cells = cells


def sections(minutes: int, root: Path = ROOT) -> dict[str, list[str]]:
    """The sections of a lecture, by the table in docs/teaching.md: number of the notebook -> headings, in their order."""
    table = (root / "docs" / "teaching.md").read_text("utf-8").split("A question")[0]
    rows = re.findall(r"^\| (\d\d) \|(.*)\|$", table, re.MULTILINE)
    cells = {number: [number, *row.split("|")] for number, row in rows}
    return {number: re.findall("“(.+?)”", "".join(row[column] for column in PATHS[minutes])) for number, row in cells.items()}


def lecture(minutes: int, root: Path = ROOT) -> nbformat.NotebookNode:
    """One notebook of the sections of a lecture: without code, unless its cell is tagged "show-code", and without what no
    audience needs: set-up, checks, widgets, and cells that were skipped for want of data."""
    cells, parts = [], []
    for number, wanted in sections(minutes, root).items():
        (path,) = (root / "notebooks").glob(f"{number}_*.ipynb")
        content = nbformat.read(path, as_version=4)
        describe_figures(content)
        part = content.cells[0].source.splitlines()[0].removeprefix("# ")
        parts.append(f"- {part}")
        inside, chosen = False, []
        for cell in content.cells:
            heading = heading_of(cell)
            if heading and (len(heading[1]) < 3 or heading[2] in wanted):
                inside = heading[2] in wanted
            if inside and shown(cell):
                if cell.cell_type == "code" and not has_code(cell):
                    cell.source = ""  # its output alone
                chosen.append(cell)
        content.cells = chosen
        fill_slides(content.cells)
        add_titles(content)
        for cell in content.cells:
            if kind_of(cell) == "slide":  # says where in the course it is
                cell.source = f'<p class="part">{html.escape(part)}</p>\n\n{cell.source}'
        cells += content.cells
    first = "\n".join(["# Vision DiffMask: which patches does a ViT need?", "", *parts])
    cells.insert(0, nbformat.v4.new_markdown_cell(first, metadata={"slideshow": {"slide_type": "slide"}}))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return nbformat.v4.new_notebook(cells=cells)


def shown(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell has something to show to an audience."""
    if kind_of(cell) == "skip":
        return False
    if cell.cell_type != "code" or has_code(cell):
        return True
    text = "".join(output.get("text", "") for output in cell.outputs)
    return bool(cell.outputs) and "Skipped: " not in text and "widgets." not in cell.source


def has_code(cell: nbformat.NotebookNode) -> bool:
    return "show-code" in cell.metadata.get("tags", [])


def figure_of(cell: nbformat.NotebookNode) -> bytes:
    """The first bytes of a cell's figure, which hold its size; none, if it shows none."""
    pages = "".join(output.get("data", {}).get("text/html", "") for output in cell.get("outputs", []))
    found = re.search(r"base64,(.{,32})", pages)
    return base64.b64decode(found[1]) if found else b""


def tall(cell: nbformat.NotebookNode) -> int:
    """About how many pixels of a slide a cell takes; the page itself measures, and shrinks what this underestimates."""
    if cell.cell_type == "code":
        text = cell.source + "".join(output.get("text", "") for output in cell.outputs).strip()
        wide, high = struct.unpack_from(">II", figure_of(cell), 16) if figure_of(cell) else (1, 0)
        return min(WIDTH * high // wide, 400 if wide > 2 * high else 500) + 30 * len(text.splitlines())
    lines = re.sub(r"\n(?![\n|\d-])", " ", cell.source).splitlines()  # a paragraph is a line now, as an item of a list is
    return sum(130 if "$$" in line else 40 * -(-len(line) // 90) + 12 * (not line) for line in lines)


def fill_slides(cells: list[nbformat.NotebookNode]) -> None:
    """Say where each slide starts, in place. A section starts one; within it a slide takes what fits, with one figure at most.
    What follows a question stands on the next slide, so that nobody reads the answer first."""
    room, figure, question = 0, False, False
    for cell in cells:
        if kind_of(cell) == "notes":
            continue
        heading, numbers = heading_of(cell), cell.cell_type == "code" and not figure_of(cell) and not cell.source
        new = question or (figure and figure_of(cell)) or (heading and len(heading[1]) < 3)
        new = new or tall(cell) > room + 120 * numbers  # better a smaller text than numbers away from what they are about
        cell.metadata["slideshow"] = {"slide_type": "slide" if new else "-"}
        room = (HEIGHT - (60 if heading else 110) if new else room) - tall(cell)  # 110: the course's part, and a title
        figure = figure_of(cell) or (not new and figure)
        question = "Predict first" in cell.source


def libraries(folder: Path) -> None:
    """Put reveal.js and MathJax beside the decks. npm fetches each of them once."""
    for name, parts in LIBRARIES.items():
        archive, npm = CACHE / f"{name}.tgz", shutil.which("npm")
        if not archive.exists() and npm:
            CACHE.mkdir(parents=True, exist_ok=True)
            subprocess.run([npm, "pack", "--silent", name.replace("-", "@"), "--pack-destination", CACHE], stdout=sys.stderr)
        if not archive.exists():
            raise SystemExit(f"A deck needs {archive}: install npm, and run this once with a network.")
        with tarfile.open(archive) as packed:
            for member in packed:
                path = member.name.removeprefix("package/")
                if member.isfile() and path.startswith(parts):
                    target = folder / name / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(packed.extractfile(member).read())


def faults(page: str) -> tuple[int, list[str]]:
    """How many slides a deck has, by its page in a browser, and what is wrong with them, in words."""
    slides = re.findall(r'<section[^>]* data-size="(\d+)x(\d+)" data-name="([^"]*)"', page)
    if not slides or not re.search(r'<div class="reveal[^"]* ready', page):
        raise RuntimeError("the deck did not start")
    found = [f"a formula fails: {html.unescape(error)}" for error in re.findall(r'data-mjx-error="([^"]*)"', page)]
    for number, (wide, high, title) in enumerate(slides, 1):
        found += [] if title else [f"slide {number} has no title"]
        if int(wide) > WIDTH or int(high) > HEIGHT:
            found.append(f"slide {number} is {wide} × {high}, and {WIDTH} × {HEIGHT} fit: {html.unescape(title)}")
    return len(slides), found


def opened(address: str, browser: str) -> str:
    """A page as a browser without a window and without a network shows it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *OFFLINE, f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}"]
        return subprocess.run([*command, address], capture_output=True, timeout=300).stdout.decode("utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="files to convert (default: all of notebooks/)")
    parser.add_argument("--path", type=int, choices=PATHS, help="one deck for a lecture of so many minutes")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "slides", help="folder (default: build/slides)")
    parser.add_argument("--check", action="store_true", help="count slides, name those that are cut off; exit with 1 if any is")
    options = parser.parse_args(arguments)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if options.check and browser is None:
        parser.error(f"--check needs one of {', '.join(BROWSERS)} on the PATH")
    if options.path:
        decks = {f"lecture_{options.path}": lecture(options.path)}
    else:
        paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
        decks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
        for content in decks.values():
            describe_figures(content)
            add_titles(content)
    libraries(options.output)
    exporter = SlidesExporter(raw_template=PAGE.read_text("utf-8"), exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.reveal_url_prefix, exporter.reveal_theme, exporter.mathjax_url = REVEAL, "white", f"{MATHJAX}/{FORMULAS}"
    exporter.reveal_width, exporter.reveal_height = str(WIDTH), str(HEIGHT)
    wrong = 0
    for name, content in decks.items():
        target = options.output / f"{name}.slides.html"
        target.write_text(exporter.from_notebook_node(content)[0], "utf-8")
        print(target)
        if options.check:
            count, found = faults(opened(target.resolve().as_uri(), browser))
            for _ in range(3):  # without a window, Chromium now and then stops before reveal.js has laid out the pages
                printed = opened(f"{target.resolve().as_uri()}?print-pdf", browser)
                if pages := printed.count('class="pdf-page"'):
                    break
            found += [f"printed, {count} slides make {pages} pages"] if pages != count else []
            found += [f"printed, {fault}" for fault in faults(printed)[1] if fault not in found]
            print(f"  {count} slides, {len(found)} faults", *found, sep="\n  ")
            wrong += len(found)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
