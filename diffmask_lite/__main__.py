"""Explain photographs, and train gates for a ViT of your own, from a terminal.

python -m diffmask_lite explain photo.jpg          a figure of what the ViT needs of a photograph
python -m diffmask_lite train-gates --help         the gates of any timm ViT
"""

from __future__ import annotations

import argparse
import sys

from .commands import add_explain, add_train_gates


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m diffmask_lite", description="Explain what a Vision Transformer needs to see.")
    commands = top.add_subparsers(dest="command", required=True)
    add_explain(commands)
    add_train_gates(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal's encoding lacks becomes an escape, not an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"diffmask_lite: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from what is stored.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
