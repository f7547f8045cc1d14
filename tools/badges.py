"""Keep everything that follows from the repository's address, or from the notebooks, in step.

    python tools/badges.py                                          rewrite what is out of step
    python tools/badges.py --check                                  change nothing; exit with 1 if something would change
    python tools/badges.py --repository OWNER/NAME --branch v1.0    a new address first; then the same

The address is kept in one place, pyproject.toml: OWNER/NAME in `[project.urls]`, the branch or release tag in
`[tool.badges]`. Whoever publishes or forks the course gives it once, as in the third line. Rewritten are, in each
notebook, the Colab badge and the minutes of the first cell, the bootstrap cell (from tools/bootstrap_cell.py) and the
last cell with its previous and next links; the table of notebooks in README.md; the address wherever else it is written.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import nbformat

from reading import goals, minutes

ROOT = Path(__file__).resolve().parents[1]
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
NAVIGATION = "<!-- navigation -->"
TABLE = re.compile(r"(?<=<!-- notebooks:begin -->\n).*?(?=<!-- notebooks:end -->)", re.DOTALL)
MINUTES = re.compile(r"\b\d+ minutes on a 2-core CPU: (\d+) to read and (\d+) for the exercises\.")
MACHINE = {
    "less than one minute": "< 1",
    "about one minute": "1",
    "about two minutes": "2",
}  # words of a first cell, in the table

SLUG = r"[\w-]+/[\w.-]*[\w-]"  # does not take in the full stop of a sentence
BRANCH = r"[\w.-]+(?:/[\w.-]+)*"

# The files that name the repository. Each pattern matches the address in its context, and nothing around it.
MENTIONS = {
    "README.md": (rf"(?:(?<=git clone https://github.com/)|(?<=git\+https://github.com/)){SLUG}", "{0}"),
    "CITATION.cff": (rf'(?<=repository-code: "https://github.com/){SLUG}', "{0}"),
    "tools/bootstrap_cell.py": (rf'(?<=repository, branch = "https://github.com/){SLUG}", "{BRANCH}', '{0}", "{1}'),
}


class Home(NamedTuple):
    """Where the repository is published."""

    repository: str  # OWNER/NAME
    branch: str  # or a release tag


def home(root: Path = ROOT) -> Home:
    """The repository's address, from pyproject.toml."""
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    url, branch = settings["project"]["urls"]["Repository"], settings["tool"]["badges"]["branch"]
    match = re.fullmatch(rf"https://github\.com/({SLUG})", url)
    if match is None:
        raise ValueError(f"[project.urls] Repository in pyproject.toml is {url!r}, not https://github.com/owner/name")
    return Home(match[1], branch)


def move(repository: str | None, branch: str | None, root: Path = ROOT) -> None:
    """Write a new address into pyproject.toml; None leaves that part as it is."""
    path = root / "pyproject.toml"
    text = path.read_text("utf-8")
    for new, wanted, pattern, before in (
        (repository, "OWNER/NAME", SLUG, r'(?<=^Repository = "https://github.com/)'),
        (branch, "the name of a branch or of a release tag", BRANCH, r'(?<=^branch = ")'),
    ):
        if new is None:
            continue
        if not re.fullmatch(pattern, new):
            raise ValueError(f"{new!r} is not {wanted}")
        text, count = re.subn(before + pattern, new, text, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"pyproject.toml has no line, or more than one, for {wanted}: {before}")
    path.write_text(text, "utf-8", newline="\n")


