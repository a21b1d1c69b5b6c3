"""Names of all settings that LLaMA-Factory's train.yaml may have.

Proves: lora-train knows every one of them, as an option or as a key with a reason or a hint.

Run:     python scripts/golden/llama_factory_keys.py LLAMAFACTORY      (0.9.5, transformers 5.23)
         LLAMAFACTORY is the directory of the Python package llamafactory, which is only parsed.
Writes:  tests/golden/llama_factory_keys.txt: one name a line, sorted
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path

from transformers import Seq2SeqTrainingArguments

OUT = Path(__file__).parents[2] / "tests/golden/llama_factory_keys.txt"
# Set by LLaMA-Factory itself, never by a file.
DERIVED = {"compute_dtype", "device_map", "model_max_length", "block_diag_attn"}
# Of transformers 4, which files in the wild still have.
OLDER = {"evaluation_strategy", "warmup_ratio", "logging_dir", "overwrite_output_dir", "group_by_length"}


def main() -> None:
    names = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)} | OLDER
    for name in ("data", "finetuning", "generating", "model", "training"):
        tree = ast.parse((Path(sys.argv[1]) / f"hparams/{name}_args.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
                names.update(fields)
    OUT.write_text("\n".join(sorted(names - DERIVED)) + "\n")


if __name__ == "__main__":
    main()
