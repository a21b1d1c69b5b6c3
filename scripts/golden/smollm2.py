"""Golden logits and greedy answers of SmolLM2-135M-Instruct.

Proves: our decoder gives transformers' f32 logits for a real bf16 checkpoint and for its
NF4 quantization, and the same greedy tokens in three languages.

Run:     python scripts/golden/smollm2.py MODEL_DIR
         (torch 2.11, transformers 5.23, bitsandbytes 0.50.2, CPU, all in f32)
Writes:  tests/golden/smollm2.json: {"columns": [ids], "prompts": [{"user", "ids", "dense",
         "nf4", "nf4_plain"}]}, the last three {"top_ids", "top_logits" (20, descending),
         "column_logits" (of the ids in columns), "greedy" (up to 40 ids, ending with 2 where
         the model ends), "least_gap" (smallest lead of a greedy token over its runner-up)}.
         Logits are those after the last token of "ids", the prompt through the chat template.
         nf4 is double-quantized, with the nearest absmax codes (see reference.py); nf4_plain
         is bitsandbytes' NF4 without double quantization.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from reference import GOLDEN, load
from transformers import AutoTokenizer, PreTrainedModel

OUT = GOLDEN / "smollm2.json"
PROMPTS = [
    "What is the capital of France?",
    "Explain in three sentences why the sea has tides.",
    "Écris une courte lettre à un ami qui habite à la montagne.",
    "请用中文介绍一下北京。",
    "Write a Python function that adds the numbers from 1 to n.",
]
COLUMNS = [0, 1, 2, 198, 504, 1000, 7042, 20000, 33333, 49151]
LENGTH, TOP = 40, 20


def answer(model: PreTrainedModel, ids: list[int]) -> dict[str, object]:
    """Logits after the prompt, then greedy tokens with a key/value cache."""
    step = model(input_ids=torch.tensor([ids]), use_cache=True)
    first = step.logits[0, -1]
    greedy, gaps = [], []
    while True:
        best = step.logits[0, -1].topk(2)
        greedy.append(best.indices[0].item())
        gaps.append((best.values[0] - best.values[1]).item())
        if greedy[-1] == model.config.eos_token_id or len(greedy) == LENGTH:
            break
        token = torch.tensor([[greedy[-1]]])
        step = model(input_ids=token, past_key_values=step.past_key_values, use_cache=True)
    top = first.topk(TOP)
    return {
        "top_ids": top.indices.tolist(),
        "top_logits": top.values.tolist(),
        "column_logits": first[COLUMNS].tolist(),
        "greedy": greedy,
        "least_gap": min(gaps),
    }


def main() -> None:
    """All prompts through the three bases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory made by scripts/demo-model.py")
    folder = parser.parse_args().model
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = []
    for user in PROMPTS:
        messages = [{"role": "user", "content": user}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        prompts.append({"user": user, "ids": ids})
    for name in ("dense", "nf4", "nf4_plain"):
        model = load(folder, name)
        with torch.inference_mode():
            for prompt in prompts:
                prompt[name] = answer(model, prompt["ids"])
                print(name, prompt["user"], tokenizer.decode(prompt[name]["greedy"]), prompt[name]["least_gap"])
    OUT.write_text(json.dumps({"columns": COLUMNS, "prompts": prompts}, ensure_ascii=False) + "\n", encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
