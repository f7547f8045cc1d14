"""Files that have to say the same thing do: pyproject.toml, environment.yml, README.md, .ci/run and the rest."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import timm
import yaml
from nbval.plugin import get_sanitize_patterns
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

import diffmask_lite
import reading
from contract import ROOT
from diffmask_lite import weights
from diffmask_lite.datasets import ColourGrid

README = (ROOT / "README.md").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
WHEEL = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]


def command(marker: str) -> str:
    """The one line of the fenced block after a marker in the README."""
    match = re.search(rf"^<!-- {marker} -->\n+```\w*\n(.*)\n```", README, flags=re.MULTILINE)
    assert match, f"README.md lacks <!-- {marker} --> and, after it, a fenced block of one line"
    return match[1]


def extras(text: str) -> set[str]:
    """The extras named in a text such as '.[lab,test]'."""
    return {name for names in re.findall(r"\.\[([\w,]+)\]", text) for name in names.split(",")}


def test_environment_holds_no_version_but_pythons_and_named_extras_exist():
    text = (ROOT / "environment.yml").read_text("utf-8")
    python, pip, packages = yaml.safe_load(text)["dependencies"]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"]) and pip == "pip"
    assert re.fullmatch(r'-e "\.\[[\w,]+\]"', *packages["pip"]) and extras(text) == {"lab", "test"}
    texts = README + text + (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert {"lab", "test"} <= extras(texts) <= set(PROJECT["optional-dependencies"])


def test_installed_versions_are_admitted():
    """The environment that runs the tests lies within the bounds, so the bounds admit one that works."""
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]):
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} does not admit {version}"


@pytest.mark.parametrize(("marker", "end"), [("lab-command", "00_quickstart.ipynb"), ("test-command", "-m pytest")])
def test_readme_has_the_command_in_one_line_and_the_same_for_windows(marker, end):
    line = command(marker)
    assert line.startswith("python3 -m venv .venv && .venv/bin/python -m pip install -e ") and line.endswith(end)
    assert marker == "test-command" or (ROOT / line.split()[-1]).is_file()
    windows = line.replace("python3 ", "py ").replace(" && ", "; ").replace(".venv/bin/", ".venv\\Scripts\\")
    assert f"```powershell\n{windows}\n```" in README


@pytest.mark.skipif(sys.platform == "win32", reason="Skipped: .ci/run is a bash script; run it on Linux or macOS")
@pytest.mark.parametrize(
    ("readme", "status", "words"),
    [
        (README.replace(command("test-command"), "ls -a && pwd"), 0, ""),
        ("<!-- test-command -->\n```bash\nexit 7\n```\n", 7, ""),
        ("```bash\necho no marker\n```\n", 1, "<!-- test-command -->"),
        ("<!-- test-command -->\n", 1, "<!-- test-command -->"),
        ("<!-- test-command -->\n```\necho 1\necho 2\n```\n", 1, "<!-- test-command -->"),
    ],
    ids=["in a fresh place", "fails", "no marker", "no block", "two lines"],
)
def test_ci_runs_the_marked_command(tmp_path, readme, status, words):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".ci").mkdir()
    script = Path(shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci"))
    (tmp_path / "README.md").write_text(readme, "utf-8")
    result = subprocess.run(["bash", script], capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL)
    assert result.returncode == status and words in result.stderr, result.stderr
    assert script.stat().st_mode & 0o111
    if status == 0:
        first, *listed, folder = result.stdout.splitlines()
        assert first == "+ ls -a && pwd" and ".venv" not in listed and Path(folder).samefile(tmp_path)


def test_wheel_takes_the_data_along():
    assert WHEEL["only-include"] == [diffmask_lite.__name__, "data"]
    assert WHEEL["sources"] == {"data": f"{diffmask_lite.__name__}/_data"}
    for name in ("README.md", "manifest.json"):
        assert (ROOT / "data" / name).is_file()


def test_citation_has_the_required_keys_and_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == PROJECT["version"] == diffmask_lite.__version__
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["identifiers"][0]["value"] == "arXiv:2304.06391" and len(paper["authors"]) == 5


def test_workflow_runs_the_same_script_from_the_oldest_python_on():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    job = workflow["jobs"]["test"]
    pythons = job["strategy"]["matrix"]["python-version"]
    assert all(isinstance(version, str) for version in pythons), "an unquoted 3.10 is 3.1"
    assert f">={pythons[0]}" == PROJECT["requires-python"]
    assert {"run": ".ci/run"} in job["steps"]


def test_nbval_reads_every_sanitizer_rule():
    """nbval drops a rule without a word where the blank after 'replace:' is missing."""
    text = (ROOT / "tests" / "nbval_sanitize.cfg").read_text("utf-8")
    written = re.findall(r"^regex:(.*)$", text, flags=re.MULTILINE)
    assert len(get_sanitize_patterns(text)) == len(written) > 0


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_to_files(name):
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\((?!https?://)([^)#\s]+)", text)
    missing = [target for target in targets if not (ROOT / name).parent.joinpath(target).exists()]
    assert not missing, f"{name} links to {missing}"


def test_lecture_paths_name_sections_and_add_up():
    text = (ROOT / "docs" / "teaching.md").read_text("utf-8")
    table = re.search(r"^\| notebook \| 45 minutes .*?\n\n", text, flags=re.MULTILINE | re.DOTALL)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    assert sum(int(row[2]) for row in rows) == 45 and sum(int(row[4]) for row in rows) == 90
    for number, short, _, long, _ in rows:
        for path in (ROOT / "notebooks").glob(f"{number}_*.ipynb"):
            headings = reading.headings(nbformat.read(path, as_version=4).cells, 2)
            assert set(re.findall("“(.+?)”", short + long)) <= set(headings), f"not a heading of {path.name}"


def example(name: str) -> str:
    """The one Python block of a page."""
    (found,) = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return found


def test_readme_example_runs_as_it_stands_on_a_folder_of_photographs(tmp_path, monkeypatch, capsys):
    """But for a smaller ViT, without weights, and fewer steps."""
    make, draw = timm.create_model, np.random.default_rng(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: make(name, **small))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    for i in range(30):
        pixels = draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "cats" / f"{i}.png")
    text = example("README.md")
    assert text.count("steps=800") == 1
    names = {}
    exec(text.replace("steps=800", "steps=4"), names)
    assert "tensor" in capsys.readouterr().out and (tmp_path / "gates.safetensors").is_file()
    assert names["explainer"].class_aware and names["result"].keep.shape == (3, 4, 4) and len(names["check"].kl) == 3


def test_example_that_compares_prints_every_method(capsys):
    vit, explainer = weights.pretrained("grid")
    images = ColourGrid(20, seed=0).images
    exec(example("docs/your_own_vit.md"), {"vit": vit, "images": images, "explainer": explainer})
    printed = capsys.readouterr().out
    assert "srg" in printed and "gradient_attention" in printed and "shifted" in printed


def test_readme_is_one_page():
    text = re.sub(r"<!-- notebooks:begin -->.*?<!-- notebooks:end -->", "", README, flags=re.DOTALL)
    assert len(text.split()) <= 900


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(arguments):
    result = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
