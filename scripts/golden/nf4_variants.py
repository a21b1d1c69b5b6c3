"""Golden blocks of both 4-bit types in every block size, from bitsandbytes' CPU build.

Proves: our codec packs the same codes as bitsandbytes' quantize_4bit for NF4 and FP4, whatever
the block size, the last block being short in all of them.

Run:     python scripts/golden/nf4_variants.py      (torch 2.11, bitsandbytes 0.50.2, CPU)
Writes:  tests/golden/nf4_variants.safetensors:
    input                  BF16 [3, 3001]: Gaussian, with zeros and numbers of one size in between
    TYPE.SIZE.packed       U8 [4502], TYPE = nf4 | fp4, SIZE = 32 ... 4096
    TYPE.SIZE.absmax       F32 [ceil(9003 / SIZE)]
    TYPE.SIZE.dequantized  BF16 [9003], only of SIZE 4096: LUT[code] * absmax in f32, rounded
"""

from __future__ import annotations

from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parents[2] / "tests/golden/nf4_variants.safetensors"
SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]


def weight() -> torch.Tensor:
    """Plausible weights, a run of zeros and a run of equal numbers."""
    values = torch.randn((3, 3001), generator=torch.Generator().manual_seed(21)) * 0.02
    values[0, 64:192] = 0.0
    values[1, 100:300] = -0.015625
    return values.bfloat16()


def main() -> None:
    """Quantize the weight in every way and write one file."""
    value = weight()
    tensors = {"input": value}
    for kind in ("nf4", "fp4"):
        for size in SIZES:
            packed, state = bnb.quantize_4bit(value, blocksize=size, quant_type=kind)
            tensors[f"{kind}.{size}.packed"] = packed.reshape(-1)
            tensors[f"{kind}.{size}.absmax"] = state.absmax
        tensors[f"{kind}.{SIZES[-1]}.dequantized"] = bnb.dequantize_4bit(packed, state).reshape(-1)
    save_file(tensors, OUT, metadata={"format": "pt", "bitsandbytes": "0.50.2"})
    OUT.chmod(0o644)
    print(OUT)


if __name__ == "__main__":
    main()
