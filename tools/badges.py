"""Keep everything that follows from the repository's slug, or from the order of the notebooks, in step.

    python tools/badges.py            rewrite what is out of step
    python tools/badges.py --check    change nothing; exit with 1 if something would change

The slug (owner/name) is read from one place, `[project.urls]` in pyproject.toml: after a fork, edit it there and run
this. Rewritten are, in each notebook, the Colab badge of the first cell, the bootstrap cell (from
tools/bootstrap_cell.py) and the last cell with its previous and next links; the table of notebooks in README.md; the
slug wherever else it is written.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
BRANCH = "main"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
NAVIGATION = "<!-- navigation -->"
TABLE = re.compile(r"(?<=<!-- notebooks:begin -->\n).*?(?=<!-- notebooks:end -->)", re.DOTALL)
MINUTES = re.compile(r"\b(\d+) minutes? on a 2-core CPU\b")

# The other files that name the repository. Each pattern matches a slug in its context, and the slug alone.
SLUG = r"[\w-]+/[\w.-]*[\w-]"  # does not take in the full stop of a sentence
MENTIONS = {
    "README.md": rf"(?:(?<=git clone https://github.com/)|(?<=git\+https://github.com/)){SLUG}",
    "CITATION.cff": rf'(?<=repository-code: "https://github.com/){SLUG}',
    "tools/bootstrap_cell.py": rf'(?<=repository = "https://github.com/){SLUG}',
}


def slug(root: Path = ROOT) -> str:
    """The repository as owner/name, from pyproject.toml."""
    url = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
    match = re.fullmatch(rf"https://github\.com/({SLUG})", url)
    if match is None:
        raise ValueError(f"[project.urls] Repository in pyproject.toml is {url!r}, not https://github.com/owner/name")
    return match[1]


def notebook_paths(root: Path = ROOT) -> list[Path]:
    """The course's notebooks in order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def badge(repository: str, name: str) -> str:
    """The badge, in Markdown, that opens the notebook `name` of a repository (owner/name) in Colab."""
    return f"{BADGE}(https://colab.research.google.com/github/{repository}/blob/{BRANCH}/notebooks/{name})"


def title(first: str) -> str:
    """The title in a first cell."""
    return first.splitlines()[0].removeprefix("# ").strip()


def minutes(first: str) -> str:
    """The minutes that a first cell states, or '?' where it states none (the notebooks' test objects to that)."""
    match = MINUTES.search(first)
    return match[1] if match else "?"


def with_badge(first: str, wanted: str) -> str:
    """A first cell with its badge replaced, or put under the title where there is none."""
    lines = first.splitlines()
    places = [i for i, line in enumerate(lines) if line.startswith("[![Open in Colab]")]
    if places:
        lines[places[0]] = wanted
    else:
        lines[1:1] = ["", wanted]
    return "\n".join(lines)


def navigation(before: tuple[str, str] | None, after: tuple[str, str] | None) -> str:
    """The last cell: links to the notebooks before and after, each given as (file name, title)."""
    links = []
    if before:
        links.append(f"← Previous: [{before[1]}]({before[0]})")
    if after:
        links.append(f"Next: [{after[1]}]({after[0]}) →")
    return f"{NAVIGATION}\n{' · '.join(links) or 'This is the only notebook.'}"


def table(repository: str, firsts: dict[str, str]) -> str:
    """The README's table from the notebooks' first cells, {file name: source}."""
    rows = ["| notebook | in Colab | minutes on a 2-core CPU |", "|---|---|---|"]
    for name, first in firsts.items():
        shown = title(first).replace("|", "\\|")  # a bare bar would open another column
        rows.append(f"| [{shown}](notebooks/{name}) | {badge(repository, name)} | {minutes(first)} |")
    return "\n".join(rows) + "\n"


def rewrite_notebook(content: nbformat.NotebookNode, wanted_badge: str, bootstrap: str, links: str) -> bool:
    """Bring one notebook into step, in place; True if something changed."""
    changed = False

    def put(cell: nbformat.NotebookNode, source: str) -> None:
        nonlocal changed
        changed |= cell.source != source
        cell.source = source

    cells = content.cells
    put(cells[0], with_badge(cells[0].source, wanted_badge))
    code = next((cell for cell in cells if cell.cell_type == "code"), None)
    # Known by its first line, so that a notebook which lacks the cell loses no other one; its test asks for it.
    if code is not None and code.source.splitlines()[:1] == bootstrap.splitlines()[:1]:
        put(code, bootstrap)
    if not cells[-1].source.startswith(NAVIGATION):
        cells.append(nbformat.v4.new_markdown_cell("", id="navigation", metadata={"slideshow": {"slide_type": "skip"}}))
    put(cells[-1], links)
    return changed


def rewrite(root: Path = ROOT, check: bool = False) -> list[str]:
    """Bring the repository into step (with `check` only pretend to); the files that changed, as paths from the root."""
    repository, changed = slug(root), []

    def write(path: Path, text: str) -> None:
        changed.append(path.relative_to(root).as_posix())
        if not check:
            path.write_text(text, "utf-8", newline="\n")

    paths = notebook_paths(root)
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    firsts = {path.name: content.cells[0].source for path, content in zip(paths, notebooks, strict=True)}
    for name, pattern in MENTIONS.items():
        old = text = (root / name).read_text("utf-8")
        text = re.sub(pattern, repository, text)
        if name == "README.md":
            if not TABLE.search(text):
                raise ValueError("README.md lacks the lines <!-- notebooks:begin --> and <!-- notebooks:end -->")
            text = TABLE.sub(lambda _: table(repository, firsts), text)
        if name == "tools/bootstrap_cell.py":
            bootstrap = text.rstrip("\n")
        if text != old:
            write(root / name, text)

    # Neighbours as (file name, title), with None before the first and after the last.
    neighbours = [None, *((name, title(first)) for name, first in firsts.items()), None]
    for i, (path, content) in enumerate(zip(paths, notebooks, strict=True)):
        links = navigation(neighbours[i], neighbours[i + 2])
        if rewrite_notebook(content, badge(repository, path.name), bootstrap, links):
            write(path, nbformat.writes(content) + "\n")
    return changed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something would change")
    options = parser.parse_args(arguments)
    changed = rewrite(check=options.check)
    for name in changed:
        print(f"{'out of step' if options.check else 'rewritten'}: {name}")
    if not changed:
        print("everything is in step")
    return int(options.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
