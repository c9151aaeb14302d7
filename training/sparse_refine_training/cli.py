"""Trains, scores and exports model bundles of sparse_refine; writes the golden files of its tests."""

from __future__ import annotations

import argparse
import sys

from . import evaluate, export, goldens, oracle, relabel, rotation, train_refiner, train_segmenter, train_selector
from . import evaluate_two_column, export_two_column, quantize, train_two_column
from .data import DataError


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python3 -m sparse_refine_training", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    sparse_refine = (train_segmenter, oracle, train_refiner, rotation, train_selector, evaluate, export)
    two_column = (train_two_column, evaluate_two_column, export_two_column)
    for module in (*sparse_refine, *two_column, quantize, relabel, goldens):
        module.add_command(commands)
    return root


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 2 for data or files that cannot be used, said in one line."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (DataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
