"""Golden LoRA gradients and ten optimizer steps on SmolLM2-135M-Instruct in NF4.

Proves: our packed forward and hand-written backward give PEFT + bitsandbytes' gradients for
all 420 LoRA tensors of a real model, and our clipping and AdamW give its losses, gradient
norms and weights over ten steps on the same data in the same order.

The base is double-quantized NF4 (see reference.py); LoRA r 8, alpha 16, no dropout, on all
seven projections; everything in f32. Optimizer: AdamW, lr 1e-3 constant, betas 0.9 and
0.999, eps 1e-8, no weight decay, gradient clipped to global norm 1. Step s takes rows 4s to
4s+3; its loss is summed over the supervised tokens of the four rows and divided by their
count. Gradients are those of step 0, before clipping.

The adapter at the start is a formula, so that it need not be shipped. Tensor t = 14 * layer
+ 2 * projection + (0 for A, 1 for B), projections in the order q k v o gate up down; element
e counts row by row. In wrapping 32-bit arithmetic:
    h = t * 0x9E3779B1 + e
    h ^= h >> 16;  h *= 0x85EBCA6B;  h ^= h >> 13;  h *= 0xC2B2AE35;  h ^= h >> 16
    value = (sum of the four bytes of h - 510) * 2^-13 for A, * 2^-14 for B
which is exact in f32 and nearly normal (standard deviation 0.018 for A, 0.009 for B).

Run:     python scripts/golden/training.py MODEL_DIR [--adapter DIR]
         (torch 2.11, transformers 5.23, peft 0.21.2, bitsandbytes 0.50.2, CPU)
         --adapter also saves the adapter of the start as a PEFT directory.
Writes:  tests/golden/training.safetensors:
    rows.ids, rows.labels   I32 [sum]      forty rows one after the other; labels -100 where not
                                           supervised, not shifted
    rows.lengths            I32 [40]
    losses, grad_norms      F32 [10]       grad_norms before clipping
    grad.norm               F32 [420]      by t
    grad.value              F32 [420, 32]  entries at grad.index
    grad.index              I32 [420, 32]  flat index into the tensor
    after.norm, after.value                the same of the LoRA weights after ten steps
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from reference import GOLDEN, PROJECTIONS, load
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

OUT = GOLDEN / "training.safetensors"
DATA = Path(__file__).parents[1] / "demo/instructions.json"
STEPS, ROWS_PER_STEP, SAMPLES = 10, 4, 32
Row = tuple[list[int], list[int]]


def formula(t: int, shape: torch.Size, scale: float) -> torch.Tensor:
    """Start values of tensor t."""
    h = (torch.arange(shape.numel(), dtype=torch.int64) + t * 0x9E3779B1) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    total = sum((h >> shift) & 0xFF for shift in (0, 8, 16, 24))
    return ((total - 510).float() * scale).reshape(shape)


def with_adapter(folder: Path) -> PeftModel:
    """The NF4 model with the formula's adapter."""
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    model = get_peft_model(load(folder, "nf4"), config)
    for t, parameter in enumerate(lora_tensors(model)):
        parameter.data = formula(t, parameter.shape, 2.0**-13 if t % 2 == 0 else 2.0**-14)
    return model


def lora_tensors(model: PeftModel) -> list[torch.nn.Parameter]:
    """All 420 in the order of t."""
    found = []
    for layer in model.base_model.model.model.layers:
        for projection in PROJECTIONS:
            parent = layer.self_attn if hasattr(layer.self_attn, projection) else layer.mlp
            module = getattr(parent, projection)
            found += [module.lora_A["default"].weight, module.lora_B["default"].weight]
    return found


def encode(tokenizer: PreTrainedTokenizerBase, example: dict[str, str]) -> Row:
    """Ids and labels of one alpaca row; the answer and the text that closes it are supervised."""
    user = example["instruction"] + ("\n" + example["input"] if example["input"] else "")
    messages = [{"role": "user", "content": user}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    messages.append({"role": "assistant", "content": example["output"]})
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert ids[: len(prompt)] == prompt
    return ids, [-100] * len(prompt) + ids[len(prompt) :]


def backward(model: PeftModel, rows: list[Row]) -> float:
    """Accumulate the gradients of a batch, one row at a time; return its loss."""
    count = sum(label != -100 for _, labels in rows for label in labels[1:])
    total = 0.0
    for ids, labels in rows:
        scores = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(labels[1:]), reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total


def samples(prefix: str, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Norm and a spread of entries of every tensor."""
    index = [[(k * 7919 + t) % x.numel() for k in range(SAMPLES)] for t, x in enumerate(tensors)]
    value = [x.detach().flatten()[i] for x, i in zip(tensors, index, strict=True)]
    return {
        f"{prefix}.norm": torch.stack([x.detach().norm() for x in tensors]),
        f"{prefix}.value": torch.stack(value),
        "grad.index": torch.tensor(index, dtype=torch.int32),
    }


def train(model: PeftModel, rows: list[Row]) -> dict[str, torch.Tensor]:
    """Ten steps; gradients of the first, losses and norms of all, weights of the last."""
    parameters = lora_tensors(model)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses, norms, found = [], [], {}
    for step in range(STEPS):
        losses.append(backward(model, rows[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]))
        if step == 0:
            found = samples("grad", [p.grad for p in parameters])
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {losses[-1]:.6f} grad norm {norms[-1]:.6f}", flush=True)
    return found | samples("after", parameters) | {"losses": torch.tensor(losses), "grad_norms": torch.tensor(norms)}


def main() -> None:
    """Make the adapter, train, write one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory made by scripts/demo-model.py")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="also save the adapter of the start here")
    args = parser.parse_args()
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    examples = json.loads(DATA.read_text(encoding="utf-8"))[: STEPS * ROWS_PER_STEP]
    rows = [encode(tokenizer, example) for example in examples]
    model = with_adapter(args.model)
    if args.adapter:
        model.save_pretrained(args.adapter)
    found = train(model, rows) | {
        "rows.ids": torch.tensor([i for ids, _ in rows for i in ids], dtype=torch.int32),
        "rows.labels": torch.tensor([i for _, labels in rows for i in labels], dtype=torch.int32),
        "rows.lengths": torch.tensor([len(ids) for ids, _ in rows], dtype=torch.int32),
    }
    save_file(found, OUT, metadata={"format": "pt"})
    OUT.chmod(0o644)
    print(OUT)


if __name__ == "__main__":
    main()
