#!/usr/bin/env python3
"""Prove our tools' results on the tiny models of every family against transformers, bitsandbytes and PEFT.

    scripts/proofs-families.py target/release [NAME ...]

Every model of tests/golden/models is quantized, trained on for a few steps, and merged, by the tools in the given
directory. A line says of each:

quantized   transformers + bitsandbytes load it, a text model by itself, and miss no tensor; experts of a mixture,
            which transformers does not load in 4 bits, are dequantized by bitsandbytes before; the losses of three
            rows are those of `evaluate`
adapter     on all linear layers that PEFT can adapt, those of experts too; PEFT loads it onto the base that it names
            and finds exactly the tensors that it expects; with it, the losses of three rows are those of `evaluate`
merged      transformers loads it and misses no tensor; the losses are those of `evaluate`

Losses may differ by 1e-4. Exits with 1 when a proof fails. Needs torch, transformers, peft, bitsandbytes and
safetensors.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "golden"))
warnings.filterwarnings("ignore")

try:
    from families import END, ROWS, loss
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from proofs import in_f32, in_f32_kernels, load, loads_whole
    from safetensors.torch import load_file
    from tiny_models import MIXTURES, OUT, auto_class, load_mixture
    from transformers import AutoConfig
    from transformers.utils import logging
except ImportError as missing:
    sys.exit(
        f"proofs: the Python package {missing.name} is not installed\n"
        "hint: pip install torch transformers peft bitsandbytes safetensors accelerate"
    )

TOLERANCE = 1e-4
TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}~{% endif %}{% endfor %}"


def tokenizer() -> dict:
    """A tokenizer in which every token is a character, less 32; `~` is special, and 95 is a newline."""
    vocabulary = {chr(32 + token): token for token in range(95)} | {"\n": 95}
    end = {"id": END, "content": "~", "special": True, "normalized": False}
    end |= {"single_word": False, "lstrip": False, "rstrip": False}
    split = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0", "normalizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
        "added_tokens": [end], "pre_tokenizer": split,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"},
    }  # fmt: skip


def run(tools: Path, folder: Path, tool: str, *arguments: str) -> None:
    """Run one of the tools in a folder, on the processor."""
    done = subprocess.run([tools.absolute() / tool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"proofs: {tool} {' '.join(arguments)} failed\n{done.stderr}")


def our_losses(tools: Path, folder: Path, model: str) -> list[float]:
    """The losses of the rows by `evaluate`."""
    run(tools, folder, "evaluate", model, "--loss", "rows.json", "--details", f"{model}.jsonl", "--device", "cpu")
    return [json.loads(line)["loss"] for line in (folder / f"{model}.jsonl").read_text().splitlines()]


def same_losses(tools: Path, folder: Path, name: str, model: object) -> tuple[bool, str]:
    """Whether transformers has the same losses."""
    pairs = zip(our_losses(tools, folder, name), (loss(model, *row) for row in ROWS), strict=True)
    worst = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
    return worst < TOLERANCE, f"the losses are transformers', to {worst:.0e}"


def proofs(tools: Path, folder: Path, source: Path) -> object:
    """Every proof about one model."""
    base = folder / "base"
    shutil.copytree(source, base, ignore=shutil.ignore_patterns("nf4", "adapter", "expected.safetensors"))
    (base / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (base / "tokenizer_config.json").write_text(json.dumps({"eos_token": "~", "chat_template": TEMPLATE}))
    rows = [{"instruction": question, "output": reply} for question, reply in ROWS]
    (folder / "rows.json").write_text(json.dumps(rows))
    options = ["--learning-rate", "1e-2", "--max-steps", "3", "--device", "cpu", "--data", "rows.json", "-o"]

    config = AutoConfig.from_pretrained(base)
    is_mixture = config.model_type in MIXTURES
    run(tools, folder, "quantize", "base", "-o", "quantized")
    if is_mixture:
        model = in_f32(load_mixture(folder / "quantized"))
    else:
        model, info = load(folder / "quantized")
        yield "quantized", *loads_whole(info)
    yield "quantized", *same_losses(tools, folder, "quantized", model)

    targets = "all,experts" if is_mixture else "all"
    if getattr(config, "mlp_only_layers", None):
        targets = "attention,experts"  # PEFT takes gate, up and down of dense layers for those of experts.
    run(tools, folder, "lora-train", "base", "--lora-target", targets, *options, "adapter")
    auto = auto_class(config)
    adapted = PeftModel.from_pretrained(auto.from_pretrained(base, dtype="float32"), folder / "adapter")
    expected, found = get_peft_model_state_dict(adapted), load_file(folder / "adapter/adapter_model.safetensors")
    different = sorted(expected.keys() ^ found.keys())
    yield "adapter", not different, f"PEFT expects exactly its {len(found)} tensors{f', not {different}' if different else ''}"
    yield "adapter", *same_losses(tools, folder, "adapter", in_f32_kernels(adapted))

    run(tools, folder, "merge", "adapter", "-o", "merged")
    model, info = auto.from_pretrained(folder / "merged", dtype="float32", output_loading_info=True)
    yield "merged", *loads_whole(info)
    yield "merged", *same_losses(tools, folder, "merged", in_f32_kernels(model))


def main() -> None:
    """Prove everything, and say so line by line."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    names = sys.argv[2:] or sorted(folder.name for folder in OUT.iterdir())
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for kind, holds, sentence in proofs(Path(sys.argv[1]), Path(folder), OUT / name):
                print("ok    " if holds else "FAILED", f"{name} {kind}: {sentence}", flush=True)
                failed += not holds
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
