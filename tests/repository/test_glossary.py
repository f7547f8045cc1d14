"""docs/glossary.md says what the code says: each name in its table of symbols exists."""

import inspect
import pkgutil
import re

import pytest

from contract import ROOT

TEXT = (ROOT / "docs" / "glossary.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a second-level heading, without its head."""
    text = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)[1]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


NAMES = sorted({name for row in rows("Symbols") for name in re.findall(r"`(.+?)`", row[-1])})


def exists(name: str) -> bool:
    """Whether `module.thing`, `module.Class.field` or `module.function(argument)` is there, under diffmask_lite."""
    path, argument = re.fullmatch(r"([\w.]+)(?:\((\w+)\))?", name).groups()
    owner, last = path.rsplit(".", 1)
    try:
        owner = pkgutil.resolve_name(f"diffmask_lite.{owner}")
    except (AttributeError, ImportError):
        return False
    if last in getattr(owner, "__dataclass_fields__", {}):  # a field without a default is no attribute of its class
        return argument is None
    thing = getattr(owner, last, None)
    return thing is not None and (argument is None or argument in inspect.signature(thing).parameters)


@pytest.mark.parametrize("name", NAMES)
def test_name_exists(name):
    assert exists(name)


WRONG = ["gates.no_such", "no_such.sample", "gates.sample(no_such)", "diffmask.Check.no_such", "diffmask.Check.kl(x)"]


@pytest.mark.parametrize("name", WRONG)
def test_name_that_does_not_exist_is_seen(name):
    assert not exists(name)


def test_every_symbol_has_a_name_in_the_code_and_words_are_defined_once_and_in_order():
    table = rows("Symbols")
    assert len(table) > 20 and all(len(row) == 4 and "`" in row[-1] for row in table)
    table = rows("Words")
    words = [re.fullmatch(r"\*\*(.+)\*\*", row[0])[1].casefold() for row in table]
    assert words == sorted(set(words))
    assert all(len(row) == 3 and row[1].endswith(".") and re.fullmatch(r"0\d", row[2]) for row in table)
