"""The package is a house of rooms. CONTRIBUTING.md has a table of what each may import; the code imports that and no more."""

import ast
import re
from graphlib import CycleError, TopologicalSorter

import pytest

from contract import ROOT

PACKAGE = ROOT / "diffmask_lite"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}
EXPERIMENTS = {path.stem for path in (ROOT / "experiments").glob("*.py")}
DOORS = {"__init__", "__main__"}  # the package itself and its command line are no rooms
MOST = 13  # names at the top level of the package, so that its folder can be read at a glance
BANNED = {"together", "worth", "pieces", "see"}  # names of modules, functions and imports that said nothing

Graph = dict[str, set[str]]


def table(text: str) -> Graph:
    """The rooms that each room may import, from the table in a text."""
    found = re.search(r"<!-- rooms -->\n(.*?)<!-- /rooms -->", text, flags=re.DOTALL)
    assert found, "CONTRIBUTING.md lacks the table of rooms between the lines <!-- rooms --> and <!-- /rooms -->"
    head, _, *lines = found[1].strip().splitlines()
    assert head == "| room | holds | may import |"
    rooms = {}
    for line in lines:
        row = re.fullmatch(r"\| `(\w+)` \| [^|]+ \| (nothing of ours|`\w+`(?:, `\w+`)*) \|", line)
        assert row and row[1] not in rooms, f"this row is not '| `room` | holds | `room`, `room` |', or comes twice: {line}"
        rooms[row[1]] = set(re.findall(r"`(\w+)`", row[2]))
    return rooms


def imported(source: str, module: str, package: bool = False) -> set[str]:
    """All that a module imports, wherever in it, as full dotted names; those of `from x import y` are x.y."""
    found, inside = set(), module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) + 1 - node.level] if node.level else []
            found |= {".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names}
    return found


def modules_imported() -> Graph:
    """The modules of the package that each imports, without the package's name; the package itself is `__init__`."""
    graph = {}
    for name, path in MODULES.items():
        targets = set()
        for target in imported(path.read_text("utf-8"), name, path.name == "__init__.py"):
            parts = target.split(".")
            ours = [".".join(parts[:n]) for n in (len(parts), len(parts) - 1) if ".".join(parts[:n]) in MODULES]
            targets |= set(ours[:1])
        graph[name] = targets
    return {short(name): set(map(short, targets)) for name, targets in graph.items()}


def short(name: str) -> str:
    return name.removeprefix(PACKAGE.name).removeprefix(".") or "__init__"


def room(module: str) -> str:
    return module.split(".")[0]


def circle(graph: Graph) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def faults(table: Graph, imports: Graph) -> list[str]:
    """Where the rooms' imports and their table differ, and where rooms or modules import each other in a circle."""
    found, rooms = [], {room(module) for module in imports}
    used = {name: {room(t) for m in imports if room(m) == name for t in imports[m]} - {name} for name in rooms}
    found += [f"`{name}` is missing in the table" for name in sorted(rooms - DOORS - set(table))]
    found += [f"`{name}` is in the table, but is no room" for name in sorted(set(table) - rooms)]
    for name in sorted(set(table) & rooms):
        more, less = sorted(used[name] - table[name]), sorted(table[name] - used[name])
        found += [f"`{name}` imports `{other}`, which its row does not list" for other in more]
        found += [f"the row of `{name}` lists `{other}`, which it does not import" for other in less]
    for kind, graph in (("rooms", used), ("modules", imports)):
        if way := circle(graph):
            found.append(f"a circle of {kind}: {' <- '.join(way)}")
    return found


# ---- The test is tested on a small house ----
SMALL_TABLE = {"low": set(), "high": {"low"}}
SMALL = {"__init__": {"high"}, "low": {"low.a"}, "low.a": set(), "low.b": {"low.a"}, "high": {"low.a"}}


@pytest.mark.parametrize(
    ("rows", "imports", "words"),
    [
        ({}, {}, None),
        ({"high": set()}, {}, "`high` imports `low`, which its row does not list"),
        ({}, {"low.a": {"__init__"}}, "`low` imports `__init__`, which"),
        ({"low": {"high"}}, {}, "the row of `low` lists `high`, which it does not import"),
        ({}, {"new": set()}, "`new` is missing"),
        ({"old": set()}, {}, "`old` is in the table, but is no room"),
        ({"low": {"high"}}, {"low.b": {"high"}}, "a circle of rooms: "),
        ({}, {"low.a": {"low.b"}}, "a circle of modules: "),
    ],
)
def test_faults_of_a_small_house_are_found(rows, imports, words):
    found = faults(SMALL_TABLE | rows, SMALL | imports)
    assert any(words in fault for fault in found) if words else found == []


def test_imports_are_found_wherever_they_stand():
    source = """
import torch.nn
from . import a
from .b import c as d
from ..e import f
if TYPE_CHECKING:
    from diffmask_lite.g import h
def late():
    from .. import i
"""
    plain = {"torch.nn", "diffmask_lite.g.h"}
    assert imported(source, "diffmask_lite.x.y") == plain | {f"diffmask_lite.{n}" for n in ("x.a", "x.b.c", "e.f", "i")}
    assert imported(source, "diffmask_lite.x", package=True) == imported(source, "diffmask_lite.x.y")


@pytest.mark.parametrize("row", ["| vit | sees | nothing of ours |", "| `a` | holds | `b` and `c` |", "| `a` | holds |  |"])
def test_rows_of_another_form_are_refused(row):
    text = f"<!-- rooms -->\n| room | holds | may import |\n|---|---|---|\n{row}\n<!-- /rooms -->"
    with pytest.raises(AssertionError, match="this row is not"):
        table(text)


# ---- The house itself ----
def test_rooms_import_what_the_table_says_and_nothing_in_circles():
    assert faults(table((ROOT / "CONTRIBUTING.md").read_text("utf-8")), modules_imported()) == []


def test_the_package_has_few_names_at_the_top():
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "_data"}
    assert len(names) <= MOST, sorted(names)


def test_nobody_in_the_package_imports_the_course_the_experiments_or_pyplot():
    for name, path in (MODULES | {"families": ROOT / "tests" / "families.py"}).items():
        targets = imported(path.read_text("utf-8"), name, path.name == "__init__.py")
        assert not {target.split(".")[0] for target in targets} & EXPERIMENTS, f"{name} imports an experiment"
        assert "matplotlib.pyplot" not in targets, f"{name} imports pyplot, which shows figures a second time"
        course = any(target.startswith("diffmask_lite.course") for target in targets)
        assert room(short(name)) == "course" or not course, f"{name} imports the course"


def test_no_name_says_nothing():
    for name, path in MODULES.items():
        tree = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        defined = {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        aliases = [alias for node in tree if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
        used = {alias.asname or alias.name.split(".")[-1] for alias in aliases}
        assert not BANNED & {*defined, *used, *name.split(".")}, name
