"""Checksums of SmolLM2-135M-Instruct's 210 linear weights as bitsandbytes packs them.

Proves: `quantize` writes byte for byte the packed weights of bitsandbytes, for every linear
of a real model, and the same absmax values before they are quantized again.

Run:     python scripts/golden/nf4_smollm2.py MODEL_DIR     (torch 2.11, bitsandbytes 0.50.2)
Writes:  tests/golden/nf4_smollm2.json: {"linears": {NAME: {"shape": [N, K], "packed": SHA256,
"absmax": SHA256, "nested_offset": F32}}}. `packed` hashes the [N*K/2] bytes, `absmax` the
little-endian f32 values [N*K/64] of quantization without double quantization;
`nested_offset` is their f32 mean (torch's order of summation, so compare to a few ulp).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors import safe_open

OUT = Path(__file__).parents[2] / "tests/golden/nf4_smollm2.json"


def sha256(tensor: torch.Tensor) -> str:
    """Hash of a tensor's raw bytes."""
    return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def summary(weight: torch.Tensor) -> dict[str, object]:
    """One linear's checksums."""
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    return {
        "shape": list(weight.shape),
        "packed": sha256(packed),
        "absmax": sha256(state.absmax),
        "nested_offset": state.absmax.mean().item(),
    }


def main() -> None:
    """Hash every two-dimensional projection, in name order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory made by scripts/demo-model.py")
    args = parser.parse_args()
    with safe_open(args.model / "model.safetensors", framework="pt") as file:
        names = sorted(name for name in file.keys() if name.endswith("_proj.weight"))
        linears = {name: summary(file.get_tensor(name)) for name in names}
    assert len(linears) == 210, len(linears)
    OUT.write_text(json.dumps({"linears": linears}, indent=1) + "\n")
    print(OUT)


if __name__ == "__main__":
    main()
