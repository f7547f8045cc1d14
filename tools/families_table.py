"""Write the tables of families from `data/results/families.csv`: docs/families.md, and a short one in docs/your_own_vit.md.

    python tools/families_table.py            rewrite what is out of step
    python tools/families_table.py --check    change nothing; exit with 1 if something would change

`python experiments/model_families.py` makes the numbers.
"""

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/your_own_vit.md"
PLACE = re.compile(r"(?<=<!-- families:begin -->\n).*?(?=<!-- families:end -->)", re.DOTALL)
HINT = re.compile(r"; pass a plain timm ViT such as [\w.]+\.$")  # advice to who meets the sentence as an error

Row = dict[str, str]


def read(root: Path = ROOT) -> list[Row]:
    """The rows of the table."""
    with (root / "data" / "results" / "families.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def listed(names: Iterable[str]) -> str:
    """Names in their first order, each once, as a list in prose."""
    return ", ".join(dict.fromkeys(names))


def methods(row: Row, every: list[str]) -> str:
    """The attribution methods that a model takes, said as briefly as possible."""
    lacking = [f"`{name}`" for name in every if name not in row["methods"].split()]
    return f"all but {', '.join(lacking)}" if lacking else "all"


def short(rows: list[Row]) -> str:
    """The short table: families by what they can do, one line a group."""
    every = all_methods(rows)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["outcome"] != "works", row["drop"] != "yes")):
        key = (row["drop"], methods(row, every)) if row["outcome"] == "works" else ("–", "refused, with the reason")
        groups.setdefault(key, []).append(row)
    usual = {}  # the group to which most variants of a family belong, where it stands without naming them
    for key, group in groups.items():
        for family, count in Counter(row["family"] for row in group).items():
            usual[family] = max(usual.get(family, (0, key)), (count, key), key=lambda pair: pair[0])
    lines = ["| families | tokens can be dropped | attribution methods |", "|---|---|---|"]
    for key, group in groups.items():
        named = [f"{r['family']} ({r['variant']})" if usual[r["family"]][1] != key else r["family"] for r in group]
        lines.append(f"| {listed(named)} | {key[0]} | {key[1]} |")
    return "\n".join(lines) + "\n"


def all_methods(rows: list[Row]) -> list[str]:
    """Every method that some model takes, in the order of the longest list."""
    return max((row["methods"].split() for row in rows), key=len)


def long(rows: list[Row]) -> str:
    """docs/families.md: every model, and for each refusal the sentence that a user reads."""
    every, fit = all_methods(rows), [row for row in rows if row["outcome"] == "works"]
    lines = [
        "# Which ViTs fit",
        "",
        "Small models of each family, without weights and with 10 classes, were tried by",
        "`python experiments/model_families.py`, which holds each that fits to what a wrong hook would break (its docstring",
        "says how) and trains gates for two steps. That a family fits says nothing yet of how good the masks of a trained",
        "member are. `python tools/families_table.py` makes this page from the results,",
        "[families.csv](../data/results/families.csv).",
        "",
        "## Explained",
        "",
        'Dropped tokens are the removal `"drop"`; where they are not available, `"mean"`, `"noise"` and placeholders are.',
        "Own pixels: whether a patch's embedding is made of that patch's pixels alone. Where a CNN stands in front it is not:",
        "a patch that is kept then also carries what its neighbours show.",
        f"The methods are {', '.join(f'`{name}`' for name in every)}.",
        "",
        "| family | variant | in timm | own pixels | tokens can be dropped | attribution methods |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['family']} | {row['variant']} | `{row['model']}` | {row['local']} | {row['drop']} | {methods(row, every)} |"
        for row in fit
    ]
    lines += ["", "## Refused", "", "| family | variant | in timm | what the package says |", "|---|---|---|---|"]
    lines += [
        f"| {row['family']} | {row['variant']} | `{row['model']}` | {HINT.sub('.', row['reason'])} |"
        for row in rows
        if row["outcome"] == "refused"
    ]
    return "\n".join(lines) + "\n"


def rewrite(root: Path = ROOT, check: bool = False) -> list[str]:
    """Bring both files into step (with `check` only pretend to); the files that changed, as paths from the root."""
    rows = read(root)
    wrong = [f"{row['family']}, {row['variant']}: {row['reason']}" for row in rows if row["outcome"] == "wrong"]
    if wrong:
        raise ValueError(f"families.csv has models that are explained wrongly, which no table may hide: {'; '.join(wrong)}")
    page, changed = (root / PAGE).read_text("utf-8"), []
    if not PLACE.search(page):
        raise ValueError(f"{PAGE} lacks the lines <!-- families:begin --> and <!-- families:end -->")
    for name, text in ((PAGE, PLACE.sub(lambda _: short(rows), page)), ("docs/families.md", long(rows))):
        path = root / name
        if not path.is_file() or path.read_text("utf-8") != text:
            changed.append(name)
            if not check:
                path.write_text(text, "utf-8", newline="\n")
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
