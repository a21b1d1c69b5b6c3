"""Golden logprobs of the four letters on all of MMLU's subjects, in two styles of prompts.

Proves: `evaluate` with --style lm-eval and --style llamafactory scores the first 20 questions of
every subject as transformers does, on SmolLM2-135M-Instruct in f32.

Run:     python scripts/golden/mmlu_all.py MODEL_DIR MMLU_ZIP   (torch 2.11, transformers 5.23, CPU)
         It takes half an hour on two cores, and goes on where it was stopped. The test that reads all
         of it:
         cargo test --release --workspace --test smollm2 -- --ignored all_of_mmlu
Writes:  tests/golden/mmlu_all.json: {style: {subject: {"tokens" (of each prompt), "logprobs"
         (four each)}}}. Logprobs are log-softmax over the whole vocabulary at the prompt's last
         token, rounded to 1e-4. MMLU_ZIP is the Hendrycks tree (data/dev, data/test) as a zip.
         LLaMA-Factory's prompts are turns of the model's own chat template; shots are the first
         five in either style. The tokens that all prompts of a subject begin with go through the
         model once.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import zipfile
from pathlib import Path

import torch
from mmlu import question
from reference import GOLDEN, load
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

OUT = GOLDEN / "mmlu_all.json"
QUESTIONS = 20
SHOTS = 5


def rows(data: zipfile.ZipFile, subject: str, split: str) -> list[list[str]]:
    """One Hendrycks CSV: question, A, B, C, D, answer, without a header."""
    text = data.read(f"data/{split}/{subject}_{split}.csv").decode("utf-8")
    return list(csv.reader(io.StringIO(text, newline="")))


def header(subject: str) -> str:
    """What all prompts of a subject begin with."""
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


def lm_eval(tokenizer: PreTrainedTokenizerBase, subject: str, shots: list[list[str]], row: list[str]) -> list[int]:
    """lm-evaluation-harness: one text, answers behind a space."""
    text = header(subject) + "".join(f"{question(shot)} {shot[5]}\n\n" for shot in shots) + question(row)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def llamafactory(tokenizer: PreTrainedTokenizerBase, subject: str, shots: list[list[str]], row: list[str]) -> list[int]:
    """LLaMA-Factory: a turn for each shot, nothing stripped."""

    def ask(row: list[str]) -> str:
        choices = "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", row[1:5], strict=True))
        return f"{row[0]}{choices}\nAnswer:"

    turns = [turn for shot in shots for turn in (("user", ask(shot)), ("assistant", shot[5]))] + [("user", ask(row))]
    messages = [{"role": role, "content": content} for role, content in turns]
    messages[0]["content"] = header(subject) + messages[0]["content"]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


STYLES = {"lm-eval": (lm_eval, " "), "llamafactory": (llamafactory, "")}


def shared(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with; one token of each is left."""
    return min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)


@torch.inference_mode()
def logprobs(model: torch.nn.Module, prompts: list[list[int]], answers: list[int]) -> list[list[float]]:
    """Log-softmax of the answers behind every prompt."""
    length, cache, found = shared(prompts), DynamicCache(), []
    if length:
        model(input_ids=torch.tensor([prompts[0][:length]]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    for prompt in prompts:
        out = model(
            input_ids=torch.tensor([prompt[length:]]), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        found.append([round(x, 4) for x in out.logits[0, -1].log_softmax(-1)[answers].tolist()])
        cache.crop(length - len(prompt))
    return found


def main() -> None:
    """Score the first questions of every subject in both styles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory made by scripts/demo-model.py")
    parser.add_argument("data", type=zipfile.ZipFile, help="MMLU's CSV files as a zip archive")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer, model = AutoTokenizer.from_pretrained(arguments.model), load(arguments.model, "dense")
    files = [Path(name).name for name in arguments.data.namelist()]
    subjects = sorted(name.removesuffix("_test.csv") for name in files if name.endswith("_test.csv"))
    golden = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else {}
    for style, (encode, space) in STYLES.items():
        answers = [tokenizer(f"{space}{letter}", add_special_tokens=False)["input_ids"][-1] for letter in "ABCD"]
        found = golden.setdefault(style, {})
        for subject in subjects:
            if subject in found:
                continue
            shots = rows(arguments.data, subject, "dev")[:SHOTS]
            asked = rows(arguments.data, subject, "test")[:QUESTIONS]
            prompts = [encode(tokenizer, subject, shots, row) for row in asked]
            found[subject] = {"tokens": list(map(len, prompts)), "logprobs": logprobs(model, prompts, answers)}
            print(style, subject, sum(found[subject]["tokens"]), flush=True)
            entries = {
                style: ",\n".join(f'"{name}": {json.dumps(of, separators=(",", ":"))}' for name, of in found.items())
                for style, found in golden.items()
            }
            text = ",\n".join(f'"{style}": {{\n{lines}\n}}' for style, lines in entries.items())
            OUT.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
