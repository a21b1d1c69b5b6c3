"""Golden merges of adapters that bring rows of the embedding table.

Proves: a vocabulary that was resized before training, whole tables of modules_to_save, and single
rows of trainable_token_indices are merged as PEFT's merge_and_unload merges them, with a head of its
own and with one that shares the table.

Run:     python scripts/golden/resized.py       (torch 2.15, transformers 5, peft 0.21, CPU)
Writes:  tests/golden/resized/{own,tied}/, a model of 20 tokens, and for each of KINDS
    tests/golden/resized/{own,tied}-KIND/, the adapter as PEFT saves it, with
    merged.safetensors and merged.json, the weights and the configuration of the merged model. A tied
    head is not among the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parents[2] / "tests/golden/resized"
TOKENS = 20
KINDS = {
    "resized": (23, {}),
    "tables": (23, {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "table": (23, {"modules_to_save": ["embed_tokens"]}),
    "rows": (TOKENS, {"trainable_token_indices": [7, 3]}),
    "rows-of-both": (TOKENS, {"trainable_token_indices": {"embed_tokens": [7, 3], "lm_head": [5]}}),
    "resized-rows": (23, {"trainable_token_indices": [20, 22]}),
}


def base(tied: bool, directory: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENS,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)


def adapter(base: Path, kind: str, directory: Path) -> None:
    tokens, options = KINDS[kind]
    model = LlamaForCausalLM.from_pretrained(base)
    if tokens != TOKENS:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **options)
    model = get_peft_model(model, config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    model.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    settings = json.loads((directory / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = f"../{base.name}"
    (directory / "adapter_config.json").write_text(json.dumps(settings) + "\n")
    merged = model.merge_and_unload()
    weights = {name: tensor.contiguous() for name, tensor in merged.state_dict().items()}
    if weights["lm_head.weight"].data_ptr() == weights["model.embed_tokens.weight"].data_ptr():
        del weights["lm_head.weight"]
    save_file(weights, directory / "merged.safetensors")
    settings = {key: getattr(merged.config, key) for key in ("vocab_size", "tie_word_embeddings")}
    (directory / "merged.json").write_text(json.dumps(settings) + "\n")


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    for name, tied in (("own", False), ("tied", True)):
        base(tied, OUT / name)
        for kind in KINDS:
            if (name, kind) != ("tied", "rows-of-both"):  # PEFT ties the rows there, whatever is asked for
                adapter(OUT / name, kind, OUT / f"{name}-{kind}")


if __name__ == "__main__":
    main()
