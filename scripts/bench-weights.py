#!/usr/bin/env python3
"""Time and peak memory of `quantize` and `merge` on a model, for `make bench`.

    scripts/bench-weights.py MODEL [--bin target/release] [--repeats 5]

Quantizes MODEL, makes a random adapter of rank 8 for every linear weight, and merges it into
the quantized and into the original weights, each time from nothing. Prints one JSON object per
measure, as scripts/bench-peers.py does; the time is the median, the memory the largest resident
set, mapped files included. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

RANK = 8


def shapes(model: Path) -> dict[str, list[int]]:
    """Shapes of the linear weights of a model's blocks, by module."""
    found = {}
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name.endswith("_proj.weight"):
                found[name.removesuffix(".weight")] = tensor["shape"]
    if not found:
        sys.exit(f"bench-weights: {model} has no linear weights\nhint: name a model directory")
    return found


def write_adapter(folder: Path, base: Path, modules: dict[str, list[int]]) -> None:
    """A PEFT adapter of small random numbers."""
    folder.mkdir()
    numbers = random.Random(1)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for module, (outputs, inputs) in sorted(modules.items()):
        for part, shape in (("lora_A", [RANK, inputs]), ("lora_B", [outputs, RANK])):
            values = array("f", (numbers.gauss(0, 0.02) for _ in range(math.prod(shape))))
            begin = len(data)
            data += values.tobytes()
            header[f"base_model.model.{module}.{part}.weight"] = {
                "dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)],
            }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    names = sorted({module.rsplit(".", 1)[1] for module in modules})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": RANK,
              "lora_alpha": 16, "target_modules": names}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def measure(name: str, command: list[str], repeats: int) -> None:
    """Run a command several times and print its median time and largest memory."""
    seconds, peak = [], 0
    for _ in range(repeats):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - start)
        peak = max(peak, usage.ru_maxrss)
        if status:
            sys.exit(f"bench-weights: {' '.join(command)} failed")
    result = {"measure": name, "value": round(statistics.median(seconds), 3), "unit": "s",
              "peak_rss_gib": round(peak / 2**20, 3)}  # fmt: skip
    print(json.dumps(result), flush=True)


def main() -> None:
    """Measure both tools."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="where the tools are")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    model = args.model.resolve()
    with tempfile.TemporaryDirectory(prefix="bench-weights-") as scratch:
        folder = Path(scratch)
        quantize, merge = str(args.bin / "quantize"), str(args.bin / "merge")
        options = ["--force", "--quiet", "-o"]
        measure("quantize model", [quantize, str(model), *options, str(folder / "q")], args.repeats)
        write_adapter(folder / "adapter", folder / "q", shapes(model))
        adapter, merged = str(folder / "adapter"), str(folder / "m")
        measure("merge into nf4", [merge, adapter, *options, merged], args.repeats)
        measure("merge into bf16", [merge, adapter, "--base", str(model), *options, merged], args.repeats)


if __name__ == "__main__":
    main()
