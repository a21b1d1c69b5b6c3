"""The table that ends `make demo`. usage: summary.py DEMO_DIR QUESTIONS SECONDS"""

from __future__ import annotations

import csv
import json
import operator
import re
import sys
from pathlib import Path
from typing import Any, Iterator


def size(folder: Path) -> str:
    """Size of the weights in a directory."""
    total = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return f"{total / 1e6:.0f} MB"


def lines(file: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def step_losses(adapter: Path) -> list[float]:
    """Losses of the training log."""
    return [line["loss"] for line in lines(adapter / "trainer_log.jsonl") if "loss" in line]


def held_out(report: Path) -> float:
    """The loss on what was not trained on."""
    return json.loads(report.read_text(encoding="utf-8"))["models"][0]["loss"]


def by_letter(report: Path) -> float:
    """Share of the questions whose letter the model finds, behind five answered ones."""
    return json.loads(report.read_text(encoding="utf-8"))["average"]["accuracy"]


def by_answer(details: Path, answers: list[int]) -> float:
    """Share of the questions where the right one of the four choices has the lowest loss a token."""
    losses = [line["loss"] for line in lines(details)]
    found = [min(range(4), key=losses[at : at + 4].__getitem__) for at in range(0, len(losses), 4)]
    return sum(map(operator.eq, found, answers)) / len(answers)


def right_choices(questions: Path) -> list[int]:
    """The right choice of every question, in the order in which demo.sh asks them."""
    files = (questions / f"test/{subject}_test.csv" for subject in ("tern_island", "tern_island_zh"))
    return ["ABCD".index(row[5]) for file in files for row in csv.reader(file.open(encoding="utf-8", newline=""))]


def ends(folder: Path, tools: list[str]) -> Iterator[tuple[str, str]]:
    """Each tool's own time and memory. In a pipe a tool waits for the one before it, so its time
    is what passed since that one ended."""
    before = 0.0
    for tool in tools:
        seconds, memory = re.findall(r"done in ([\d.]+) s(?:, peak memory (\d+) MiB)?", (folder / f"{tool}.log").read_text())[-1]
        yield f"time, memory: {tool}", f"{float(seconds) - before:.1f} s, {memory or '?'} MiB"
        before = float(seconds)


def main() -> None:
    """Print one line for each thing that changed."""
    folder, questions, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    steps, right = step_losses(folder / "adapter"), right_choices(questions)
    both = ("before", "after")
    losses = [held_out(folder / f"{when}-held-out.json") for when in both]
    answers = [100 * by_answer(folder / f"{when}-choices.jsonl", right) for when in both]
    letters = [100 * by_letter(folder / f"{when}-report.json") for when in both]
    rows = [
        ("weights: model", size(folder / "model/SmolLM2-135M-Instruct")),
        ("weights: NF4", size(folder / "nf4")),
        ("weights: adapter", size(folder / "adapter")),
        ("weights: merged", size(folder / "merged")),
        ("training loss: first steps, last steps", f"{steps[0]:.2f}, {steps[-1]:.2f}"),
        ("held-out loss: before, after", "{:.2f}, {:.2f}".format(*losses)),
        (f"{len(right)} questions, likeliest answer: before, after", "{:.0f} %, {:.0f} % right".format(*answers)),
        (f"{len(right)} questions, letter A to D: before, after", "{:.0f} %, {:.0f} % right".format(*letters)),
        *ends(folder, ["quantize", "lora-train", "merge", "evaluate"]),
        ("time in all", f"{seconds} s"),
    ]
    for name, value in rows:
        print(f"{name:<50} {value}")


if __name__ == "__main__":
    main()
