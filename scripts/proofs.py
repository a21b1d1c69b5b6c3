#!/usr/bin/env python3
"""Prove our tools' directories against transformers, bitsandbytes and PEFT.

    scripts/proofs.py QUANTIZED ADAPTER MERGED --scores QUANTIZED=details.jsonl

Each directory is recognised by what is inside it, and every proof prints one line:

quantized   transformers + bitsandbytes load it and miss no tensor; for SmolLM2-135M-Instruct
            the logits are those of tests/golden/smollm2.json.
adapter     PEFT loads it onto its base (its own base_model_name_or_path, or --base) and
            finds exactly the tensors that it expects.
merged      transformers loads it, it is not quantized, and every weight is base + scale * B A
            of the ADAPTER also given, rounded once to the merged dtype. The base is the
            adapter's own, or --base.
--scores    for any of them: the file that `evaluate DIR --data DATA --details FILE` wrote;
            transformers gives the same four logprobs for every question in it.

Logits and logprobs may differ by 2e-3 (everything is computed in f32). Exits with 1 when a
proof fails. Needs torch, transformers, peft, bitsandbytes and safetensors.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Iterator

sys.path.insert(0, str(Path(__file__).parent / "golden"))

try:
    import bitsandbytes.functional as bnb
    import torch
    from bitsandbytes.nn import Linear4bit
    from mmlu import logprobs, prompt, rows
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict
    from reference import GOLDEN
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
    from transformers.utils import logging
except ImportError as missing:
    sys.exit(
        f"proofs: the Python package {missing.name} is not installed\n"
        "hint: pip install torch transformers peft bitsandbytes safetensors accelerate"
    )

TOLERANCE = 2e-3
Proof = tuple[bool, str]


def read_json(path: Path) -> dict:
    """A JSON file, or an empty object where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def kind(folder: Path) -> str:
    """adapter, quantized or merged, by the folder's own configuration."""
    if (folder / "adapter_config.json").exists():
        return "adapter"
    config = read_json(folder / "config.json")
    if not config:
        sys.exit(
            f"proofs: {folder}: neither config.json nor adapter_config.json\n"
            "hint: name a directory made by quantize, lora-train or merge"
        )
    return "quantized" if "quantization_config" in config else "merged"


def base_of(adapter: Path, base: Path | None) -> Path:
    """Where the adapter's base lies."""
    return base or Path(read_json(adapter / "adapter_config.json")["base_model_name_or_path"])


def load(folder: Path) -> tuple[PreTrainedModel, dict]:
    """The model in f32 throughout, and what transformers says about its tensors."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    return in_f32(model), info


def in_f32(model: torch.nn.Module) -> torch.nn.Module:
    """A model computing in f32: transformers keeps a quantized checkpoint's own dtype whatever it is asked for, so
    the weights that are not quantized are widened here."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
    return in_f32_kernels(model)


def in_f32_kernels(model: torch.nn.Module) -> torch.nn.Module:
    """Evaluation mode, but for bitsandbytes' linears: there they would repack their weights
    for a bf16 kernel on processors that have one."""
    model.eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.train()
    return model


def loads_whole(info: dict) -> Proof:
    """transformers found every tensor that it wanted, and no other."""
    wrong = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    return not wrong, f"transformers loads every tensor{f': {wrong}' if wrong else ''}"


def golden_logits(model: PreTrainedModel) -> Proof:
    """The logits of the golden prompts; only for SmolLM2-135M-Instruct."""
    golden = read_json(GOLDEN / "smollm2.json")
    worst = 0.0
    for case in golden["prompts"]:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([case["ids"]]), logits_to_keep=1).logits[0, -1]
        ids = case["nf4"]["top_ids"] + golden["columns"]
        expected = torch.tensor(case["nf4"]["top_logits"] + case["nf4"]["column_logits"])
        worst = max(worst, (logits[ids] - expected).abs().max().item())
    return worst < TOLERANCE, f"logits are bitsandbytes' own: largest difference {worst:.1e}"


def is_smollm2(folder: Path) -> bool:
    """Whether the directory has the golden model's shape."""
    config = read_json(folder / "config.json")
    shape = [config.get(key) for key in ("hidden_size", "num_hidden_layers", "vocab_size")]
    return shape == [576, 30, 49152]


def quantized(folder: Path) -> Iterator[Proof]:
    """Proofs of `quantize`'s directory."""
    model, info = load(folder)
    yield loads_whole(info)
    count = sum(isinstance(module, Linear4bit) for module in model.modules())
    expected = 7 * model.config.num_hidden_layers
    yield count == expected, f"{count} of {expected} linears are bitsandbytes' Linear4bit"
    if is_smollm2(folder):
        yield golden_logits(model)


