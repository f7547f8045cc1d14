"""Write the comparison of the attribution methods from the stored tables: docs/results.md, and its five rows in README.md.

    python tools/headline.py            rewrite it
    python tools/headline.py --check    change nothing; exit with 1 if something would change

The comparisons stand between markers; their numbers are those of `experiments/compare.py` and `experiments/luck.py`. What
the gates keep is a row of the table of measurements, from the manifest of the weights.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from diffmask_lite import faithfulness, weights
from diffmask_lite.course import results
from diffmask_lite.faithfulness import Interval
from diffmask_lite.vit.storage import write

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "experiments"))
from compare import BASELINES, BLUR, DIFFMASK, GATE_KINDS  # noqa: E402

README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
SETS = re.compile(r"(?<=<!-- sets:begin -->\n).*?(?=<!-- sets:end -->)", re.DOTALL)
SHORT = re.compile(r"(?<=<!-- short:begin -->\n).*?(?=<!-- short:end -->)", re.DOTALL)
PLACE = re.compile(r"(?<=<!-- headline:begin -->\n).*?(?=<!-- headline:end -->)", re.DOTALL)
CLAIM = "its shipped gates keep"
KEPT = re.compile(rf"^\| {CLAIM} .*$", re.MULTILINE)
HEADS = {
    "drop": "tokens dropped", "mean": "mean patch instead", "noise": "noise instead", "placeholder": "placeholder instead"
}  # fmt: skip
ONE_PASS = (
    "raw_attention", "rollout", "direct", "direct_paths", "grad_cam", "gradient_attention", "legrad", "gradient_input",
    "gradient_drop",
)  # fmt: skip
COSTS = {  # passes of the methods that the README names
    "integrated_drop": "9 + 8", "gradient_drop": "1 + 1", "direct_paths": "1 + 0", DIFFMASK: "1 + 0",
    "diffmask_plain": "1 + 0",
}  # fmt: skip
SOURCES = {"folder": "re-encoded as JPEG", "original": "as published"}  # see data/README.md
COPIES = {"folder": "JPEG mirror", "original": "original"}


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

    rivals = [name for name in methods if name not in (*GATE_KINDS, *BASELINES) and BLUR not in name]
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


def sets(found: results.Results, luck: pd.DataFrame, sizes: pd.DataFrame, by_own: pd.DataFrame) -> str:
    """Order and masks of all gates and of their strongest rivals, each mask beside its random twin; best order first."""
    srg = faithfulness.intervals(found.scores[found.scores["metric"] == "srg"]).set_index(["method", "removal"])
    twin = luck[luck["twin"] == "random"].set_index(["method", "metric"])
    methods = sorted(luck["method"].unique(), key=lambda name: -srg.loc[(name, "drop"), "mean"])
    lines = [
        "| method | SRG ↑, tokens dropped | SRG ↑, noise instead | kept | KL ↓ (random twin) | same class ↑ (random twin) |",
        "|---|---|---|---|---|---|",
    ]
    for name in methods:
        orders = (shortly(Interval(*srg.loc[(name, removal), ["mean", "low", "high"]])) for removal in ("drop", "noise"))
        kl, same = twin.loc[(name, "sufficiency")], twin.loc[(name, "agreement")]
        shown = f"**{name}**" if name == DIFFMASK else name
        cells = [f"{kl.kept:.0%}", f"{kl['mask']:.2f} ({kl.luck:.2f})", f"{same['mask']:.1%} ({same.luck:.1%})"]
        lines.append(" | ".join([f"| {shown}", *orders, *cells]).replace("%", " %") + " |")
    lines += ["", "DiffMask minus others, SRG on the same images:", ""]
    for removal in ("drop", "noise"):
        gaps = []
        for rival in [name for name in methods if name != DIFFMASK]:
            gap = faithfulness.compare(found.scores, DIFFMASK, rival, "srg", removal)
            verdict = "not told apart" if not gap.differs else "better" if gap.mean > 0 else "worse"
            gaps.append(f"{shortly(gap, '+')} against {rival}: {verdict}")
        lines.append(f"- {HEADS[removal]}: {'; '.join(gaps)}")
    lines += [
        "",
        "Gates from scratch learned with another removal. By this removal, KL of mask − random twin in each training:",
        "",
    ]
    for (method, removal), rows in by_own.query("twin == 'random' and metric == 'sufficiency'").groupby(["method", "removal"]):
        gaps = listed(shortly(Interval(row.difference, row.low, row.high), "+") for row in rows.itertuples())
        better, worse = rows["better"].sum(), (rows["low"] > 0).sum()
        verdict = f"better than luck in {better}, worse in {worse}"
        lines.append(f"- {method}, {removal} placeholder: {gaps}; {verdict}")
    own, rank = luck[luck["method"] == DIFFMASK], sizes["kept"].corr(sizes["greedy"], "spearman")
    own_kl = "greedy at the mask's KL"
    ranks = sizes["kept"].corr(sizes[own_kl], "spearman")
    lines += [
        "",
        f"The share that DiffMask keeps differs between images by a standard deviation of {own['spread'].mean():.2f}. Greedy "
        f"elimination, which asks the ViT 2,080 times, needs {sizes['greedy'].mean():.1f} patches if it may reach the masks' "
        f"mean KL on each image, and {sizes[own_kl].mean():.1f} at the KL of each mask; masks keep {sizes['kept'].mean():.1f} "
        f"(means of {len(sizes)} images). The rank correlation of their sizes with greedy's is {rank:.2f} and {ranks:.2f}.",
        "",
        f"{found.about['images']} test images ({SOURCES[found.about['source']]}), gates of "
        f"{sum(entry['method'] == DIFFMASK for entry in found.about['gates'])} trainings; rivals keep as many patches of each "
        f"image as the first gates. `{found.about['command']}`, `python experiments/luck.py cifar10`",
    ]
    return "\n".join(lines).replace("-0.", "−0.") + "\n"


def short(found: results.Results, luck: pd.DataFrame) -> str:
    """Five rows for the README: what a map costs, how good its order is, and its masks beside their random twins."""
    srg = faithfulness.intervals(found.scores[found.scores["metric"] == "srg"]).set_index(["method", "removal"])
    twin = luck[luck["twin"] == "random"].set_index(["method", "metric"])
    lines = [
        "| method | passes, forward + backward | SRG ↑, tokens dropped | KL ↓ in nats (random) | same class ↑ (random) |",
        "|---|---|---|---|---|",
    ]
    for name, passes in COSTS.items():
        kl, same = twin.loc[(name, "sufficiency")], twin.loc[(name, "agreement")]
        order = shortly(Interval(*srg.loc[(name, "drop"), ["mean", "low", "high"]]))
        shown = {DIFFMASK: "**DiffMask**", "diffmask_plain": "DiffMask from scratch"}.get(name, f"`{name}`")
        cells = [f"{kl['mask']:.2f} ({kl.luck:.2f})", f"{same['mask']:.1%} ({same.luck:.1%})".replace("%", " %")]
        lines.append(" | ".join([f"| {shown}", passes, order, *cells]) + " |")
    return "\n".join(lines) + "\n"


def shortly(value: Interval, sign: str = "") -> str:
    """An interval in two decimals, with a minus that is as wide as a plus."""
    mean, low, high = (f"{number:{sign}z.2f}".replace("-", "−") for number in value)
    return f"{mean} [{low}, {high}]"


def kept_row(manifest: dict[str, dict]) -> str:
    """What the hard masks of the shipped gates keep, the first seed's in words and the others' beside it."""
    entries = [entry for file, entry in manifest.items() if re.fullmatch(r"cifar10_gates(_\d+)?\.safetensors", file)]
    first, *others = sorted(entries, key=lambda entry: entry["seed"])
    scores = first["scores"]
    beside = ""
    if others:
        seeds = "seeds" if len(others) > 1 else "seed"
        kept, kl, same = (
            listed(form.format(entry["scores"][key]) for entry in others)
            for key, form in {"kept": "{:.0%}", "kl": "{:.2f}", "agreement": "{:.1%}"}.items()
        )
        beside = f"; {seeds} {listed(str(entry['seed']) for entry in others)}: {kept}, {kl} nats, {same}"
    text = (
        f"hard masks keep {scores['kept']:.0%} of the patches at KL {scores['kl']:.2f} nats, and the class stays for "
        f"{scores['agreement']:.1%} of the images ({scores['test images']:,} test images, {COPIES[scores['source']]}, "
        f"seed {first['seed']}{beside})"
    ).replace("%", " %")
    return f"| {CLAIM} part of the patches, and most answers | {text} | `python experiments/train_gates.py cifar10` |"


def listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def rewritten(page: str, found: results.Results, manifest: dict[str, dict]) -> str:
    """The page of results with the tables and the row as they should be."""
    if not PLACE.search(page):
        raise ValueError("docs/results.md lacks the lines <!-- headline:begin --> and <!-- headline:end -->")
    if len(KEPT.findall(page)) != 1:
        raise ValueError('docs/results.md has no row of a table that starts with "| its shipped gates keep", or several')
    luck = (results.read(results.folder() / f"cifar10_{name}.csv") for name in ("luck", "sizes", "luck_own"))
    page = SETS.sub(lambda _: sets(found, *luck), page)
    return KEPT.sub(lambda _: kept_row(manifest), PLACE.sub(lambda _: table(found), page))


def in_short(readme: str) -> str:
    """The README with its five rows as they should be."""
    if not SHORT.search(readme):
        raise ValueError("README.md lacks the lines <!-- short:begin --> and <!-- short:end -->")
    return SHORT.sub(lambda _: short(results.load("cifar10"), results.read(results.folder() / "cifar10_luck.csv")), readme)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if something would change")
    options = parser.parse_args(arguments)
    pages = {PAGE: rewritten(PAGE.read_text("utf-8"), results.load("cifar10"), weights.manifest())}
    pages[README] = in_short(README.read_text("utf-8"))
    stale = {path: new for path, new in pages.items() if new != path.read_text("utf-8")}
    for path, new in stale.items():
        if not options.check:
            write(path, new)
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    done = "out of step" if options.check else "rewritten"
    print(f"{done}: {names}" if stale else "README.md and docs/results.md are in step")
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
