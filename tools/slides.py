"""Turn the notebooks into slides: one HTML file each in build/slides, made by nbconvert.

    python tools/slides.py
    python tools/slides.py --path 45          one deck of the sections that docs/teaching.md names for 45 minutes; or 90
    python tools/slides.py notebooks/00_quickstart.ipynb --output somewhere
    python tools/slides.py --check    and say which slides hold more than fits; needs Chromium or Chrome

Open a file in a browser; S shows the speaker notes, which hold the prose. The slides load reveal.js from its public
address, so projecting them needs a network, or a local copy of reveal.js named with --reveal. Without a network the check
measures formulas as they are written.
"""

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

ROOT = Path(__file__).resolve().parents[1]
REVEAL = "https://unpkg.com/reveal.js@4.0.2"
SIZE = {"reveal_width": "1280", "reveal_height": "720"}  # 16 : 9, as most projectors are
# A slide has no scroll bar that an audience could use: long lines wrap, a figure is never taller than its slide, and what is
# still too tall shrinks in steps of a twentieth, to 60 % at the least, below which nobody could read it from the back row.
STYLE = """<style>
.reveal .jp-Cell-inputArea pre, .reveal .jp-OutputArea-output pre { white-space: pre-wrap; }
.reveal .jp-OutputArea-output img { max-height: 520px; width: auto; }
</style>
<script>
for (const change of ["ready", "slidechanged"]) {
    document.addEventListener(change, ({currentSlide: slide}) => {
        for (let twentieths = 20; twentieths >= 12; twentieths--) {
            for (const part of slide.children) part.style.zoom = twentieths / 20;
            if (slide.scrollHeight <= HEIGHT) break;
        }
    });
}
</script>
""".replace("HEIGHT", SIZE["reveal_height"])
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Put in before the deck starts: reveal.js without require.js, and, once all pictures are there, the size of every slide.
MEASURE = """<script>window.define = undefined</script><script src="%s/dist/reveal.js"></script><script>
window.require = (_options, _names, start) => { start(Reveal, {id: "notes"}); };
window.addEventListener("load", () => {
    const sizes = Reveal.getSlides().map((slide) => {
        const place = Reveal.getIndices(slide);
        Reveal.slide(place.h, place.v);
        const name = (slide.innerText.trim() || "a picture").split("\\n")[0].slice(0, 60);
        return [`${place.h}/${place.v || 0}`, name, slide.scrollWidth, slide.scrollHeight];
    });
    const found = document.createElement("pre");
    found.id = "sizes";
    found.textContent = JSON.stringify(sizes);
    document.body.append(found);
});
</script>
"""
PATHS = {45: (1,), 90: (1, 3)}  # minutes of a lecture -> the columns of the table in docs/teaching.md that name its sections
FIGURE = re.compile(r"\*\*Figure\.\*\* (.+)", re.DOTALL)


def captions(content: nbformat.NotebookNode) -> dict[int, str]:
    """The text form of each figure: {index of the code cell: what the caption cell under it says}."""
    found = {}
    for index, (cell, after) in enumerate(zip(content.cells, content.cells[1:], strict=False)):
        match = FIGURE.match(after.source) if after.cell_type == "markdown" else None
        if cell.cell_type == "code" and match:
            found[index] = " ".join(match[1].split())
    return found


def describe_figures(content: nbformat.NotebookNode) -> None:
    """Make each figure's caption its alternative text, in place: nbconvert's slides have no field for one."""
    for index, caption in captions(content).items():
        alt = html.escape(caption)
        for output in content.cells[index].outputs:
            png = output.get("data", {}).pop("image/png", None)
            if png is not None:
                output.data["text/html"] = f'<img alt="{alt}" src="data:image/png;base64,{png.strip()}">'


def sections(minutes: int, root: Path = ROOT) -> dict[str, list[str]]:
    """The sections of a lecture, by the table in docs/teaching.md: number of the notebook -> headings, in their order."""
    table = (root / "docs" / "teaching.md").read_text("utf-8").split("A question")[0]
    rows = re.findall(r"^\| (\d\d) \|(.*)\|$", table, re.MULTILINE)
    cells = {number: [number, *row.split("|")] for number, row in rows}
    return {number: re.findall("“(.+?)”", "".join(row[column] for column in PATHS[minutes])) for number, row in cells.items()}


