#!/usr/bin/env python3
"""Time and peak memory of `quantize` and `merge` on a model, for `make bench`.

    scripts/bench-weights.py MODEL [--bin target/release] [--repeats 5] [--disk]
    scripts/random-model.py qwen2.5-7b /big/7b && scripts/bench-weights.py /big/7b --disk --repeats 1

Quantizes MODEL, makes a random adapter of rank 8 for every linear weight, and merges it into
the quantized and into the original weights, each time from nothing. Prints one JSON object per
measure, as scripts/bench-peers.py does; the time is the median, the memory the largest resident
set, mapped files included, and what of it is the tool's own (sampled).

--disk works beside MODEL, forgets cached files before each run, measures how fast the disk reads
and writes one stream, and gives each time's share of that: 1 is a tool that takes as long as
reading its input and then writing its output. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
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


def forget(paths: list[Path]) -> None:
    """Takes files out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def weights(folder: Path) -> list[Path]:
    """The weight files of a model or an adapter."""
    return sorted(folder.glob("*.safetensors"))


def size(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(path.stat().st_size for path in weights(folder))


def disk_speeds(model: Path, scratch: Path) -> tuple[float, float]:
    """Bytes a second that one stream reads and writes."""
    forget(weights(model))
    block, start = bytearray(8 << 20), time.perf_counter()
    for path in weights(model):
        with path.open("rb", buffering=0) as file:
            while file.readinto(block):
                pass
    read = size(model) / (time.perf_counter() - start)
    target, count = scratch / "written", max(1, size(model) // 4 // len(block))
    start = time.perf_counter()
    with target.open("wb", buffering=0) as file:
        for _ in range(count):
            file.write(block)
        os.fsync(file.fileno())
    write = count * len(block) / (time.perf_counter() - start)
    target.unlink()
    for name, speed in (("disk reads", read), ("disk writes", write)):
        print(json.dumps({"measure": name, "value": round(speed / 1e6), "unit": "MB/s"}), flush=True)
    return read, write


def own_memory(process: int) -> int:
    """KiB that belong to a process and to no file; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.split("\n") if line.startswith("RssAnon")), 0)


class Bench:
    """Runs that are measured."""

    def __init__(self, repeats: int, speeds: tuple[float, float] | None) -> None:
        self.repeats, self.speeds = repeats, speeds

    def measure(self, name: str, command: list[str], inputs: list[Path], output: Path) -> None:
        """Runs a command several times, each time from nothing, and prints what it took."""
        seconds, peak, own = [], 0, 0
        for _ in range(self.repeats):
            shutil.rmtree(output, ignore_errors=True)
            if self.speeds:
                forget([path for folder in inputs for path in weights(folder)])
            start = time.perf_counter()
            process = subprocess.Popen([*command, "-o", str(output)], stdout=subprocess.DEVNULL)
            while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
                own = max(own, own_memory(process.pid))
                time.sleep(0.005)
            seconds.append(time.perf_counter() - start)
            peak = max(peak, ended[2].ru_maxrss)
            if ended[1]:
                sys.exit(f"bench-weights: {' '.join(command)} failed")
        taken = statistics.median(seconds)
        result = {"measure": name, "value": round(taken, 3), "unit": "s", "peak_rss_gib": round(peak / 2**20, 3),
                  "own_memory_gib": round(own / 2**20, 3)}  # fmt: skip
        if self.speeds:
            read, write = self.speeds
            least = sum(map(size, inputs)) / read + size(output) / write
            result["share_of_disk"] = round(least / taken, 2)
        print(json.dumps(result), flush=True)


def main() -> None:
    """Measure both tools."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--bin", type=Path, default=Path("target/release"), help="where the tools are")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--disk", action="store_true", help="work beside MODEL and compare with the disk")
    args = parser.parse_args()
    model = args.model.resolve()
    place = model.parent if args.disk else None
    with tempfile.TemporaryDirectory(prefix="bench-weights-", dir=place) as scratch:
        folder = Path(scratch)
        bench = Bench(args.repeats, disk_speeds(model, folder) if args.disk else None)
        quantize, merge = str(args.bin / "quantize"), str(args.bin / "merge")
        quantized, adapter, merged = folder / "q", folder / "adapter", folder / "m"
        bench.measure("quantize model", [quantize, str(model), "--quiet"], [model], quantized)
        write_adapter(adapter, quantized, shapes(model))
        folded = [merge, str(adapter), "--quiet"]
        bench.measure("merge into nf4", folded, [quantized], merged)
        bench.measure("merge into bf16", [*folded, "--base", str(model)], [model], merged)


if __name__ == "__main__":
    main()
