"""A false claim in a notebook fails the test run."""

import ast
import os
import subprocess
import sys

import nbformat
import pytest

from badges import notebook_paths
from contract import is_claim


def negated(source: str) -> str:
    """The same cell with every assert turned round."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            node.test = ast.UnaryOp(ast.Not(), node.test)
    return ast.unparse(ast.fix_missing_locations(tree))


@pytest.mark.parametrize("path", notebook_paths(), ids=lambda path: path.stem)
def test_notebook_whose_first_claim_is_false_fails_in_that_cell(path, tmp_path):
    content = nbformat.read(path, as_version=4)
    place = next(i for i, cell in enumerate(content.cells) if is_claim(cell))
    content.cells = [cell for cell in content.cells[: place + 1] if cell.cell_type == "code"]
    claim = content.cells[-1]
    claim.source = negated(claim.source)
    nbformat.write(content, tmp_path / path.name)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        tmp_path,
        "--nbval-lax",
        "--nbval-current-env",
        path.name,
    ]
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    result = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f" 1 failed, {len(content.cells) - 1} passed" in result.stdout, result.stdout
    assert "AssertionError" in result.stdout
