"""The choices of multiple-choice questions as answers of their own, one row each, so that the loss of a
model tells which of them it finds likeliest. usage: choices.py MMLU_CSV..."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path


def main() -> None:
    """Print the rows as JSON: four for each question, in the order of the files."""
    rows = []
    for path in sys.argv[1:]:
        for question, *choices, _ in csv.reader(Path(path).open(encoding="utf-8", newline="")):
            rows += [{"instruction": question, "input": "", "output": choice} for choice in choices]
    json.dump(rows, sys.stdout, ensure_ascii=False, indent=2)


if __name__ == "__main__":
    main()
