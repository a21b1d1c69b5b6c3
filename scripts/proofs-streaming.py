#!/usr/bin/env python3
"""Prove on a GPU that streamed weights change no byte of an adapter, also across a kill.

    scripts/proofs-streaming.py TOOLS

TOOLS is a folder with `lora-train` and the example `random-checkpoint` (`cargo build --release --workspace --examples`
puts them into target/release and target/release/examples; copy or link both into one). Two models of random weights in
4 bits are trained: 8 small blocks, and 4 blocks of the shape of Qwen2.5-72B. A line says of each:

streams     with the least --vram-budget that lora-train takes, blocks are streamed
same bytes  the adapter is that of a run with all weights on the GPU
killed      so is that of a streamed run that was killed after a checkpoint and resumed
memcheck    of the small blocks, compute-sanitizer (CUDA toolkit) finds no wrong access in two streamed steps; skipped
            where it is not on the PATH or in /usr/local/cuda/bin

Exits with 1 when a proof fails. Needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LETTERS = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]]
LETTERS += [chr(256 + i) for i in range(256 - len(LETTERS))]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 320,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "eos_token_id": 257, "torch_dtype": "bfloat16",
}  # fmt: skip
SHAPES = {
    "8 small blocks": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8,
                       "num_attention_heads": 8, "num_key_value_heads": 4},
    "4 blocks of Qwen2.5-72B": {"hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 4,
                                "num_attention_heads": 64, "num_key_value_heads": 8},
}  # fmt: skip
STEPS, SAVED = 16, 4


def write_shape(directory: Path, shape: dict[str, int]) -> None:
    """A config.json, with a tokenizer of single bytes beside it."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 256 + i, "content": text, **special} for i, text in enumerate(["<|im_start|>", "<|im_end|>"])]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {letter: index for index, letter in enumerate(LETTERS)}
    files = {
        "config.json": {**CONFIG, **shape},
        "tokenizer.json": {
            "version": "1.0", "normalizer": None, "post_processor": None, "added_tokens": added, "decoder": bytes_,
            "pre_tokenizer": bytes_, "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        },
        "tokenizer_config.json": {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "chat_template": TEMPLATE},
    }  # fmt: skip
    directory.mkdir()
    for name, value in files.items():
        (directory / name).write_text(json.dumps(value))


class Runs:
    """Runs of `lora-train` on one model. A step is one example, so that all runs have the same passes."""

    def __init__(self, tools: Path, work: Path, model: Path) -> None:
        rows = [{"instruction": "Say " + "it " * (i * 7 % 61), "output": ["salt", "river"][i % 2]} for i in range(64)]
        (work / "data.json").write_text(json.dumps(rows))
        self.work = work
        self.command = [tools / "lora-train", model, "--data", work / "data.json", "--learning-rate", "1e-3",
                        "--lora-dropout", "0.1", "--per-device-train-batch-size", "1",
                        "--save-steps", str(SAVED), "--gradient-accumulation-steps", "1", "--device", "cuda:0"]  # fmt: skip

    def start(
        self, output: str, *options: str, steps: int = STEPS, under: list[str] | None = None
    ) -> subprocess.Popen[str]:
        command = [*(under or []), *self.command, "--max-steps", steps, "-o", self.work / output, *options]
        command = [str(part) for part in command]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(self, output: str, *options: str) -> str:
        """Runs to the end and returns what was said."""
        process = self.start(output, *options)
        said = process.communicate()[1]
        if process.returncode:
            sys.exit(f"{output}: lora-train failed\n{said[-2000:]}")
        return said

    def adapter(self, output: str) -> bytes:
        return (self.work / output / "adapter_model.safetensors").read_bytes()

    def least_budget(self) -> str:
        """The least memory that a run takes, as the error says that refuses less."""
        said = self.start("none", "--vram-budget", "1MiB", "--dry-run").communicate()[1]
        found = re.search(r"--vram-budget (\d+MiB) would do", said)
        return found[1] if found else sys.exit(f"a hint for --vram-budget expected\n{said[-2000:]}")

    def memcheck(self, sanitizer: str, *options: str) -> bool:
        """Whether compute-sanitizer finds no wrong access of a kernel."""
        under = [sanitizer, "--tool", "memcheck", "--log-file", str(self.work / "memcheck.log")]
        said = self.start("memcheck", *options, steps=2, under=under).communicate()[1]
        found = (self.work / "memcheck.log").read_text()
        is_clean = "ERROR SUMMARY: 0 errors" in found and (self.work / "memcheck/adapter_model.safetensors").exists()
        if not is_clean:
            print(f"{said[-2000:]}\n{found[-4000:]}", file=sys.stderr)
        return is_clean

    def kill(self, output: str, *options: str) -> None:
        """Kills a run when it has written a checkpoint."""
        process = self.start(output, *options)
        while not (self.work / output / f"checkpoint-{SAVED}" / "adapter_model.safetensors").exists():
            if process.poll() is not None:
                sys.exit(f"{output}: the run ended before it could be killed\n{process.stderr.read()[-2000:]}")
            time.sleep(0.005)
        process.kill()
        process.communicate()


def main() -> None:
    tools = Path(sys.argv[1]).resolve() if len(sys.argv) == 2 else sys.exit(__doc__)
    failed = False
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            work = Path(directory)
            write_shape(work / "shape", shape)
            made = [tools / "random-checkpoint", work / "shape/config.json", work / "model", "nf4"]
            subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
            runs = Runs(tools, work, work / "model")
            budget = runs.least_budget()
            runs.run("resident")
            said = runs.run("streamed", "--vram-budget", budget)
            streamed = re.search(r"Streamed = (.*)", said)
            runs.kill("killed", "--vram-budget", budget)
            runs.run("killed", "--vram-budget", budget, "--resume")
            proofs = {
                f"streams within {budget}: {streamed[1] if streamed else 'nothing'}": streamed is not None,
                "same bytes": runs.adapter("streamed") == runs.adapter("resident"),
                "killed": runs.adapter("killed") == runs.adapter("resident"),
            }
            sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
            if name == "8 small blocks" and sanitizer:
                proofs["memcheck"] = runs.memcheck(sanitizer, "--vram-budget", budget)
            elif name == "8 small blocks":
                print(f"skipped {name}: memcheck, because there is no compute-sanitizer", flush=True)
        for proof, holds in proofs.items():
            failed |= not holds
            print(f"{'ok' if holds else 'FAILED':6} {name}: {proof}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
