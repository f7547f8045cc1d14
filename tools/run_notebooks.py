"""Execute notebooks in place, each from a clean kernel, and store them as the notebooks' tests want them.

    python tools/run_notebooks.py                              all of notebooks/
    python tools/run_notebooks.py notebooks/00_quickstart.ipynb

Stored are the outputs, execution counts from 1, and nothing that differs from run to run or from machine to machine: no
timing, no widget state, no kernel details. The same outputs therefore give the same bytes. A notebook in which a cell
raises, or writes to stderr, is reported and left as it was. Wall seconds and the slowest cells are printed.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
SLOWEST = 3
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a traceback


class Fault(Exception):
    """A cell did what a stored notebook must not show."""


def merge_streams(outputs: list) -> list:
    """Join neighbouring pieces of one stream: where a kernel happens to flush is chance, and must not be stored."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def normalise(content: nbformat.NotebookNode) -> None:
    """Take out, in place, whatever depends on the run or on the machine; outputs a reader sees stay as they are."""
    content.metadata.pop("widgets", None)
    content.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content.metadata.language_info = {"name": "python"}
    content.nbformat, content.nbformat_minor = 4, 5
    for number, cell in enumerate(content.cells):
        cell.setdefault("id", f"cell-{number}")
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = merge_streams(cell.outputs)
        for output in cell.outputs:
            # The view of a widget without its state can only show an error; its text form stays.
            output.get("data", {}).pop(WIDGET, None)
            if "image/png" in output.get("data", {}):  # PIL shows a picture as JPEG as well
                output.data.pop("image/jpeg", None)


def execute(content: nbformat.NotebookNode, folder: Path, timeout: int) -> list[tuple[float, int]]:
    """Run all cells in a new kernel that works in `folder`; (seconds, index) of each code cell, or a Fault."""
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        content,
        kernel_name="python3",
        timeout=timeout,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    seconds = []
    with client.setup_kernel():
        for index, cell in enumerate(content.cells):
            if cell.cell_type != "code":
                continue
            start = time.perf_counter()
            try:
                client.execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                raise Fault(f"cell {index} failed:\n" + COLOURS.sub("", str(error))) from None
            seconds.append((time.perf_counter() - start, index))
            told = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stderr")
            if told:
                raise Fault(f"cell {index} wrote to stderr:\n{cell.source}\n\n{told}")
    return seconds


def run(path: Path, timeout: int = 600) -> list[tuple[float, int]]:
    """Execute the notebook at `path` and store it there in one step; the seconds of its code cells."""
    content = nbformat.read(path, as_version=4)
    seconds = execute(content, path.parent, timeout)
    normalise(content)
    nbformat.validate(content)
    partial = path.with_suffix(".ipynb.partial")
    partial.write_text(nbformat.writes(content) + "\n", "utf-8", newline="\n")
    os.replace(partial, path)
    return seconds


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="files to execute (default: all of notebooks/)")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one cell may take (default: 600)")
    options = parser.parse_args(arguments)
    # Set to another backend, as on many servers, this would keep figures from being shown inline.
    os.environ.pop("MPLBACKEND", None)
    failed = 0
    for path in options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
        start = time.perf_counter()
        try:
            seconds = run(path.resolve(), options.timeout)
        except Fault as fault:
            failed += 1
            print(f"{path.name}: left as it was, {fault}\n")
            continue
        slow = ", ".join(f"cell {index} {taken:.1f} s" for taken, index in sorted(seconds, reverse=True)[:SLOWEST])
        print(f"{path.name}: {time.perf_counter() - start:.1f} s; slowest: {slow}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
