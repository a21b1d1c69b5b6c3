"""Golden learning rates of transformers' schedulers.

Proves: lora-train's schedules are transformers' get_scheduler, step by step, with and without
warm-up and with each of the settings of lr_scheduler_kwargs.

Run:     python scripts/golden/schedules.py          (torch 2.11, transformers 5.23)
Writes:  tests/golden/schedules.json: a list of {name, kwargs, peak, warmup, total, rates [total]}
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import get_scheduler

OUT = Path(__file__).parents[2] / "tests/golden/schedules.json"
CASES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.25}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"power": 2.0, "lr_end": 1e-6}),
    ("constant", {}),
    ("constant_with_warmup", {}),
]
LENGTHS = [(0, 7), (3, 14), (12, 114), (4, 5)]  # warm-up, total


def rates(name: str, kwargs: dict, peak: float, warmup: int, total: int) -> list[float]:
    """The rate of every step."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=dict(kwargs))
    found = []
    for _ in range(total):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def main() -> None:
    cases = []
    for name, kwargs in CASES:
        for peak, (warmup, total) in zip((1e-4, 5e-5, 1e-5, 2e-4), LENGTHS):
            case = {"name": name, "kwargs": kwargs, "peak": peak, "warmup": warmup, "total": total}
            cases.append(case | {"rates": rates(name, kwargs, peak, warmup, total)})
    OUT.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
