"""Turn the notebooks into slides: one HTML file each in build/slides, made by nbconvert.

    python tools/slides.py
    python tools/slides.py notebooks/00_quickstart.ipynb --output somewhere

Open a file in a browser; S shows the speaker notes, which hold the prose. The slides load reveal.js from its public
address, so projecting them needs a network, or a local copy of reveal.js named with --reveal.
"""

import argparse
import html
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

ROOT = Path(__file__).resolve().parents[1]
SIZE = {"reveal_width": "1280", "reveal_height": "720"}  # 16 : 9, as most projectors are
# A slide has no scroll bar that an audience could use: long lines wrap, and a figure is never taller than its slide.
STYLE = """<style>
.reveal .jp-Cell-inputArea pre, .reveal .jp-OutputArea-output pre { white-space: pre-wrap; }
.reveal .jp-OutputArea-output img { max-height: 520px; width: auto; }
</style>
"""
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="files to convert (default: all of notebooks/)")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "slides", help="folder (default: build/slides)")
    parser.add_argument("--reveal", help="address of a local copy of reveal.js (default: nbconvert's)")
    options = parser.parse_args(arguments)
    reveal = {"reveal_url_prefix": options.reveal} if options.reveal else {}
    exporter = SlidesExporter(exclude_input_prompt=True, exclude_output_prompt=True, **SIZE, **reveal)
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        content = nbformat.read(path, as_version=4)
        describe_figures(content)
        slides, _ = exporter.from_notebook_node(content)
        target = options.output / f"{path.stem}.slides.html"
        target.write_text(slides.replace("</head>", STYLE + "</head>", 1), "utf-8")
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
