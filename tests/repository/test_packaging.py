"""Files that have to say the same thing do: pyproject.toml, environment.yml, README.md, .ci/run and the rest."""

import ast
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from nbval.plugin import get_sanitize_patterns
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import diffmask_lite
import reading
from diffmask_lite import weights
from diffmask_lite.datasets import ColourGrid

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]
WHEEL = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]


def command(marker: str) -> list[str]:
    """The lines of the fenced block after a marker in the README."""
    match = re.search(rf"^<!-- {marker} -->\n+```\w*\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert match, f"README.md lacks <!-- {marker} --> and a fenced block after it"
    return match[1].splitlines()


def extras(text: str) -> set[str]:
    """The extras named in a text such as '.[lab,test]'."""
    return {name for names in re.findall(r"\.\[([\w,]+)\]", text) for name in names.split(",")}


def test_environment_holds_no_version_but_pythons():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    (python,) = (entry for entry in plain if entry.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert set(plain) == {python, "pip"}
    assert len(pip) == 1 and re.fullmatch(r'-e "\.\[[\w,]+\]"', pip[0])
    assert extras(pip[0]) == {"lab", "test"}


def test_named_extras_exist():
    texts = [README, *((ROOT / name).read_text("utf-8") for name in ("environment.yml", "CONTRIBUTING.md"))]
    assert {"lab", "test"} <= extras("\n".join(texts)) <= set(PROJECT["optional-dependencies"])


def test_installed_versions_are_admitted():
    """The environment that runs the tests lies within the bounds, so the bounds admit one that works."""
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]):
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} does not admit {version}"


@pytest.mark.parametrize(("marker", "end"), [("lab-command", "00_quickstart.ipynb"), ("test-command", "-m pytest")])
def test_readme_has_the_command_in_one_line(marker, end):
    (line,) = command(marker)
    assert line.startswith("python3 -m venv .venv && .venv/bin/python -m pip install -e ")
    assert line.endswith(end)


def test_windows_commands_are_the_same_commands():
    for marker in ("lab-command", "test-command"):
        (line,) = command(marker)
        windows = line.replace("python3 ", "py ").replace(" && ", "; ").replace(".venv/bin/", ".venv\\Scripts\\")
        assert f"```powershell\n{windows}\n```" in README


def test_notebook_of_the_lab_command_exists():
    (line,) = command("lab-command")
    assert (ROOT / line.split()[-1]).is_file()


@pytest.fixture
def ci(tmp_path):
    """Run a copy of .ci/run beside a README of the given text."""

    def run(readme: str):
        (tmp_path / ".ci").mkdir()
        script = tmp_path / ".ci" / "run"
        script.write_bytes((ROOT / ".ci" / "run").read_bytes())
        (tmp_path / ".venv").mkdir()
        (tmp_path / "README.md").write_text(readme, "utf-8")
        return subprocess.run(["bash", script], capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL)

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="Skipped: .ci/run is a bash script; run it on Linux or macOS")
class TestCiRun:
    def test_runs_the_marked_command_in_a_fresh_place(self, ci, tmp_path):
        text = README.replace(command("test-command")[0], "ls -a && pwd")
        result = ci(text)
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[0] == "+ ls -a && pwd"
        assert Path(result.stdout.splitlines()[-1]).samefile(tmp_path)
        assert ".venv" not in result.stdout.splitlines()

    def test_fails_as_the_command_fails(self, ci):
        assert ci("<!-- test-command -->\n```bash\nexit 7\n```\n").returncode == 7

    @pytest.mark.parametrize(
        "readme",
        [
            "```bash\necho no marker\n```\n",
            "<!-- test-command -->\n",
            "<!-- test-command -->\n```\necho 1\necho 2\n```\n",
        ],
    )
    def test_says_what_the_readme_lacks(self, ci, readme):
        result = ci(readme)
        assert result.returncode == 1
        assert "<!-- test-command -->" in result.stderr

    def test_is_executable(self):
        assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_wheel_takes_the_data_along():
    assert WHEEL["only-include"] == [diffmask_lite.__name__, "data"]
    assert WHEEL["sources"] == {"data": f"{diffmask_lite.__name__}/_data"}
    for name in ("README.md", "manifest.json"):
        assert (ROOT / "data" / name).is_file()


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert str(citation["version"]) == PROJECT["version"]
    assert getattr(diffmask_lite, "__version__", PROJECT["version"]) == PROJECT["version"]


def test_citation_has_the_required_keys():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert paper["identifiers"][0]["value"] == "arXiv:2304.06391"
    assert len(paper["authors"]) == 5


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


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(name):
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\((?!https?://)([^)#\s]+)", text)
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing, f"{name} links to {missing}"


def test_lecture_paths_name_sections_and_add_up():
    table = re.search(r"^\| notebook \| 45 minutes .*?\n\n", README, flags=re.MULTILINE | re.DOTALL)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    assert sum(int(row[2]) for row in rows) == 45 and sum(int(row[4]) for row in rows) == 90
    for number, short, _, long, _ in rows:
        for path in (ROOT / "notebooks").glob(f"{number}_*.ipynb"):
            headings = reading.headings(nbformat.read(path, as_version=4).cells, 2)
            assert set(re.findall("“(.+?)”", short + long)) <= set(headings), f"not a heading of {path.name}"


EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_readme_has_its_three_examples():
    assert len(EXAMPLES) == 3


def test_gates_that_rank_in_the_readme_are_trained_and_cut():
    vit, _ = weights.pretrained("grid")
    data = ColourGrid(20, seed=0)
    names = {"vit": vit, "dataset": data, "images": data.images}
    assert "steps=10_000" in EXAMPLES[1]
    exec(EXAMPLES[1].replace("steps=10_000", "steps=2, progress=False"), names)
    assert names["explainer"].cut is not None and names["explainer"].placeholder == "drop"


@pytest.mark.parametrize("example", EXAMPLES)
def test_imports_of_the_readme_examples_exist(example):
    imports = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)]
    assert imports, "the example imports nothing of ours"
    for node in imports:
        exec(ast.unparse(node), {})


def test_comparison_in_the_readme_runs(capsys):
    vit, explainer = weights.pretrained("grid")
    images = ColourGrid(20, seed=0).images
    exec(EXAMPLES[2], {"vit": vit, "images": images, "result": explainer.explain(images)})
    printed = capsys.readouterr().out
    assert "srg" in printed and "gradient_attention" in printed


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(arguments):
    result = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
