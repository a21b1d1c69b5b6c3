#!/usr/bin/env python3
"""What the Python peers do on this machine's CPU, for `make bench` to compare with.

Measures bitsandbytes quantizing and dequantizing, PEFT + bitsandbytes training, PEFT merging
and transformers scoring a prompt and the questions of a subject, each in a process of its own, so that peak memory is its own. Prints
one JSON object per measure on stdout:

    {"measure": "train", "value": 194.1, "unit": "tokens/s", "peak_rss_gib": 2.6, "seconds": 30.0,
     "peer": "peft 0.21.2, bitsandbytes 0.50.2, torch 2.11.0"}
    {"measure": "merge", "skipped": "peft is not installed"}

Needs torch, transformers, peft and bitsandbytes; what is missing is skipped by name.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, NoReturn

Result = dict[str, Any]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEEDS = {
    "quantize": ["bitsandbytes", "torch"],
    "dequantize": ["bitsandbytes", "torch"],
    "train": ["peft", "bitsandbytes", "transformers", "torch"],
    "merge": ["peft", "transformers", "torch"],
    "score": ["transformers", "torch"],
    "questions": ["transformers", "torch"],
}
WEIGHT_SHAPE = (18944, 3584)  # Qwen2.5-7B's gate projection
SCORED_TOKENS = 700  # a five-shot prompt of MMLU
WARM_UP_ROWS = 8


def fail(message: str, hint: str) -> NoReturn:
    """End with what is wrong and what mends it."""
    sys.exit(f"bench-peers: {message}\nhint: {hint}")


def timed(action: Callable[[], object], repeats: int) -> float:
    """Median seconds of an action, after one call to warm up."""
    action()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def per_second(count: int, seconds: float, unit: str) -> Result:
    """A rate with the time that it comes from."""
    return {"value": round(count / seconds, 1), "unit": unit, "seconds": round(seconds, 3)}


def quantize(_: argparse.Namespace) -> Result:
    """bitsandbytes quantize_4bit: NF4, double quantization, one large bf16 weight."""
    import bitsandbytes.functional as bnb
    import torch

    weight = torch.randn(WEIGHT_SHAPE, dtype=torch.bfloat16)
    seconds = timed(lambda: bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True), 1)
    return per_second(weight.numel() // 10**6, seconds, "M weights/s")


def dequantize(_: argparse.Namespace) -> Result:
    """bitsandbytes dequantize_4bit to bf16 of the same weight."""
    import bitsandbytes.functional as bnb
    import torch

    weight = torch.randn(WEIGHT_SHAPE, dtype=torch.bfloat16)
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return per_second(weight.numel() // 10**6, timed(lambda: bnb.dequantize_4bit(packed, state), 5), "M weights/s")


def supervised_rows(args: argparse.Namespace) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of the first alpaca rows, through the model's chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = []
    for example in json.loads(args.data.read_text(encoding="utf-8"))[: WARM_UP_ROWS + args.rows]:
        user = example["instruction"] + ("\n" + example["input"] if example.get("input") else "")
        turns = [{"role": "user", "content": user}, {"role": "assistant", "content": example["output"]}]
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"][:1024]
        rows.append((ids, [-100] * len(prompt) + ids[len(prompt) :]))
    return rows


def lora(model: Any) -> Any:
    """LoRA r 8 on all seven projections."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def train(args: argparse.Namespace) -> Result:
    """PEFT + bitsandbytes NF4, f32, one row per pass, an optimizer step every 16 rows."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, quantization_config=quantization)
    model = lora(base).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    tokens, start = 0, 0.0
    for i, (ids, labels) in enumerate(supervised_rows(args)):
        if i == WARM_UP_ROWS:
            tokens, start = 0, time.perf_counter()
        out = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]), use_cache=False)
        (out.loss / 16).backward()
        tokens += len(ids)
        if i % 16 == 15:
            optimizer.step()
            optimizer.zero_grad()
    return per_second(tokens, time.perf_counter() - start, "tokens/s")


def merge(args: argparse.Namespace) -> Result:
    """PEFT merge_and_unload in bf16, from reading the base to the written directory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lora(AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)).save_pretrained(folder / "adapter")
        start = time.perf_counter()
        base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
        PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().save_pretrained(folder / "merged")
        seconds = round(time.perf_counter() - start, 3)
    return {"value": seconds, "unit": "s", "seconds": seconds}


