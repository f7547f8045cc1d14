# Finds the course's package, wherever this notebook runs; running it twice does no harm.
import importlib.util
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

repository, branch = "https://github.com/OWNER/diffmask_lite", "main"
spec = importlib.util.find_spec("diffmask_lite")
if spec is None or spec.origin is None:  # not installed, so look for a clone from here upwards
    folders = [p for p in (Path.cwd(), *Path.cwd().parents) if (p / "diffmask_lite" / "__init__.py").is_file()]
    if folders:
        sys.path.insert(0, str(folders[0]))
    elif "google.colab" in sys.modules:  # install it, and what is missing, but leave Colab's torch and numpy alone
        clone = Path(tempfile.mkdtemp()) / "diffmask_lite"
        subprocess.run(["git", "clone", "--quiet", "--depth=1", f"--branch={branch}", repository, clone], check=True)
        needs = tomllib.loads((clone / "pyproject.toml").read_text())["project"]["dependencies"]
        needs = [need for need in needs if not need.startswith(("torch", "numpy"))]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", clone, *needs], check=True)
        importlib.invalidate_caches()
    else:
        raise ModuleNotFoundError(f"diffmask_lite is not here: clone {repository} and open its notebooks.")
