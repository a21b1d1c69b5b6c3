"""Golden NF4 blocks from bitsandbytes' CPU build.

Proves: our codec packs the same nibbles, and reads back the same f32 values, as
bitsandbytes' quantize_4bit / dequantize_4bit, on shapes and values where codecs go wrong:
odd element counts, a short last block, blocks of zeros, values one ulp around each of the
15 thresholds, denormals, f16/bf16/f32 inputs, more than one nested block.

Run:     python scripts/golden/nf4.py            (torch 2.11, bitsandbytes 0.50.2, CPU)
Writes:  tests/golden/nf4.safetensors. For every case NAME:
    NAME/input                 the tensor, its dtype the input dtype
    NAME/packed                U8 [(n+1)/2], even element in the high nibble
    NAME/absmax                F32 [nb], without double quantization
    NAME/dequantized           F32 [n], LUT[nibble] * absmax
    NAME/dq.absmax             U8 [nb]   codes of absmax - offset
    NAME/dq.nested_absmax      F32 [nn]
    NAME/dq.offset             F32 [1]
    NAME/dq.dequantized        F32 [n], from the double-quantized absmax
and quant_map F32 [16], nested_quant_map F32 [256].

Where bitsandbytes' CPU and CUDA builds differ, the rule to follow is in the case's name:
    *_cpu_scale   absmax below 1e-38: the CPU build scales by 1 / 1e-38, CUDA overflows
    zero_tail     a short last block of zeros: the CPU build stores absmax 1e-38, CUDA 0
The CPU build divides in the short last block where full blocks multiply by the reciprocal,
and looks absmax codes up in a table that may be one step off the nearest; tests allow one
step in dq.absmax and compare dq.dequantized through the golden's own codes. Where
dq.nested_absmax is 0 the codes mean nothing (the CPU build writes 0).
"""

from __future__ import annotations

from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

OUT = Path(__file__).parents[2] / "tests/golden/nf4.safetensors"
BLOCK = 64
THRESHOLDS = [
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544,
    -0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767,
    0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
    0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
]  # fmt: skip


def normal(shape: tuple[int, ...], seed: int, scale: float = 0.02) -> torch.Tensor:
    """Gaussian weights of a plausible size."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def around_thresholds(absmax: float) -> torch.Tensor:
    """One block: its absmax, then each threshold times absmax, one ulp below, exact, one above."""
    exact = torch.tensor(THRESHOLDS, dtype=torch.float32) * absmax
    inf = torch.full_like(exact, torch.inf)
    values = [torch.nextafter(exact, -inf), exact, torch.nextafter(exact, inf)]
    tail = torch.zeros(BLOCK - 1 - 3 * len(THRESHOLDS))
    return torch.cat([torch.tensor([absmax]), *values, tail]).reshape(1, BLOCK)


def with_zero_blocks() -> torch.Tensor:
    """Six rows of one block each, the second and the last all zero, one of them negative zero."""
    values = normal((6, BLOCK), 5)
    values[1] = 0.0
    values[5] = -0.0
    return values


def zero_tail() -> torch.Tensor:
    """A full block, then a short one of zeros."""
    return torch.cat([normal((BLOCK,), 6), torch.zeros(10)]).reshape(2, 37)


def cases() -> dict[str, torch.Tensor]:
    """Every input by name."""
    tiny = torch.finfo(torch.float32).tiny
    return {
        "one_element": torch.tensor([[-0.37]]),
        "short_block": normal((3, 7), 1),
        "odd_ragged": normal((5, 13), 2),
        "odd_rows": normal((7, 77), 3),
        "full_blocks": normal((8, 128), 4),
        "zero_blocks": with_zero_blocks(),
        "zero_tail": zero_tail(),
        "thresholds_unit": around_thresholds(1.0),
        "thresholds_third": around_thresholds(1.0 / 3.0),
        "thresholds_large": around_thresholds(7.77e4),
        "smallest_normal": normal((2, BLOCK), 7) * (tiny * 50),
        "denormal_cpu_scale": normal((2, BLOCK), 8) * (tiny * 0.5),
        "huge": normal((2, BLOCK), 9, 1e37),
        "bf16": normal((12, 100), 10).bfloat16(),
        "f16": normal((12, 100), 11).half(),
        "two_nested_blocks": normal((300, BLOCK), 12).bfloat16(),
    }


def by_hand(packed: torch.Tensor, absmax: torch.Tensor, count: int, lut: torch.Tensor) -> torch.Tensor:
    """LUT[nibble] * absmax in f32, written out: guards the golden against a faulty kernel."""
    nibbles = torch.stack([packed >> 4, packed & 15], dim=1).reshape(-1)[:count].long()
    return lut[nibbles] * absmax.repeat_interleave(BLOCK)[:count]


def quantize(name: str, value: torch.Tensor, lut: torch.Tensor) -> dict[str, torch.Tensor]:
    """All tensors of one case."""
    packed, plain = bnb.quantize_4bit(value, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    packed_dq, nested = bnb.quantize_4bit(value, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    packed = packed.reshape(-1)
    assert torch.equal(packed, packed_dq.reshape(-1)), name
    absmax_dq = bnb.dequantize_blockwise(nested.absmax, nested.state2) + nested.offset
    dequantized = by_hand(packed, plain.absmax, value.numel(), lut)
    if value.dtype == torch.float32:
        theirs = bnb.dequantize_4bit(packed.reshape(-1, 1), plain).reshape(-1)
        assert torch.equal(theirs, dequantized), f"{name}: bitsandbytes' own dequantization differs"
    return {
        f"{name}/input": value,
        f"{name}/packed": packed,
        f"{name}/absmax": plain.absmax,
        f"{name}/dequantized": dequantized,
        f"{name}/dq.absmax": nested.absmax,
        f"{name}/dq.nested_absmax": nested.state2.absmax,
        f"{name}/dq.offset": nested.offset.reshape(1),
        f"{name}/dq.dequantized": by_hand(packed, absmax_dq, value.numel(), lut),
    }


def main() -> None:
    """Quantize every case and write one file."""
    lut = bnb.get_4bit_type("nf4", device="cpu")
    tensors = {"quant_map": lut.clone(), "nested_quant_map": bnb.create_dynamic_map().clone()}
    for name, value in cases().items():
        tensors |= quantize(name, value, lut)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT, metadata={"format": "pt", "bitsandbytes": "0.50.2"})
    OUT.chmod(0o644)
    print(OUT)


if __name__ == "__main__":
    main()
