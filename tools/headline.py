"""Write the README's comparison of the attribution methods from the stored tables, between its two markers.

    python tools/headline.py            rewrite it
    python tools/headline.py --check    change nothing; exit with 1 if something would change

The numbers are those of `python -m diffmask_lite evaluate cifar10`.
"""

import argparse
import re
import sys
from pathlib import Path

from diffmask_lite import faithfulness, results
from diffmask_lite.comparison import BASELINES, BLUR, DIFFMASK, GATES
from diffmask_lite.faithfulness import Interval

README = Path(__file__).resolve().parents[1] / "README.md"
PLACE = re.compile(r"(?<=<!-- headline:begin -->\n).*?(?=<!-- headline:end -->)", re.DOTALL)
HEADS = {
    "drop": "tokens dropped", "mean": "mean patch instead", "noise": "noise instead", "placeholder": "placeholder instead"
}  # fmt: skip
ONE_PASS = ("raw_attention", "rollout", "grad_cam", "gradient_attention", "legrad", "gradient_input", "gradient_drop")
SOURCES = {"folder": "re-encoded as JPEG", "original": "as published"}  # see data/README.md


def table(found: results.Results) -> str:
    """SRG of every method under every removal, best first under the first of them; then DiffMask against the best other."""
    srg = faithfulness.intervals(found.scores[found.scores["metric"] == "srg"])
    removals = list(srg["removal"].unique())
    cells = {(row.method, row.removal): Interval(row.mean, row.low, row.high) for row in srg.itertuples()}
    methods = sorted(srg["method"].unique(), key=lambda name: -cells[name, removals[0]].mean)
    lines = [
        "| method | " + " | ".join(f"SRG ↑, {HEADS[removal]}" for removal in removals) + " |",
        "|---|" + "---|" * len(removals),
    ]
    for name in methods:
        shown = f"**{name}**" if name == DIFFMASK else name
        lines.append(f"| {shown} | " + " | ".join(shortly(cells[name, removal]) for removal in removals) + " |")

    rivals = [name for name in methods if name not in (*GATES, *BASELINES) and BLUR not in name]
    cheap = [name for name in rivals if name in ONE_PASS]
    lines += ["", "DiffMask minus others, on the same images:", ""]
    for removal in removals:
        gaps = []
        for words, group in (("the best of all", rivals), ("the best that asks the ViT once", cheap)):
            best = max(group, key=lambda name: cells[name, removal].mean)
            gap = faithfulness.compare(found.scores, DIFFMASK, best, "srg", removal)
            verdict = "neither is shown to be better" if not gap.differs else "better" if gap.mean > 0 else "worse"
            gaps.append(f"{shortly(gap, '+')} against {words}, {best}: {verdict}")
        lines.append(f"- {HEADS[removal]}: {'; '.join(gaps)}")
    about, seeds = found.about, sum(entry["method"] == DIFFMASK for entry in found.about["gates"])
    lines += [
        "",
        f"{about['images']} test images ({SOURCES[about['source']]}), {about['steps']} steps, gates of {seeds} "
        f"training{'s' * (seeds != 1)}; in brackets 95 % by bootstrap over images, and over trainings or draws where there are "
        f"several. `{about['command']}`",
    ]
    return "\n".join(lines) + "\n"


def shortly(value: Interval, sign: str = "") -> str:
    """An interval in two decimals, with a minus that is as wide as a plus."""
    mean, low, high = (f"{number:{sign}z.2f}".replace("-", "−") for number in value)
    return f"{mean} [{low}, {high}]"


def rewritten(readme: str, found: results.Results) -> str:
    """The README with the table as it should be."""
    if not PLACE.search(readme):
        raise ValueError("README.md lacks the lines <!-- headline:begin --> and <!-- headline:end -->")
    return PLACE.sub(lambda _: table(found), readme)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something would change")
    options = parser.parse_args(arguments)
    old = README.read_text("utf-8")
    new = rewritten(old, results.load("cifar10"))
    if new == old:
        print("README.md is in step")
    elif options.check:
        print("out of step: README.md")
    else:
        README.write_text(new, "utf-8", newline="\n")
        print("rewritten: README.md")
    return int(options.check and new != old)


if __name__ == "__main__":
    sys.exit(main())
