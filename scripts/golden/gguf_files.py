"""References of GGUF files: what llama.cpp's converter, llama-quantize and ggml make of small inputs.

Proves: metadata, names, shapes, types and bytes of the tensors that `merge -o model.gguf` writes, the choice of types of
`--quantize`, and the bytes of every block type.

Run:  python scripts/golden/gguf_files.py LLAMA_CPP BUILD
      LLAMA_CPP is llama.cpp's source (vendor/llama.cpp in the sdist of llama-cpp-python 0.3.36), BUILD a build of it with
      the targets ggml-base, llama-quantize and llama-tokenize. Needs torch, transformers 5.24, sentencepiece, safetensors.

Writes into tests/golden/gguf/:
      blocks.safetensors       values F32 [rows, 256] and, for each type, the bytes that ggml_quantize_chunk makes of them
      dequantized.json         the SHA-256 of the F32 that gguf.dequantize makes of these bytes, by type
      tokenizers/{bpe,spm}/    two tiny tokenizers of 96 tokens: byte-level BPE, and SentencePiece with tokenizer.model
      tokenizers/cuts/         a tokenizer of 768 tokens that cuts nothing
      pre_tokenizers.json      the tokens that llama-tokenize makes of some texts with these tokens, by the name of the way
                               to cut texts
      pieces.json              what SentencePiece makes of some texts with spm/tokenizer.model
      FAMILY.json              of the models in tests/golden/models, with one of these tokenizers, as f16: the metadata as
                               {key: [type, value]}, the tensors as {name: [type, shape, SHA-256 of the bytes]}; of a
                               model with dense layers among mixtures, of its first mixtures alone
      llama.gguf               the file of the family llama itself
      adapter-FAMILY.json      of their adapters: the same, from convert_lora_to_gguf.py
      types.json               the types that llama-quantize gives the tensors of models of several shapes, by --quantize
      smollm2.json             of SmolLM2-135M-Instruct as bf16, q8_0 and q4_k_m: the metadata (of the others, what differs
                               from bf16), with the SHA-256 of the JSON of long lists, and the SHA-256 of a line "name type
                               hash" for each tensor, sorted by name
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

ROOT = Path(__file__).parents[2]
OUT, MODELS = ROOT / "tests/golden/gguf", ROOT / "tests/golden/models"
LLAMA_CPP, BUILD = (Path(argument).absolute() for argument in sys.argv[1:3])
sys.path[:0] = [str(LLAMA_CPP), str(LLAMA_CPP / "gguf-py")]

import gguf  # noqa: E402
from conversion import ModelBase, ModelType, get_model_architecture, get_model_class  # noqa: E402

TYPES = ["Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
PRE_TOKENIZERS = [
    "gpt-2", "olmo", "smollm", "starcoder", "refact", "qwen2", "llama-bpe", "glm4", "dbrx", "smaug-bpe", "chatglm-bpe",
    "tekken", "gpt-4o",
]  # fmt: skip
CUT_VOCABULARY = 768
# Without scripts with combining marks, which llama.cpp cuts otherwise than the tokenizers of Mistral Nemo and GPT-4o do.
CUT = [
    "I've 3 33 333 3333 and 12345678; don't YOU'LL we'Ve 'tis",
    "fn main() {\n\tlet camelCase = HTTPServer::new(80);\n}\r\n\n  /* ==> */ a/b//c\n",
    "camelCase camelCase HTTPServer HTTPServer camelCase HTTPServer",
    " \n \n\n \t\t  x  y   z\n    end ",
    "Größe naïve ÉCOLE 我想在apple工作1314151天～ нещо на Български 🦙🦙 ✅",
    "......!!!!!!?????? ------=======''''''```` $1,234.56 (a+b)=c; #tag @user",
]
QUANTIZATIONS = ["Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K"]
VOCABULARY = 96
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = ["the quick brown fox jumps over the lazy dog and runs", "a model of words, a text of words; 1 2 3 and 4 5"] * 8
# What the converter guesses from the names of directories and from its own version.
GUESSED = ["general.basename", "general.finetune", "general.version", "general.organization", "GGUF."]


def blocks() -> None:
    """Values of several distributions, and their blocks."""
    generator = np.random.default_rng(7)
    rows = [generator.normal(0, scale, 256) for scale in (0.02, 1.0, 300.0, 1e-6) for _ in range(6)]
    rows += [generator.uniform(low, high, 256) for low, high in ((-1, 1), (0, 1), (-1, 0), (5, 6), (-6, -5))]
    rows += [generator.standard_t(2, 256) * 0.02 for _ in range(8)]
    rows += [np.zeros(256), np.full(256, 0.5), np.full(256, -0.25), np.arange(256) / 7 - 3]
    sparse = generator.normal(0, 1, 256)
    sparse[:96] = 0
    sparse[128:160] = 0.125
    rows += [sparse, np.where(np.arange(256) % 37 == 0, 8.0, 0.0), generator.normal(0, 1e-20, 256), sparse * 1e-9]
    rows += [np.round(generator.normal(0, 4, 256)) / 4 for _ in range(4)]
    values = np.ascontiguousarray(np.stack(rows).astype(np.float32))
    library = ctypes.CDLL(str(BUILD / "bin/libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    tensors = {"values": torch.from_numpy(values)}
    dequantized = {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros((len(values), 256 // elements * size), np.uint8)
        library.ggml_quantize_chunk(kind, values.ctypes.data, out.ctypes.data, 0, len(values), 256, None)
        tensors[name] = torch.from_numpy(out)
        numbers = np.ascontiguousarray(gguf.dequantize(out, kind).astype(np.float32))
        dequantized[name] = hashlib.sha256(numbers.tobytes()).hexdigest()
    save_file(tensors, OUT / "blocks.safetensors")
    write("dequantized.json", dequantized)


def tokenizers() -> None:
    """Two tokenizers, with special tokens, tokens that only look special, spaces in added tokens, and ids without any."""
    bpe, spm = OUT / "tokenizers/bpe", OUT / "tokenizers/spm"
    for directory in (bpe, spm):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / "chat_template.jinja").write_text(TEMPLATE)
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    looks = [AddedToken("<think>", normalized=False), AddedToken("<|user|>", normalized=False), AddedToken("▁x y")]
    words.add_tokens(looks)
    words.save(str(bpe / "tokenizer.json"))
    names = {"bos_token": added[0], "eos_token": added[2], "pad_token": added[0], "unk_token": added[0]}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, **names}
    (bpe / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_prefix=str(spm / "tokenizer"), vocab_size=64, model_type="bpe",
        user_defined_symbols=["<mask>"], minloglevel=2, character_coverage=1.0, hard_vocab_limit=False,
        normalization_rule_name="identity",
    )  # fmt: skip
    (spm / "tokenizer.vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(str(spm / "tokenizer.model"))
    count = processor.vocab_size()
    texts = ["the quick brown fox", "a model of words and 1 2 3", "lazy dogs, lazy foxes", "order", "the border ands"]
    write("pieces.json", {text: processor.encode(text) for text in texts})
    decoder = {
        "0": ("<unk>", True), "1": ("<s>", True), "2": ("</s>", True), str(count): ("<start_of_turn>", True),
        str(count + 1): ("▁▁", False), str(count + 2): ("<unused1>", False),
    }  # fmt: skip
    entries = {id: {"content": content, "special": special} for id, (content, special) in decoder.items()}
    added = [{"id": int(id), **entry} for id, entry in entries.items()]
    added = [{**entry, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False} for entry in added]
    # Only the added tokens of this file are read; the pieces come from tokenizer.model.
    vocabulary = {processor.id_to_piece(id): id for id in range(count)}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>"}
    (spm / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": added, "model": model}, indent=1, ensure_ascii=False) + "\n"
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False}
    config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": entries, **names}
    (spm / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n")


def described(path: Path, long: int | None = None) -> dict:
    """The metadata and the tensors of a GGUF file; lists of more than `long` items by their hashes."""
    reader = gguf.GGUFReader(path)
    metadata = {}
    for key, field in sorted(reader.fields.items()):
        if any(key.startswith(guessed) for guessed in GUESSED):
            continue
        value = field.contents()
        if long is not None and isinstance(value, list) and len(value) > long:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            value = hashlib.sha256(text.encode()).hexdigest()
        metadata[key] = ["/".join(kind.name for kind in field.types), value]
    tensors = {
        tensor.name: [
            tensor.tensor_type.name,
            [int(size) for size in reversed(tensor.shape)],
            hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest(),
        ]
        for tensor in sorted(reader.tensors, key=lambda tensor: tensor.name)
    }
    return {"metadata": metadata, "tensors": tensors}


def convert(directory: Path, out: Path, kind: str, pre_tokenizer: str | None = None) -> None:
    """Runs the converter, with this name for the pre-tokenizer where its hash is unknown."""
    hparams = ModelBase.load_hparams(directory, False)
    model_class = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    with torch.inference_mode():
        model = model_class(directory, gguf.LlamaFileType[kind], out)
        if pre_tokenizer is not None:
            # The class of Mistral 3 hands its work on to another.
            getattr(model, "impl", model).get_vocab_base_pre = lambda tokenizer: pre_tokenizer
        model.write()


def convert_adapter(adapter: Path, base: Path, out: Path) -> None:
    command = [sys.executable, LLAMA_CPP / "convert_lora_to_gguf.py", adapter, "--base", base, "--outfile", out]
    subprocess.run([*command, "--outtype", "f32"], check=True, capture_output=True)


def quantize(source: Path, out: Path, kind: str) -> None:
    subprocess.run([BUILD / "bin/llama-quantize", source, out, kind, "1"], check=True, capture_output=True)


def write(name: str, content: object, indent: int | None = 1) -> None:
    (OUT / name).write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def cut(directory: Path, config: dict) -> None:
    """Cuts a model down to the layers before the first that is no mixture, which the converter has no names for."""
    layers = config["num_hidden_layers"] = config["mlp_only_layers"][0]
    config["mlp_only_layers"] = []
    (directory / "config.json").write_text(json.dumps(config))
    weights = load_file(directory / "model.safetensors")
    kept = {name: weights[name] for name in weights if ".layers." not in name or int(name.split(".")[2]) < layers}
    save_file(kept, directory / "model.safetensors", {"format": "pt"})


def cuts() -> None:
    """What the ways to cut texts make of texts, under a vocabulary whose tokens cross every cut."""
    directory = OUT / "tokenizers/cuts"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=CUT_VOCABULARY - 1, initial_alphabet=alphabet, show_progress=False)
    whole.train_from_iterator([*CUT, *["camelCase", "HTTPServer"] * 9], trainer)
    whole.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    whole.save(str(directory / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(names, indent=1) + "\n")
    found: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        model, out, text = Path(folder) / "model", Path(folder) / "vocabulary.gguf", Path(folder) / "text"
        shutil.copytree(directory, model)
        config = json.loads((MODELS / "llama/config.json").read_text()) | {"vocab_size": CUT_VOCABULARY}
        (model / "config.json").write_text(json.dumps(config))
        save_file({}, model / "model.safetensors", {"format": "pt"})
        model_class = get_model_class(get_model_architecture(ModelBase.load_hparams(model, False), ModelType.TEXT))
        for name in PRE_TOKENIZERS:
            converter = model_class(model, gguf.LlamaFileType.MOSTLY_F16, out)
            converter.get_vocab_base_pre = lambda tokenizer, name=name: name
            converter.write_vocab()
            command = [BUILD / "bin/llama-tokenize", "-m", out, "-f", text, "--ids", "--no-bos", "--log-disable"]
            for cut in CUT:
                text.write_bytes(cut.encode())
                ids = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found.setdefault(name, []).append(json.loads(ids))
            out.unlink()
    write("pre_tokenizers.json", {"texts": CUT, "ids": found}, indent=None)


def families() -> None:
    """Every family, under the name of its directory."""
    for model in sorted(MODELS.iterdir()):
        tokenizer = "spm" if model.name.startswith(("gemma", "phi3", "mistral-window")) else "bpe"
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / model.name
            shutil.copytree(OUT / "tokenizers" / tokenizer, directory)
            for file in ("config.json", "model.safetensors"):
                shutil.copy(model / file, directory)
            config = json.loads((directory / "config.json").read_text())
            if config.get("mlp_only_layers"):
                cut(directory, config)
            if config["model_type"] == "ministral3":  # The converter wants what the published models have.
                config["rope_parameters"] |= {"mscale": 1.0, "mscale_all_dim": 1.0}
                (directory / "config.json").write_text(json.dumps(config))
            (directory / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "top_p": 0.8, "top_k": 20}))
            out = Path(folder) / "out.gguf"
            try:
                convert(directory, out, "MOSTLY_F16", "smollm")
            except Exception as problem:  # A model that the converter refuses has no reference.
                print(f"{model.name} {config['model_type']}: {problem!r}", file=sys.stderr)
                continue
            write(f"{model.name}.json", {"tokenizer": tokenizer, **described(out)})
            if model.name == "llama":
                shutil.copy(out, OUT / "llama.gguf")
            if (model / "adapter").is_dir():
                with contextlib.suppress(subprocess.CalledProcessError):
                    convert_adapter(model / "adapter", directory, out)
                    write(f"adapter-{model.name}.json", described(out))


def types() -> None:
    """Types of tensors by shape: layers, columns that 256 or 32 do not divide, tied heads, fused matrices, 80 layers."""
    shape = dict(vocab_size=VOCABULARY, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    cases = {
        "llama": (LlamaForCausalLM, LlamaConfig(**shape, hidden_size=256, intermediate_size=512, num_hidden_layers=9)),
        "narrow": (
            LlamaForCausalLM,
            LlamaConfig(**shape, hidden_size=96, intermediate_size=256, num_hidden_layers=4, tie_word_embeddings=True),
        ),
        "odd": (Qwen2ForCausalLM, Qwen2Config(**shape, hidden_size=256, intermediate_size=200, num_hidden_layers=3)),
        "deep": (Qwen2ForCausalLM, Qwen2Config(**shape, hidden_size=256, intermediate_size=256, num_hidden_layers=80)),
        "fused": (
            Phi3ForCausalLM,
            Phi3Config(
                **shape, hidden_size=256, intermediate_size=256, num_hidden_layers=5, tie_word_embeddings=True,
                original_max_position_embeddings=64, pad_token_id=0,
            ),
        ),
        "mixtral": (
            MixtralForCausalLM,
            MixtralConfig(
                **shape, hidden_size=256, intermediate_size=256, num_hidden_layers=6, num_local_experts=8,
            ),
        ),
        "shared": (
            Qwen2MoeForCausalLM,
            Qwen2MoeConfig(
                **shape, hidden_size=256, intermediate_size=256, num_hidden_layers=6, num_experts=4,
                moe_intermediate_size=256, shared_expert_intermediate_size=512,
            ),
        ),
    }  # fmt: skip
    found: dict = {}
    for name, (model_class, config) in cases.items():
        tokenizer = "spm" if name == "fused" else "bpe"
        with tempfile.TemporaryDirectory() as folder:
            directory, dense = Path(folder) / name, Path(folder) / "dense.gguf"
            shutil.copytree(OUT / "tokenizers" / tokenizer, directory)
            model_class(config).save_pretrained(directory)
            convert(directory, dense, "ALL_F32", "smollm")
            found[name] = {"config": json.loads((directory / "config.json").read_text()), "types": {}}
            for kind in ["Q4_K_M"] if name == "deep" else QUANTIZATIONS:
                quantize(dense, Path(folder) / "out.gguf", kind)
                tensors = described(Path(folder) / "out.gguf")["tensors"]
                shapes = {tensor: entry[1] for tensor, entry in tensors.items()}
                found[name]["types"][kind.lower()] = {tensor: entry[0] for tensor, entry in tensors.items()}
                found[name]["shapes"] = shapes
    write("types.json", found, indent=None)


def smollm2() -> None:
    """The real model, whose pre-tokenizer the converter knows."""
    model = ROOT / "demo/model/SmolLM2-135M-Instruct"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        dense, out = Path(folder) / "dense.gguf", Path(folder) / "out.gguf"
        convert(model, dense, "MOSTLY_BF16")
        for kind in ["bf16", "q8_0", "q4_k_m"]:
            if kind != "bf16":
                quantize(dense, out, kind.upper())
            whole = described(dense if kind == "bf16" else out, long=64)
            lines = "".join(f"{name} {kind} {hash}\n" for name, (kind, _, hash) in whole["tensors"].items())
            digest = hashlib.sha256(lines.encode()).hexdigest()
            found[kind] = {"metadata": whole["metadata"], "tensors": digest}
    for kind in found:
        if kind != "bf16":
            same = found["bf16"]["metadata"]
            metadata = found[kind]["metadata"]
            found[kind]["metadata"] = {key: value for key, value in metadata.items() if same.get(key) != value}
    write("smollm2.json", found)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for part in (blocks, tokenizers, cuts, families, types, smollm2):
        part()
