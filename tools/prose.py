"""Print sentences that are long or turned round, in the notebooks' Markdown, README and docs: a help for writers, not a test.

python tools/prose.py
python tools/prose.py notebooks/00_quickstart.ipynb README.md
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
LONG = 25  # words
TURNED = re.compile(
    r"\b(?:New|Kept|Gone|Left|Drawn|Printed) (?:is|are)\b|\bhangs? on\b|\bof which\b|\bWhat of\b|\bowes? nothing\b"
)
NO_PROSE = re.compile(r"```.*?```|<[^>]*>|\$\$.*?\$\$|^\|.*?$|^#+ .*?$|\]\([^)]*\)", re.DOTALL | re.MULTILINE)


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, Markdown) of a file: each Markdown cell of a notebook, or the whole text."""
    if path.suffix == ".ipynb":
        for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "markdown" and not cell.source.startswith("<!--"):  # nor the links at the end
                yield f"{path.name}[{index}]", cell.source
    else:
        yield path.name, path.read_text("utf-8")


def sentences(text: str) -> list[str]:
    """The sentences of Markdown, without code, tables, headings, formulas of their own line, and addresses."""
    paragraphs = re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", NO_PROSE.sub(" ", text))
    return [s.strip() for p in paragraphs for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z“*`(])", " ".join(p.split())) if s.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="default: all notebooks, README and docs")
    files = parser.parse_args().files
    files = files or [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for path in files:
        for place, text in texts(path):
            for sentence in sentences(text):
                count = len(sentence.split())
                if count > LONG:
                    print(f"{place}: {count} words: {sentence}")
                elif TURNED.search(sentence):
                    print(f"{place}: turned round: {sentence}")


if __name__ == "__main__":
    main()