def score(args: argparse.Namespace) -> Result:
    """transformers f32, one prompt of 700 tokens, logits of its last position."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, SCORED_TOKENS))
    with torch.inference_mode():
        seconds = timed(lambda: model(input_ids=ids, logits_to_keep=1), 3)
    return per_second(SCORED_TOKENS, seconds, "tokens/s")


def five_shot(data: Path, subject: str) -> list[str]:
    """The prompts of a subject of MMLU's CSV files, as lm-evaluation-harness asks them."""

    def rows(split: str) -> list[list[str]]:
        name = f"{split}/{subject}_{split}.csv"
        if data.is_dir():
            text = (data / name).read_text(encoding="utf-8")
        else:
            with zipfile.ZipFile(data) as archive:
                text = archive.read(f"data/{name}").decode("utf-8")
        return list(csv.reader(io.StringIO(text, newline="")))

    def ask(row: list[str]) -> str:
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip("ABCD", row[1:5], strict=True))
        return f"{row[0].strip()}\n{choices}Answer:"

    header = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    header += "".join(f"{ask(row)} {row[5]}\n\n" for row in rows("dev")[:5])
    return [header + ask(row) for row in rows("test")]


def questions(args: argparse.Namespace) -> Result:
    """transformers f32, the five-shot prompts of a subject one by one, logits of the last position."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    prompts = [tokenizer(prompt, return_tensors="pt") for prompt in five_shot(args.questions, args.subject)]
    with torch.inference_mode():
        model(**prompts[0], logits_to_keep=1)
        start = time.perf_counter()
        for prompt in prompts:
            model(**prompt, logits_to_keep=1)
    return per_second(len(prompts), time.perf_counter() - start, "questions/s")


MEASURES = {"quantize": quantize, "dequantize": dequantize, "train": train, "merge": merge, "score": score, "questions": questions}


def missing(measure: str) -> list[str]:
    """Packages that a measure needs and that are not installed."""
    return [name for name in NEEDS[measure] if importlib.util.find_spec(name) is None]


def run_here(measure: str, args: argparse.Namespace) -> Result:
    """One measure in this process, with its peak memory and the peers' versions."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    result = MEASURES[measure](args)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    peer = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in NEEDS[measure])
    return {"measure": measure, **result, "peak_rss_gib": round(peak, 2), "peer": peer}


def run_apart(measure: str, args: argparse.Namespace) -> Result:
    """One measure in a process of its own."""
    if lacking := missing(measure):
        return {"measure": measure, "skipped": f"{' and '.join(lacking)} not installed"}
    command = [sys.executable, __file__, str(args.model), "--here", "--only", measure, "--data", str(args.data)]
    command += ["--threads", str(args.threads), "--rows", str(args.rows)]
    command += ["--questions", str(args.questions), "--subject", args.subject]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    if done.returncode != 0:
        sys.stderr.write(done.stderr)
        fail(f"{measure} failed", f"scripts/bench-peers.py {args.model} --here --only {measure}")
    return json.loads(done.stdout.splitlines()[-1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="CPU numbers of bitsandbytes, PEFT and transformers.")
    parser.add_argument("model", type=Path, help="Hugging Face directory, as scripts/demo-model.py makes it")
    default_data = Path(__file__).parent / "demo/instructions.json"
    parser.add_argument("--data", type=Path, default=default_data, help="alpaca JSON to train on")
    parser.add_argument("--rows", type=int, default=32, help=f"rows timed, after {WARM_UP_ROWS} to warm up")
    mmlu = Path(__file__).parent / "demo/mmlu"
    parser.add_argument("--questions", type=Path, default=mmlu, help="MMLU's CSV files, a folder or a zip")
    parser.add_argument("--subject", default="everyday_science", help="subject whose questions are scored")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads for torch")
    parser.add_argument("--only", action="append", choices=MEASURES, help="this measure only; may be repeated")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if not (args.model / "config.json").exists():
        fail(f"{args.model} has no config.json", f"scripts/demo-model.py {args.model}")
    for measure in args.only or MEASURES:
        print(json.dumps((run_here if args.here else run_apart)(measure, args)), flush=True)


if __name__ == "__main__":
    main()
