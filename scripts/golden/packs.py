"""Golden packs of examples.

Proves: under packing, lora-train puts examples together as LLaMA-Factory does, so that a run has as many
steps.

Run:     python scripts/golden/packs.py LLAMAFACTORY      (0.9.5)
         LLAMAFACTORY is the directory of the Python package llamafactory, two functions of which are run.
Writes:  tests/golden/packs.json: [{lengths, capacity, packs}], packs as the lengths of their examples
"""

from __future__ import annotations

import ast
import bisect
import json
import random
import sys
from pathlib import Path

OUT = Path(__file__).parents[2] / "tests/golden/packs.json"
# Rows that LLaMA-Factory maps together (preprocessing_batch_size).
BATCH = 1000


def main() -> None:
    source = Path(sys.argv[1]) / "data/processor/processor_utils.py"
    wanted = {"search_for_fit", "greedy_knapsack"}
    functions = [node for node in ast.parse(source.read_text()).body if getattr(node, "name", "") in wanted]
    scope: dict = {"bisect": bisect}
    exec(compile(ast.Module(functions, []), str(source), "exec"), scope)
    rng = random.Random(1)
    golden = []
    for count, capacity in ((1, 10), (7, 10), (60, 31), (300, 127), (2300, 255)):
        lengths = [min(capacity, 1 + int(rng.paretovariate(1.2) * capacity / 12)) for _ in range(count)]
        packs = []
        for start in range(0, count, BATCH):
            packs += scope["greedy_knapsack"](lengths[start : start + BATCH], capacity)
        golden.append({"lengths": lengths, "capacity": capacity, "packs": packs})
    OUT.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(OUT, [len(case["packs"]) for case in golden])


if __name__ == "__main__":
    main()
