"""Golden losses and LoRA gradients of a tiny model with dropout on its adapters and NEFTune's noise.

Proves: what training drops and adds at random goes where PEFT's lora_dropout and transformers'
neftune_noise_alpha put it and is scaled as theirs, given the same random numbers: numbers are
Philox4x32-10's, computed here a second time. PEFT's dropout modules are replaced by products with our
masks; transformers' hook runs as it is, with torch's uniform numbers replaced by ours.

Run:     python scripts/golden/noise.py      (torch 2.11, transformers 5.23, peft 0.21.2, CPU, in f32)
Needs:   tests/golden/models/llama, of which it takes base, adapter and batch (tiny_models.py)
Writes:  tests/golden/noise.safetensors:
    P.loss        F32 [1]    P = dropout | neftune | both
    P.grad.KEY    F32        d loss / d KEY, KEY as in adapter_model.safetensors
"""

from __future__ import annotations

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import LENGTHS, OUT, PROJECTIONS, gradients, load
from transformers.integrations.neftune import neftune_post_forward_hook

FOLDER = OUT / "llama"
SEED, STEP, DROPOUT, ALPHA = (9 << 32) + 11, 5, 0.3, 8.0
STACKS = [PROJECTIONS[:3], PROJECTIONS[3:4], PROJECTIONS[4:6], PROJECTIONS[6:]]
EMBEDDINGS = 0xFFFFFFFF
MASK = 0xFFFFFFFF


def philox(words: list[int], key: list[int]) -> list[int]:
    """Four random numbers from a counter of four words (Salmon et al. 2011)."""
    a, b, c, d = words
    k, l = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ k, second & MASK, (first >> 32) ^ d ^ l, first & MASK
        k, l = (k + 0x9E3779B9) & MASK, (l + 0xBB67AE85) & MASK
    return [a, b, c, d]


def numbers(first_row: int, rows: int, columns: int, stream: int) -> torch.Tensor:
    """The numbers of a matrix [rows, columns] whose rows are tokens of a step."""
    key = [SEED & MASK, SEED >> 32]
    rows_of = [
        sum((philox([group, row, stream, STEP], key) for group in range(-(-columns // 4))), [])[:columns]
        for row in range(first_row, first_row + rows)
    ]
    return torch.tensor(rows_of, dtype=torch.int64)


class Place:
    """Where the next sequence of the batch begins."""

    row = 0


class Mask(torch.nn.Module):
    """What stands in the place of one adapter's dropout."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.stream = stream

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = numbers(Place.row, x.shape[1], x.shape[2], self.stream) >= int(DROPOUT * 2**32)
        return x * kept / (1 - DROPOUT)


def drop(model: PeftModel) -> None:
    """Replace all dropouts. A stream is the place of A among all values: A's of a stack, then its B's."""
    place = 0
    for layer in model.base_model.model.model.layers:
        for stack in STACKS:
            modules = [getattr(layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp, name) for name in stack]
            for module in modules:
                module.lora_dropout["default"] = Mask(place)
                place += module.lora_A["default"].weight.numel()
            place += sum(module.lora_B["default"].weight.numel() for module in modules)


def shake(model: PeftModel) -> None:
    """transformers' NEFTune on the embeddings, with our uniform numbers."""
    embeddings = model.get_input_embeddings()
    embeddings.neftune_noise_alpha = ALPHA

    def hook(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        def uniform(self: torch.Tensor, low: float, high: float) -> torch.Tensor:
            share = (numbers(Place.row, self.shape[1], self.shape[2], EMBEDDINGS) >> 8).float() / 2**24
            return self.copy_(low + (high - low) * share)

        original, torch.Tensor.uniform_ = torch.Tensor.uniform_, uniform
        try:
            return neftune_post_forward_hook(module, inputs, output)
        finally:
            torch.Tensor.uniform_ = original

    embeddings.register_forward_hook(hook)


def main() -> None:
    torch.set_num_threads(1)
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    data = load_file(FOLDER / "expected.safetensors")
    starts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS) + 1)]
    found = {}
    for name, changes in {"dropout": [drop], "neftune": [shake], "both": [drop, shake]}.items():
        model = PeftModel.from_pretrained(load(FOLDER), FOLDER / "adapter", is_trainable=True).train()
        for change in changes:
            change(model)
        Place.row, ahead = 0, iter(starts[1:])
        model.register_forward_hook(lambda *_, ahead=ahead: setattr(Place, "row", next(ahead)))
        found |= {f"{name}.{key}": value for key, value in gradients(model, data).items()}
        print(f"{name}: loss {found[f'{name}.loss'].item():.5f}, {data['dense.loss'].item():.5f} without")
    path = OUT.parent / "noise.safetensors"
    save_file(found, path, metadata={"format": "pt"})
    path.chmod(0o644)


if __name__ == "__main__":
    main()
