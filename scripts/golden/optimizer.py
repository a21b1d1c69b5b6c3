"""Golden LoRA+ and AdamW steps.

Proves: lora-train's learning rates of A and B under loraplus_lr_ratio, its betas, epsilon, weight
decay and warm-up give the weights of PEFT's create_loraplus_optimizer with torch's AdamW.

Run:     python scripts/golden/optimizer.py          (torch 2.11, transformers 5.23, peft 0.21.2)
Writes:  tests/golden/optimizer.json: settings, start {a, b}, for each step gradients {a, b} and the
         weights after it {a, b}; A is [2, 3], B [4, 2], both row by row
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import get_scheduler

OUT = Path(__file__).parents[2] / "tests/golden/optimizer.json"
SETTINGS = {
    "learning_rate": 0.01, "ratio": 16.0, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1,
    "warmup": 2, "steps": 6,
}  # fmt: skip


def main() -> None:
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(3, 4))
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=4, target_modules=["0"]))
    weights = {"a": model.base_model.model[0].lora_A.default.weight, "b": model.base_model.model[0].lora_B.default.weight}
    with torch.no_grad():
        weights["b"].normal_()
    s = SETTINGS
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=s["learning_rate"], loraplus_lr_ratio=s["ratio"],
        betas=(s["beta1"], s["beta2"]), eps=s["epsilon"], loraplus_weight_decay=s["weight_decay"],
    )  # fmt: skip
    scheduler = get_scheduler("linear", optimizer, s["warmup"], s["steps"])

    def values() -> dict[str, list[float]]:
        return {name: weight.detach().flatten().tolist() for name, weight in weights.items()}

    golden = {"settings": s, "start": values(), "steps": []}
    for _ in range(s["steps"]):
        for weight in weights.values():
            weight.grad = torch.randn_like(weight)
        gradients = {name: weight.grad.flatten().tolist() for name, weight in weights.items()}
        optimizer.step()
        scheduler.step()
        golden["steps"].append({"gradients": gradients, "after": values()})
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
