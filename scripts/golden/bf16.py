#!/usr/bin/env python3
"""How far PEFT's gradients in bf16 are from its own in f32: what a bf16 engine can be held to.

    scripts/golden/bf16.py MODEL

Takes the first four rows of tests/golden/training.safetensors through the model in MODEL (a Hugging
Face directory) with a LoRA of rank 8 on every linear layer, in f32 and in bf16 under autocast, as
`bf16: true` trains. Prints the largest and the median distance of a gradient, as a share of its
norm, and the share of entries of one sign. Needs torch, transformers, peft and safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

ROWS = 4
GOLDEN = Path(__file__).parents[2] / "tests/golden/training.safetensors"


def rows() -> list[tuple[np.ndarray, np.ndarray]]:
    golden = load_file(GOLDEN)
    bounds = np.cumsum(golden["rows.lengths"])[: ROWS - 1]
    last = int(np.sum(golden["rows.lengths"][:ROWS]))
    return list(zip(np.split(golden["rows.ids"][:last], bounds), np.split(golden["rows.labels"][:last], bounds)))


def gradients(path: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.empty(parameter.shape).uniform_(-0.02, 0.02, generator=generator)
    data = rows()
    count = sum(int((labels[1:] >= 0).sum()) for _, labels in data)
    for ids, labels in data:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(input_ids=torch.tensor(ids[None].astype(np.int64))).logits.float()
        targets = torch.tensor(labels[1:].astype(np.int64))
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], targets, ignore_index=-100, reduction="sum")
        (loss / count).backward()
    return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    exact, rounded = (gradients(sys.argv[1], dtype) for dtype in (torch.float32, torch.bfloat16))
    apart = sorted((((exact[n] - rounded[n]).norm() / exact[n].norm()).item(), n) for n in exact)
    same = sum((exact[n].sign() == rounded[n].sign()).sum().item() for n in exact)
    total = sum(gradient.numel() for gradient in exact.values())
    print(f"largest {apart[-1][0]:.3f} ({apart[-1][1]}), median {apart[len(apart) // 2][0]:.3f}, "
          f"{100 * same / total:.1f} % of one sign")


if __name__ == "__main__":
    main()
