# Finds the course's package, wherever this notebook runs; running it twice does no harm.
import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

repository, branch = "https://github.com/OWNER/diffmask_lite", "main"
spec = importlib.util.find_spec("diffmask_lite")
if spec is None or spec.origin is None:  # not installed, so look for a clone from here upwards
    folders = [p for p in (Path.cwd(), *Path.cwd().parents) if (p / "diffmask_lite" / "__init__.py").is_file()]
    if folders:
        sys.path.insert(0, str(folders[0]))
    elif "google.colab" in sys.modules:  # install it, and what is missing, but leave Colab's torch and numpy alone
        clone = Path(tempfile.mkdtemp()) / "diffmask_lite"
        quiet = ["--quiet", "--config=advice.detachedHead=false"]  # the branch may be a release tag
        subprocess.run(["git", "clone", *quiet, "--depth=1", f"--branch={branch}", repository, clone], check=True)
        held = [f"{name}=={importlib.metadata.version(name)}\n" for name in ("torch", "torchvision", "numpy")]
        (clone / "held.txt").write_text("".join(held))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", clone / "held.txt"]
        subprocess.run([*pip, clone, "ipywidgets"], check=True)
        importlib.invalidate_caches()
    else:
        raise ModuleNotFoundError(f"diffmask_lite is not here: clone {repository} and open its notebooks.")