def lecture(minutes: int, root: Path = ROOT) -> nbformat.NotebookNode:
    """One notebook of the sections of a lecture: without code, unless its cell is tagged "show-code", and without what no
    audience needs: set-up, checks, widgets, and cells that were skipped for want of data."""
    cells = []
    for number, wanted in sections(minutes, root).items():
        (path,) = (root / "notebooks").glob(f"{number}_*.ipynb")
        content = nbformat.read(path, as_version=4)
        describe_figures(content)
        title = content.cells[0].source.splitlines()[0]
        cells.append(nbformat.v4.new_markdown_cell(title, metadata={"slideshow": {"slide_type": "slide"}}))
        inside = False
        for cell in content.cells:
            heading = re.match(r"(#{1,3}) (.+)", cell.source) if cell.cell_type == "markdown" else None
            if heading and (len(heading[1]) < 3 or heading[2] in wanted):
                inside = heading[2] in wanted
            if inside and shown(cell):
                if cell.cell_type == "code" and "show-code" not in cell.metadata.get("tags", []):
                    cell.source = ""  # its output alone
                if cell.cell_type == "code" and not any("text/html" in output.get("data", {}) for output in cell.outputs):
                    cell.metadata["slideshow"] = {"slide_type": "fragment"}  # numbers come under what they are about
                cells.append(cell)
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return nbformat.v4.new_notebook(cells=cells)


def shown(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell has something to show to an audience."""
    if cell.metadata.get("slideshow", {}).get("slide_type") == "skip":
        return False
    if cell.cell_type != "code":
        return True
    text = "".join(output.get("text", "") for output in cell.outputs)
    return bool(cell.outputs) and "Skipped: " not in text and "widgets." not in cell.source


def cut_off(page: str) -> list[str]:
    """The slides of a measured page (see MEASURE) that hold more than fits on them, in words."""
    found = re.search(r'<pre id="sizes">(.*?)</pre>', page, re.DOTALL)
    if not found:
        raise RuntimeError("the deck did not start: name a local copy of reveal.js with --reveal")
    width, height = int(SIZE["reveal_width"]), int(SIZE["reveal_height"])
    return [
        f"slide {place} is {wide} × {tall}, and {width} × {height} fit: {name}"
        for place, name, wide, tall in json.loads(html.unescape(found[1]))
        if wide > width or tall > height
    ]


def check(deck: Path, reveal: str, browser: str) -> list[str]:
    """The slides of a deck that are cut off when it is shown in a browser without a window."""
    start, require, rest = deck.read_text("utf-8").rpartition("<script>\nrequire(")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "deck.html")
        page.write_text(start + MEASURE % reveal + require + rest, "utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
        command += [f"--user-data-dir={folder}/profile", "--window-size=1280,720", "--virtual-time-budget=20000"]
        shown = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, timeout=300)
    return cut_off(shown.stdout.decode("utf-8"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="files to convert (default: all of notebooks/)")
    parser.add_argument("--path", type=int, choices=PATHS, help="one deck for a lecture of so many minutes")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "slides", help="folder (default: build/slides)")
    parser.add_argument("--reveal", default=REVEAL, help="address of reveal.js (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="say which slides are cut off; exit with 1 if any is")
    options = parser.parse_args(arguments)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if options.check and browser is None:
        parser.error(f"--check needs one of {', '.join(BROWSERS)} on the PATH")
    faults = 0
    exporter = SlidesExporter(exclude_input_prompt=True, exclude_output_prompt=True, **SIZE, reveal_url_prefix=options.reveal)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.path:
        decks = {f"lecture_{options.path}": lecture(options.path)}
    else:
        paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
        decks = {path.stem: nbformat.read(path, as_version=4) for path in paths}
    for name, content in decks.items():
        describe_figures(content)
        slides, _ = exporter.from_notebook_node(content)
        target = options.output / f"{name}.slides.html"
        target.write_text(slides.replace("</head>", STYLE + "</head>", 1), "utf-8")
        print(target)
        for fault in check(target, options.reveal, browser) if options.check else []:
            faults += 1
            print(f"  {fault}")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
