"""The table that ends `make demo`. usage: summary.py DEMO_DIR SECONDS"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Iterator


def size(folder: Path) -> str:
    """Size of the weights in a directory."""
    total = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return f"{total / 1e6:.0f} MB"


def losses(folder: Path) -> tuple[list[float], list[float]]:
    """Losses of the training log: of the steps, and of the held-out examples."""
    lines = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return [x["loss"] for x in lines if "loss" in x], [x["eval_loss"] for x in lines if "eval_loss" in x]


def accuracy(report: Path) -> dict[str, float]:
    """Accuracy by subject and over all, in per cent."""
    results = json.loads(report.read_text())["results"]
    return {name: 100 * entry["acc,none"] for name, entry in results.items()}


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
    folder, seconds = Path(sys.argv[1]), sys.argv[2]
    steps, held_out = losses(folder / "adapter")
    before, after = accuracy(folder / "before-report.json"), accuracy(folder / "after-report.json")
    rows = [
        ("weights: model", size(folder / "model/SmolLM2-135M-Instruct")),
        ("weights: NF4", size(folder / "nf4")),
        ("weights: adapter", size(folder / "adapter")),
        ("weights: merged", size(folder / "merged")),
        ("loss: first steps, last steps", f"{steps[0]:.2f}, {steps[-1]:.2f} (held out: {held_out[-1]:.2f})"),
        *((f"accuracy: {name}", f"{before[name]:.0f} %, {after[name]:.0f} %") for name in before),
        *ends(folder, ["quantize", "lora-train", "merge", "evaluate"]),
        ("time in all", f"{seconds} s"),
    ]
    for name, value in rows:
        print(f"{name:<40} {value}")


if __name__ == "__main__":
    main()