def notebook_paths(root: Path = ROOT) -> list[Path]:
    """The course's notebooks in order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def badge(name: str, at: Home) -> str:
    """The badge, in Markdown, that opens the notebook `name` of a published repository in Colab."""
    return f"{BADGE}(https://colab.research.google.com/github/{at.repository}/blob/{at.branch}/notebooks/{name})"


def title(first: str) -> str:
    """The title in a first cell."""
    return first.splitlines()[0].removeprefix("# ").strip()


def with_minutes(first: str, cells: list) -> str:
    """A first cell that states the minutes that its notebook takes, where it states minutes at all."""
    reading, exercises = minutes(cells)
    stated = f"{reading + exercises} minutes on a 2-core CPU: {reading} to read and {exercises} for the exercises."
    return MINUTES.sub(stated, first)


def times(first: str) -> str:
    """The minutes that a first cell states, as cells of a table: reading, exercises, machine; '?' where it states none."""
    match, words = MINUTES.search(first), re.search(r"The machine computes for ([\w ]+)\.", first)
    return " | ".join((*(match.groups() if match else "??"), MACHINE.get(words[1], "?") if words else "?"))


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


def table(at: Home, notebooks: dict[str, nbformat.NotebookNode]) -> str:
    """The README's table from the notebooks, {file name: content}: what one learns is the first of the notebook's goals."""
    rows = [
        "| notebook | you will be able to | minutes to read | for exercises | for the machine | in Colab |",
        "|---|---|---|---|---|---|",
    ]
    for name, content in notebooks.items():
        first = with_minutes(content.cells[0].source, content.cells)
        goal = next(iter(goals(content.cells)), "?").rstrip(".")
        shown, goal = (text.replace("|", "\\|") for text in (title(first), goal))  # a bare bar would open another column
        rows.append(f"| [{shown}](notebooks/{name}) | {goal[:1].lower()}{goal[1:]} | {times(first)} | {badge(name, at)} |")
    return "\n".join(rows) + "\n"


def rewrite_notebook(content: nbformat.NotebookNode, wanted_badge: str, bootstrap: str, links: str) -> bool:
    """Bring one notebook into step, in place; True if something changed."""
    changed = False

    def put(cell: nbformat.NotebookNode, source: str) -> None:
        nonlocal changed
        changed |= cell.source != source
        cell.source = source

    cells = content.cells
    put(cells[0], with_minutes(with_badge(cells[0].source, wanted_badge), cells))
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
    at, changed = home(root), []

    def write(path: Path, text: str) -> None:
        changed.append(path.relative_to(root).as_posix())
        if not check:
            path.write_text(text, "utf-8", newline="\n")

    paths = notebook_paths(root)
    notebooks = {path.name: nbformat.read(path, as_version=4) for path in paths}
    for name, (pattern, address) in MENTIONS.items():
        old = (root / name).read_text("utf-8")
        text = re.sub(pattern, address.format(*at), old)
        if name == "README.md":
            if not TABLE.search(text):
                raise ValueError("README.md lacks the lines <!-- notebooks:begin --> and <!-- notebooks:end -->")
            text = TABLE.sub(lambda _: table(at, notebooks), text)
        if name == "tools/bootstrap_cell.py":
            bootstrap = text.rstrip("\n")
        if text != old:
            write(root / name, text)

    # Neighbours as (file name, title), with None before the first and after the last.
    neighbours = [None, *((name, title(content.cells[0].source)) for name, content in notebooks.items()), None]
    for i, (path, content) in enumerate(zip(paths, notebooks.values(), strict=True)):
        links = navigation(neighbours[i], neighbours[i + 2])
        if rewrite_notebook(content, badge(path.name, at), bootstrap, links):
            write(path, nbformat.writes(content) + "\n")
    return changed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something would change")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="where the course is published from now on")
    parser.add_argument("--branch", help="the branch or release tag that badges and Colab take")
    options = parser.parse_args(arguments)
    if options.repository is not None or options.branch is not None:
        if options.check:
            parser.error("--check changes nothing, so it takes no new address")
        try:
            move(options.repository, options.branch)
        except ValueError as error:
            parser.error(str(error))
    changed = rewrite(check=options.check)
    for name in changed:
        print(f"{'out of step' if options.check else 'rewritten'}: {name}")
    if not changed:
        print("everything is in step")
    return int(options.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