def adapter(folder: Path, base: Path) -> Iterator[Proof]:
    """Proofs of `lora-train`'s directory."""
    model = PeftModel.from_pretrained(load(base)[0], folder)
    expected = get_peft_model_state_dict(model)
    found = load_file(folder / "adapter_model.safetensors")
    different = expected.keys() ^ found.keys()
    yield not different, f"PEFT expects exactly its {len(found)} tensors{f', not {sorted(different)}' if different else ''}"
    changed = [name for name in expected.keys() & found.keys() if not torch.equal(expected[name], found[name].float())]
    yield not changed, f"PEFT holds their values{f', but not of {changed}' if changed else ''}"
    untrained = [name for name, value in found.items() if "lora_B" in name and not value.any()]
    yield not untrained, f"every B has been trained{f', but {untrained}' if untrained else ''}"


def base_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a base, widened to f32; NF4 weights as bitsandbytes' dequantize_4bit
    gives them to a model that computes in f32, unrounded."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    weights = {name: value.float() for name, value in model.named_parameters() if not hasattr(value, "quant_state")}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            state.dtype = torch.float32
            weights[f"{name}.weight"] = bnb.dequantize_4bit(module.weight.data, state)
    return weights


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a directory, whatever its shards."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as shard:
            for name in shard.keys():
                yield name, shard.get_tensor(name)


def rounding_error(merged: torch.Tensor, exact: torch.Tensor, summed: torch.Tensor) -> float:
    """Largest error over what rounding explains: 1 is half a step of the merged dtype, and
    eight steps of f32 at the size of what was `summed`, for sums that cancel."""
    half_step = exact.abs().clamp(min=1e-30).log2().floor().exp2() * torch.finfo(merged.dtype).eps / 2
    slack = half_step + 8 * torch.finfo(torch.float32).eps * summed
    return ((merged.double() - exact).abs() / slack).max().item()


def merged(folder: Path, adapters: list[Path], base: Path | None) -> Iterator[Proof]:
    """Proofs of `merge`'s directory."""
    yield loads_whole(load(folder)[1])
    for source in adapters:
        config = read_json(source / "adapter_config.json")
        scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
        weights, lora = base_weights(base_of(source, base)), load_file(source / "adapter_model.safetensors")
        worst = ("", 0.0)
        for name, value in tensors(folder):
            exact, summed = weights[name].double(), weights[name].double().abs()
            key = "base_model.model." + name.removesuffix("weight")
            if f"{key}lora_A.weight" in lora:
                a, b = lora[f"{key}lora_A.weight"].double(), lora[f"{key}lora_B.weight"].double()
                exact, summed = exact + scale * (b @ a), summed + scale * (b.abs() @ a.abs())
            worst = max(worst, (name, rounding_error(value, exact, summed)), key=lambda item: item[1])
        sentence = f"every weight is base + scale B A, rounded once: {worst[1]:.2f} of the bound, {worst[0]}"
        yield worst[1] <= 1.0, sentence


def same_scores(folder: Path, details: Path, data: Path, base: Path | None) -> Proof:
    """transformers' logprobs for the questions that `evaluate` scored."""
    is_adapter = kind(folder) == "adapter"
    model = load(base_of(folder, base) if is_adapter else folder)[0]
    if is_adapter:
        model = in_f32_kernels(PeftModel.from_pretrained(model, folder))
    tokenizer = AutoTokenizer.from_pretrained(base_of(folder, base) if is_adapter else folder)
    worst, count = 0.0, 0
    for line in details.read_text(encoding="utf-8").splitlines():
        ours = json.loads(line)
        text = prompt(data, ours["subject"], rows(data, ours["subject"], "test")[ours["index"]])
        theirs = logprobs(model, tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
        worst = max(worst, *(abs(a - b) for a, b in zip(ours["logprobs"], theirs, strict=True)))
        count += 1
    return count > 0 and worst < TOLERANCE, f"transformers gives our logprobs for {count} questions: {worst:.1e}"


def proofs(args: argparse.Namespace) -> Iterator[tuple[Path, Proof]]:
    """Every proof of every directory, each with its directory."""
    kinds = {folder: kind(folder) for folder in args.folders}
    adapters = [folder for folder, found in kinds.items() if found == "adapter"]
    for folder, found in kinds.items():
        if found == "quantized":
            these = quantized(folder)
        elif found == "adapter":
            these = adapter(folder, base_of(folder, args.base))
        else:
            these = merged(folder, adapters, args.base)
        yield from ((folder, proof) for proof in these)
    for item in args.scores:
        folder, _, details = item.partition("=")
        yield Path(folder), same_scores(Path(folder), Path(details), args.data, args.base)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Prove our directories against transformers, bitsandbytes and PEFT.")
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="made by quantize, lora-train or merge")
    parser.add_argument("--base", type=Path, metavar="DIR", help="the adapters' base, if not the one they name")
    parser.add_argument("--scores", action="append", default=[], metavar="DIR=FILE", help="evaluate's --details for DIR")
    default_data = Path(__file__).parent / "demo/mmlu"
    parser.add_argument("--data", type=Path, default=default_data, help="the questions behind --scores")
    args = parser.parse_args()
    if not args.folders and not args.scores:
        parser.error("name at least one directory or --scores DIR=FILE")
    return args


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failed = 0
    for folder, (holds, sentence) in proofs(arguments()):
        print(f"{'proved' if holds else 'FAILED'}  {folder}  {sentence}", flush=True)
        failed += not holds
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
