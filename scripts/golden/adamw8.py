"""Golden steps of bitsandbytes' 8-bit AdamW.

Proves: moments in 8 bits have the codes, scales and blocks of bitsandbytes' AdamW8bit, tensors of
fewer than 4096 values keep f32 moments, and parameters are updated with the moments of the same step.

Run:     python scripts/golden/adamw8.py         (torch 2.11, bitsandbytes 0.50.2, CPU)
Writes:  tests/golden/adamw8.safetensors, of a tensor of 4096 + 77 values and one of 40 behind it:
    STEP/gradients                    F32 [4213]
    STEP/parameters                   F32 [4213], before step STEP = 0, 1, ..., and after the last one
    STEP/{first,second}_moment.0.codes   U8 [4173], .absmax F32 [17], of the larger tensor
    STEP/{first,second}_moment.1         F32 [40], of the smaller one
and settings F32 [5], in the order of SETTINGS. A block of the first gradients is zero, and a block has
gradients of one part in a thousand and less.

bitsandbytes' CPU build looks codes up in a table of 65,536 cells, coarser than the unsigned map near
zero; so its plain torch code, which takes the nearest codes as its CUDA kernel does, quantizes here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from bitsandbytes.backends.cpu import ops
from bitsandbytes.optim import AdamW8bit
from safetensors.torch import save_file

OUT = Path(__file__).parents[2] / "tests/golden/adamw8.safetensors"
SIZES = [4096 + 77, 40]
STEPS = 3
SETTINGS = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "weight_decay": 0.1}


def quantize_in_torch(values: torch.Tensor, code: torch.Tensor, absmax: torch.Tensor, out: torch.Tensor, size: int) -> None:
    quantize = torch.ops.bitsandbytes.quantize_blockwise.default
    codes, scales = quantize._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, values, code, size)
    out.copy_(codes)
    absmax.copy_(scales)


def main() -> None:
    ops._quant_blockwise_fp32_direct = quantize_in_torch
    torch.manual_seed(0)
    tensors = [torch.nn.Parameter(torch.randn(size)) for size in SIZES]
    s = SETTINGS
    optimizer = AdamW8bit(
        tensors, lr=s["learning_rate"], betas=(s["beta1"], s["beta2"]), eps=s["epsilon"], weight_decay=s["weight_decay"]
    )
    golden = {"settings": torch.tensor(list(SETTINGS.values()))}

    def keep(step: int) -> None:
        golden[f"{step}/parameters"] = torch.cat([tensor.detach() for tensor in tensors])
        for index, tensor in enumerate(tensors):
            for number, name in [("1", "first_moment"), ("2", "second_moment")]:
                state = optimizer.state[tensor]
                if state.get("state" + number) is None:
                    continue  # before the first step
                in_8_bits = "absmax" + number in state
                golden[f"{step}/{name}.{index}" + ".codes" * in_8_bits] = state["state" + number].clone()
                if in_8_bits:
                    golden[f"{step}/{name}.{index}.absmax"] = state["absmax" + number].clone()

    for step in range(STEPS):
        keep(step)
        # As gradients are: over some orders of magnitude.
        gradients = [torch.randn(size) * 10 ** (-2 * torch.rand(size)) for size in SIZES]
        if step == 0:
            gradients[0][256:512] = 0
            gradients[0][512:768] *= 1e-3
        for tensor, gradient in zip(tensors, gradients):
            tensor.grad = gradient
        golden[f"{step}/gradients"] = torch.cat(gradients)
        optimizer.step()
    keep(STEPS)
    save_file(golden, OUT)


if __name__ == "__main__":
    main()
