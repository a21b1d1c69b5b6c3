"""What the golden generators share: the reference model in f32, dense or NF4.

bitsandbytes' CPU build finds the 8-bit codes of absmax through a table of 64 K entries, so
about 0.2 % of them are off the nearest code, by one step or, around zero where the map is
finer than the table, by a few. Its CUDA build, and ours, take the nearest. `load` puts the
nearest codes into the reference, so that goldens need no slack for it.
"""

from __future__ import annotations

from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from bitsandbytes.nn import Linear4bit
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

GOLDEN = Path(__file__).parents[2] / "tests/golden"
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(folder: Path, quantization: str) -> PreTrainedModel:
    """The model computing in f32; quantization is dense, nf4 (double-quantized) or nf4_plain.

    In training mode (nothing has dropout): in evaluation mode bitsandbytes repacks the
    weights for a bf16 kernel on processors that have one.
    """
    if quantization == "dense":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=quantization == "nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    if quantization == "nf4":
        use_nearest_codes(model, folder)
    return model.train()


def use_nearest_codes(model: PreTrainedModel, folder: Path) -> None:
    """Replace every absmax code by the nearest one, as bitsandbytes on CUDA would have it."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name, module in model.named_modules():
            if isinstance(module, Linear4bit):
                _, plain = bnb.quantize_4bit(file.get_tensor(f"{name}.weight"), quant_type="nf4")
                state = module.weight.quant_state
                state.absmax = nearest_codes(plain.absmax - state.offset, state)


def nearest_codes(centred: torch.Tensor, state: bnb.QuantState) -> torch.Tensor:
    """Nearest entry of the dynamic map for every value, never further from the value than the table explains."""
    scale = (1.0 / state.state2.absmax).repeat_interleave(state.state2.blocksize)[: centred.numel()]
    scaled, code = centred * scale, state.state2.code
    codes = torch.bucketize(scaled, (code[1:] + code[:-1]) / 2)
    excess = (scaled - code[state.absmax.int()]).abs() - (scaled - code[codes]).abs()
    assert excess.min() >= 0 and excess.max() <= 2.0 / 2**16
    return codes.to(torch.uint8)
