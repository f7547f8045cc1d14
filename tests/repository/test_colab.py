"""The start of notebook 00 as Colab runs it: in an empty folder, with torch at hand and without this repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import nbformat
import pytest

import badges
import contract

ROOT, NOTEBOOK = badges.ROOT, badges.notebook_paths()[0]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Skipped: it needs symbolic links; run it on Linux or macOS")


def call(*command, **settings) -> str:
    """What a command prints; if it fails, the test fails with all that it said."""
    result = subprocess.run(command, text=True, capture_output=True, **settings)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def published(tmp_path):
    """A repository with one commit: the working tree as it is now, uncommitted changes too."""
    if not (ROOT / ".git").exists():
        pytest.skip("Skipped: this is no clone; git clone the repository to run this test")
    target = tmp_path / "published"
    names = call("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    git = ["git", "-C", target, "-c", "user.name=test", "-c", "user.email=test@example.org"]
    call(*git, "init", "--quiet", f"--initial-branch={badges.home().branch}")
    call(*git, "add", "--all")
    call(*git, "commit", "--quiet", "--message=as it is")
    return target


@pytest.fixture
def build_tools(tmp_path):
    """A folder with what building the package takes, which pip fetches where it isolates a build, as it does on Colab."""
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"]
    folder = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, *requires]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"Skipped: no package index that gives {requires}; connect to one to run this test")
    return folder


@pytest.fixture
def colab(tmp_path):
    """A Python with all packages of the running one but ours, and google.colab imported from the start."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            if "diffmask_lite" not in entry.name and entry.suffix != ".pth":  # an editable install is a .pth
                (packages / entry.name).symlink_to(entry)
    stub = tmp_path / "stub" / "google"
    (stub / "colab").mkdir(parents=True)
    (stub / "__init__.py").write_text("import pkgutil\n__path__ = pkgutil.extend_path(__path__, __name__)\n")
    (stub / "colab" / "__init__.py").touch()
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (site / "colab.pth").write_text(f"{stub.parent}\n{packages}\nimport google.colab\n")
    return tmp_path / "venv" / "bin" / "python"


def printed(content: nbformat.NotebookNode) -> list[str]:
    return [contract.text_of(cell) for cell in content.cells if cell.cell_type == "code"]


def test_first_results_on_colab(published, build_tools, colab, tmp_path):
    content = nbformat.read(NOTEBOOK, as_version=4)
    first = next(index for index, cell in enumerate(content.cells) if contract.is_claim(cell))
    content.cells = content.cells[: first + 1]
    path = tmp_path / "content" / NOTEBOOK.name
    path.parent.mkdir()
    nbformat.write(content, path)

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PIP_", "PYTHON", "VIRTUAL"))}
    repository = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{published.as_uri()}.insteadOf"}
    repository["GIT_CONFIG_VALUE_0"] = f"https://github.com/{badges.home().repository}"
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(build_tools), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    kernels = {"JUPYTER_DATA_DIR": str(tmp_path / "jupyter")}  # none of the user's
    run = {"env": kept | repository | pip | kernels, "cwd": path.parent}
    assert call(colab, "-c", "import importlib.util; print(importlib.util.find_spec('diffmask_lite'))", **run) == "None\n"
    call(colab, ROOT / "tools" / "run_notebooks.py", path, **run)  # refuses a cell that raises or writes to stderr
    assert printed(nbformat.read(path, as_version=4)) == printed(content)
    found = call(colab, "-c", "import diffmask_lite, torch; print(diffmask_lite.__file__, torch.__file__, sep='\\n')", **run)
    package, torch = map(Path, found.split())
    assert package.is_relative_to(colab.parents[1]), "the notebook used another copy than the one it installed"
    assert torch.is_relative_to(tmp_path / "packages"), "torch was installed again"
