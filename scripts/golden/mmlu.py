"""Golden logprobs of " A" to " D" after lm-evaluation-harness prompts.

Proves: `evaluate --style lm-eval` builds the same prompts, tokenizes them the same and
scores the four letters as transformers does, on SmolLM2-135M-Instruct in f32.

Run:     python scripts/golden/mmlu.py MODEL_DIR      (torch 2.11, transformers 5.23, CPU)
Writes:  tests/golden/mmlu.json: {"questions": [{"subject", "index" (row of the test CSV),
         "prompt_sha256" (of the UTF-8 prompt), "tokens" (its length), "logprobs" [4],
         "answer"}], "prompt" (the first one, to read)}. Logprobs are log-softmax over the
         whole vocabulary at the prompt's last token. Data: scripts/demo/mmlu, five shots.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path

import torch
from reference import GOLDEN, load
from transformers import AutoTokenizer, PreTrainedTokenizerBase

OUT = GOLDEN / "mmlu.json"
DATA = Path(__file__).parents[1] / "demo/mmlu"
QUESTIONS_PER_SUBJECT = 5


def rows(data: Path, subject: str, split: str) -> list[list[str]]:
    """One Hendrycks CSV: question, A, B, C, D, answer, without a header."""
    with (data / split / f"{subject}_{split}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def question(row: list[str]) -> str:
    """A question up to the place of its answer."""
    choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row[1:5], strict=True))
    return f"{row[0].strip()}\n{choices}Answer:"


def prompt(data: Path, subject: str, row: list[str]) -> str:
    """Header, five answered questions of the dev split, and the question."""
    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    return header + "".join(f"{question(shot)} {shot[5]}\n\n" for shot in rows(data, subject, "dev")[:5]) + question(row)


def logprobs(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[float]:
    """Log-softmax of " A" to " D" after a prompt."""
    letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in "ABCD"]
    assert all(len(letter) == 1 for letter in letters)
    with torch.inference_mode():
        scores = model(input_ids=torch.tensor([ids]), logits_to_keep=1).logits[0, -1].log_softmax(-1)
    return [scores[letter[0]].item() for letter in letters]


def main() -> None:
    """Score the first questions of every subject."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory made by scripts/demo-model.py")
    folder = parser.parse_args().model
    torch.set_num_threads(2)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder, "dense")
    found = []
    for subject in sorted(file.name.removesuffix("_test.csv") for file in (DATA / "test").iterdir()):
        for index, row in enumerate(rows(DATA, subject, "test")[:QUESTIONS_PER_SUBJECT]):
            text = prompt(DATA, subject, row)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            found.append({
                "subject": subject, "index": index, "prompt_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "tokens": len(ids), "logprobs": logprobs(model, tokenizer, ids), "answer": row[5],
            })  # fmt: skip
            print(subject, index, found[-1]["tokens"], found[-1]["logprobs"], flush=True)
    first = found[0]["subject"]
    lines = ",\n".join(json.dumps(item) for item in found)
    text = json.dumps(prompt(DATA, first, rows(DATA, first, "test")[0]), ensure_ascii=False)
    OUT.write_text(f'{{"questions": [\n{lines}\n],\n"prompt": {text}}}\n', encoding="utf-8")
    print(OUT)


if __name__ == "__main__":
    main()
