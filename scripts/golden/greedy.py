"""Golden greedy answers of 256 tokens by SmolLM2-135M-Instruct.

Proves: `chat` without sampling writes what transformers' greedy search writes, in f32, for eight
prompts in four languages, with code, lists and a conversation of several turns. The model answers each
of them at length.

Run:     python scripts/golden/greedy.py MODEL_DIR      (torch 2.11, transformers 5.23, CPU)
         The test that reads all of it:
         cargo test --release --workspace --test smollm2 -- --ignored greedy
Writes:  tests/golden/greedy.json: [{"messages", "prompt" (ids through the chat template), "greedy" (256
         ids), "least_gap" (smallest lead of a chosen token's logit over its runner-up's)}].
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from reference import GOLDEN, load
from transformers import AutoTokenizer, PreTrainedModel

OUT = GOLDEN / "greedy.json"
LENGTH = 256
PROMPTS = [
    ["Tell me a long story about a lighthouse keeper and a whale."],
    ["List twenty animals, one a line, each with where it lives."],
    ["Explain step by step how bread is made, from the field to the table."],
    ["Raconte en détail la vie d'un pêcheur breton au dix-neuvième siècle."],
    ["请详细介绍一下长城的历史。"],
    ["Schreibe einen Brief an die Stadt, in dem du um mehr Bäume bittest."],
    ["Write a Python class for a queue with tests, and explain it."],
    [
        "What is a prime number?",
        "A number with exactly two divisors.",
        "Explain in detail how the sieve of Eratosthenes finds all of them below 100.",
    ],
]


def greedy(model: PreTrainedModel, ids: list[int]) -> tuple[list[int], float]:
    """The likeliest tokens one after the other, and their smallest lead."""
    step, found, least = model(input_ids=torch.tensor([ids]), use_cache=True), [], float("inf")
    while len(found) < LENGTH:
        best = step.logits[0, -1].topk(2)
        least = min(least, (best.values[0] - best.values[1]).item())
        token = best.indices[0].item()
        if token == model.config.eos_token_id:
            raise SystemExit(f"the answer ends after {len(found)} tokens: choose a prompt with a longer one")
        found.append(token)
        step = model(input_ids=torch.tensor([[token]]), past_key_values=step.past_key_values, use_cache=True)
    return found, least


def main() -> None:
    """Answer every prompt."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory made by scripts/demo-model.py")
    folder = parser.parse_args().model
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder, "dense")
    answers = []
    with torch.inference_mode():
        for turns in PROMPTS:
            roles = ("user" if i % 2 == 0 else "assistant" for i in range(len(turns)))
            messages = [{"role": role, "content": text} for role, text in zip(roles, turns)]
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            found, least = greedy(model, ids)
            answers.append({"messages": messages, "prompt": ids, "greedy": found, "least_gap": least})
            print(len(found), least, tokenizer.decode(found)[:60].replace("\n", " "), flush=True)
    lines = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
