#!/usr/bin/env python3
"""Write a model of random numbers, to measure and to test with.

    scripts/random-model.py SHAPE DIR

SHAPE is `qwen2.5-7b` (15.2 GB in four files, as the real one) or `small` (25 MB). The numbers are
bf16 and normally distributed as weights are; they repeat after 4 MiB, which no tool of ours can
tell. Refuses where the disk has no room. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import struct
import sys
from array import array
from pathlib import Path
from typing import Iterator

SHAPES = {
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064,
                   "num_attention_heads": 28, "num_key_value_heads": 4},
    "small": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 3, "vocab_size": 1000,
              "num_attention_heads": 8, "num_key_value_heads": 2},
}  # fmt: skip
OTHERS = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6,
          "rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": False,
          "torch_dtype": "bfloat16"}  # fmt: skip
SHARD = 4_000_000_000
PERIOD = 4 << 20


def tensors(shape: dict[str, int]) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of all weights, in order."""
    hidden, feed_forward, vocabulary = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    key = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for layer in range(shape["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        yield f"{block}.input_layernorm.weight", [hidden]
        for name, outputs in (("q_proj", hidden), ("k_proj", key), ("v_proj", key)):
            yield f"{block}.self_attn.{name}.weight", [outputs, hidden]
            yield f"{block}.self_attn.{name}.bias", [outputs]
        yield f"{block}.self_attn.o_proj.weight", [hidden, hidden]
        yield f"{block}.post_attention_layernorm.weight", [hidden]
        yield f"{block}.mlp.gate_proj.weight", [feed_forward, hidden]
        yield f"{block}.mlp.up_proj.weight", [feed_forward, hidden]
        yield f"{block}.mlp.down_proj.weight", [hidden, feed_forward]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocabulary, hidden]


def numbers() -> bytes:
    """PERIOD bytes of bf16: the upper halves of little-endian f32."""
    generator = random.Random(1)
    wide = array("f", (generator.gauss(0, 0.02) for _ in range(PERIOD // 2))).tobytes()
    narrow = bytearray(PERIOD)
    narrow[0::2], narrow[1::2] = wide[2::4], wide[3::4]
    return bytes(narrow)


def shards(shape: dict[str, int]) -> list[list[tuple[str, list[int]]]]:
    """The weights, cut into files."""
    files: list[list[tuple[str, list[int]]]] = [[]]
    filled = 0
    for name, dimensions in tensors(shape):
        size = 2 * math.prod(dimensions)
        if filled + size > SHARD:
            files.append([])
            filled = 0
        files[-1].append((name, dimensions))
        filled += size
    return files


def write_shard(path: Path, weights: list[tuple[str, list[int]]], block: bytes) -> None:
    """One safetensors file."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dimensions in weights:
        size = 2 * math.prod(dimensions)
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for begin in range(0, end, PERIOD):
            file.write(block[: end - begin])


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    args.directory.mkdir(parents=True)
    needed = sum(2 * math.prod(dimensions) for _, dimensions in tensors(shape))
    free = shutil.disk_usage(args.directory).free
    if needed > free:
        args.directory.rmdir()
        sys.exit(f"random-model: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free\nhint: name another disk")
    files, block = shards(shape), numbers()
    weight_map = {}
    for number, weights in enumerate(files, start=1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        write_shard(args.directory / name, weights, block)
        weight_map |= {weight: name for weight, _ in weights}
    index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
    (args.directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (args.directory / "config.json").write_text(json.dumps(shape | OTHERS))
    print(args.directory)


if __name__ == "__main__":
    main()
