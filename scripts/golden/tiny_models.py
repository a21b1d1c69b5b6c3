"""Golden logits, losses and LoRA gradients of tiny random models, one per model family.

Proves: our decoder computes what transformers computes for each family and each difference
that config.json can express (bias, q/k norm, explicit head size, tied head, rope scaling,
one or several key/value heads), with a dense base and with a bitsandbytes NF4 base; our
hand-written backward gives torch's gradients for every LoRA tensor; a batch of several
sequences counts its loss over all supervised tokens.

Run:     python scripts/golden/tiny_models.py [NAME ...]
         (torch 2.11, transformers 5.23, peft 0.21.2, bitsandbytes 0.50.2, CPU, all in f32;
         from mistral-window on: torch 2.15, transformers 5.24)
         The names that end in -vision are text models beside a part that reads images.

Mixtures of experts: the adapter is on attention, the experts (PEFT's target_parameters) and a shared expert. In
nf4/ the experts are quantized by bitsandbytes' functions, a tensor an expert, because transformers 5 leaves them in
16 bits; expected values are those of transformers with the dequantized experts.

Writes:  tests/golden/models/NAME/
    config.json, model.safetensors    the bf16 checkpoint, config as transformers writes it
    nf4/                              the same, quantized and saved by transformers + bitsandbytes
    adapter/                          PEFT adapter: r 4, alpha 8, seven projections, nonzero B
    expected.safetensors:
        input_ids                I64 [T]     one sequence
        P.logits                 F32 [T, V]  P = dense | nf4 | dense.adapter | nf4.adapter
        batch.input_ids          I64 [sum]   three sequences one after the other
        batch.labels             I64 [sum]   -100 = not supervised; not shifted: the token at
                                             i is predicted from i-1, a sequence's first never
        batch.lengths            I64 [3]
        P.loss                   F32 [1]     P = dense | nf4, with the adapter: summed over
                                             supervised tokens, divided by their count
        P.grad.KEY               F32         d loss / d KEY, KEY as in adapter_model.safetensors
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    Glm4Config,
    GraniteConfig,
    LlamaConfig,
    Ministral3Config,
    Mistral3Config,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.utils import ModelOutput

OUT = Path(__file__).parents[2] / "tests/golden/models"
VOCABULARY, SEQUENCE, LENGTHS = 96, 19, (11, 7, 16)
# The parts of a composite that are not quantized.
IMAGES = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Where some of them are one matrix.
FUSED = {
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    "glm4": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"],
}  # fmt: skip
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SHARED = [f"shared_expert.{name}_proj" for name in ("gate", "up", "down")] + ["shared_expert_gate"]
# Mixtures of experts: the linear layers beside the experts, and the experts.
MIXTURES = {
    "qwen3_moe": ATTENTION, "qwen2_moe": ATTENTION + SHARED, "mixtral": ATTENTION, "olmoe": ATTENTION,
}  # fmt: skip
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
# Rows of at least one block of 64: bitsandbytes' CPU kernel misreads the blocks of shorter ones.
SHAPE = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCABULARY,
    max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=2,
)  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

VISION = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4,
)  # fmt: skip


YARN = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 8,
}  # fmt: skip
# Half of heads of 32 rotates: 8 pairs.
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
    "short_factor": [1.0 + 0.05 * i for i in range(8)], "long_factor": [1.0 + 0.5 * i for i in range(8)],
    "original_max_position_embeddings": 12,
}  # fmt: skip


def families() -> dict[str, PretrainedConfig]:
    """Configurations in the order of their seeds; together they use every field that changes the computation."""
    return {
        "llama": LlamaConfig(**SHAPE, intermediate_size=72, tie_word_embeddings=False, rms_norm_eps=1e-5),
        "llama3-rope": LlamaConfig(
            **SHAPE, intermediate_size=64, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE
        ),
        "mistral": MistralConfig(
            **SHAPE | {"num_key_value_heads": 1}, intermediate_size=64, tie_word_embeddings=False, sliding_window=None
        ),
        "qwen2": Qwen2Config(
            **SHAPE, intermediate_size=64, tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        ),
        "qwen3": Qwen3Config(**SHAPE, intermediate_size=64, tie_word_embeddings=False, head_dim=16),
        "mistral-window": MistralConfig(
            **SHAPE, intermediate_size=64, tie_word_embeddings=False, sliding_window=5, head_dim=32
        ),
        "qwen2-window-yarn": Qwen2Config(
            **SHAPE, intermediate_size=64, tie_word_embeddings=False, use_sliding_window=True, sliding_window=4,
            max_window_layers=1, rope_parameters=YARN,
        ),
        "olmo2": Olmo2Config(**SHAPE | {"num_key_value_heads": 1}, intermediate_size=64, tie_word_embeddings=False),
        "granite": GraniteConfig(
            **SHAPE, intermediate_size=64, tie_word_embeddings=True, attention_multiplier=0.3,
            embedding_multiplier=1.7, residual_multiplier=0.4, logits_scaling=1.3,
        ),
        "phi3": Phi3Config(**SHAPE, intermediate_size=64, tie_word_embeddings=False, sliding_window=6),
        "phi3-longrope": Phi3Config(
            **SHAPE | {"num_attention_heads": 2, "num_key_value_heads": 1}, intermediate_size=64,
            tie_word_embeddings=True, original_max_position_embeddings=12, rope_parameters=LONGROPE,
        ),
        "glm4": Glm4Config(**SHAPE, intermediate_size=64, tie_word_embeddings=False, head_dim=16),
        "gemma3": Gemma3TextConfig(
            **SHAPE, intermediate_size=64, head_dim=32, query_pre_attn_scalar=24, sliding_window=5,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
        "gemma2": Gemma2Config(
            **SHAPE, intermediate_size=64, head_dim=32, query_pre_attn_scalar=12,
            sliding_window=5, attn_logit_softcapping=3.0, final_logit_softcapping=5.0,
        ),
        "qwen3-moe": Qwen3MoeConfig(
            **SHAPE, intermediate_size=64, moe_intermediate_size=64, head_dim=16, num_experts=6,
            num_experts_per_tok=3, norm_topk_prob=True, mlp_only_layers=[1], tie_word_embeddings=False,
        ),
        "qwen2-moe": Qwen2MoeConfig(
            **SHAPE, intermediate_size=64, moe_intermediate_size=64, shared_expert_intermediate_size=128, num_experts=4,
            num_experts_per_tok=2, tie_word_embeddings=False, use_sliding_window=True, sliding_window=5,
        ),
        "mixtral": MixtralConfig(
            **SHAPE, intermediate_size=64, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False,
            output_router_logits=True, router_aux_loss_coef=0.3, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        ),
        "olmoe": OlmoeConfig(
            **SHAPE | {"num_key_value_heads": 1}, intermediate_size=64, num_experts=5, num_experts_per_tok=2,
            tie_word_embeddings=False,
        ),
        "ministral3": Ministral3Config(
            **SHAPE, intermediate_size=64, tie_word_embeddings=False, head_dim=32,
            rope_parameters=YARN | {"original_max_position_embeddings": 112, "llama_4_scaling_beta": 0.1},
        ),
        "gemma3-vision": Gemma3Config(
            text_config=SHAPE | {
                "intermediate_size": 64, "head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 5,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            vision_config=VISION, mm_tokens_per_image=4, image_token_index=95, boi_token_index=93, eoi_token_index=94,
        ),
        "mistral3-vision": Mistral3Config(
            text_config=SHAPE | {
                "model_type": "mistral", "intermediate_size": 64, "head_dim": 32, "sliding_window": None,
                "tie_word_embeddings": False,
            },
            vision_config=VISION | {"model_type": "pixtral", "head_dim": 8}, image_token_index=95,
            tie_word_embeddings=False,
        ),
    }  # fmt: skip


def randomize(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Weights large enough that every part of the model moves the logits; norms around one."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = "norm" in name
        parameter.data = noise * (0.2 if is_norm or name.endswith("bias") else 0.25) + (1.0 if is_norm else 0.0)


def save_checkpoints(config: PretrainedConfig, folder: Path, generator: torch.Generator) -> None:
    """The bf16 checkpoint and, from it, the NF4 one."""
    model = auto_class(config).from_config(config, dtype=torch.float32)
    randomize(model, generator)
    model.to(torch.bfloat16).save_pretrained(folder)
    double_quantized = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=IMAGES if is_composite(config) else None,
    )  # fmt: skip
    load(folder, quantization_config=double_quantized).save_pretrained(folder / "nf4")
    if config.model_type in MIXTURES:
        quantize_experts(folder / "nf4")
    for made in (folder, folder / "nf4"):
        (made / "generation_config.json").unlink(missing_ok=True)


def is_expert(name: str) -> bool:
    """Whether a tensor of a checkpoint is a matrix of an expert."""
    return ".experts." in name and name.endswith(".weight")


def quantize_experts(folder: Path) -> None:
    """Replaces the matrices of experts in a checkpoint by bitsandbytes' 4-bit tensors."""
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if is_expert(name):
            packed, state = quantize_4bit(tensor, blocksize=64, compress_statistics=True, quant_type="nf4")
            tensors[name] = packed
            tensors |= {f"{name}.{key}": value.contiguous() for key, value in state.as_dict(packed=True).items()}
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_mixture(folder: Path) -> PreTrainedModel:
    """A mixture whose experts are in 4 bits: transformers loads it without them, and gets them dequantized."""
    tensors = load_file(folder / "model.safetensors")
    names = [name for name in tensors if is_expert(name)]
    plain = {}
    for name in names:
        parts = {key.removeprefix(f"{name}."): tensors.pop(key) for key in list(tensors) if key.startswith(f"{name}.")}
        state = QuantState.from_dict(parts, device=torch.device("cpu"))
        state.dtype = torch.float32
        plain[name] = dequantize_4bit(tensors.pop(name), state)
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(folder / "config.json", directory)
        save_file(tensors | plain, Path(directory) / "model.safetensors", metadata={"format": "pt"})
        return load(Path(directory))


def check_quantized(folder: Path) -> None:
    """bitsandbytes gives back every weight to within what four bits lose."""
    dense = dict(load(folder).named_parameters())
    for name, parameter in load_any(folder / "nf4").named_parameters():
        if (state := getattr(parameter, "quant_state", None)) or ".experts." in name:
            error = (dequantize_4bit(parameter.data, state) if state else parameter) - dense[name]
            assert error.norm() < 0.12 * dense[name].norm(), f"{folder.name}: {name} is not dequantized right"


def save_adapter(folder: Path, generator: torch.Generator) -> None:
    """A PEFT adapter with Gaussian A and B."""
    model = load(folder)
    targets = projections(model)
    if is_composite(model.config):
        targets = rf".*language_model\..*\.({'|'.join(targets)})"
    experts = EXPERTS if model.config.model_type in MIXTURES else None
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets, target_parameters=experts, task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    model.peft_config["default"].base_model_name_or_path = f"tests/golden/models/{folder.name}"
    model.save_pretrained(folder / "adapter")
    (folder / "adapter/README.md").unlink()


def projections(model: torch.nn.Module) -> list[str]:
    """The names of the linear layers of a model's blocks, without experts."""
    return (FUSED | MIXTURES).get(model.config.model_type, PROJECTIONS)


def is_composite(config: PretrainedConfig) -> bool:
    """Whether a model is a text model beside a part that reads images."""
    return hasattr(config, "vision_config")


def auto_class(config: PretrainedConfig) -> type:
    """The class that makes and loads such a model."""
    return AutoModelForImageTextToText if is_composite(config) else AutoModelForCausalLM


def load(folder: Path, **options: object) -> PreTrainedModel:
    """A model computing in f32."""
    auto = auto_class(AutoConfig.from_pretrained(folder))
    return auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **options)


def outputs(model: torch.nn.Module, ids: torch.Tensor) -> ModelOutput:
    """What a model makes of one sequence. In training mode Gemma 3 wants to be told which tokens are images."""
    texts = {"token_type_ids": torch.zeros_like(ids[None])} if model.config.model_type == "gemma3" else {}
    return model(input_ids=ids[None], **texts)


def scores(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The logits of one sequence."""
    return outputs(model, ids).logits[0]


def load_any(folder: Path) -> PreTrainedModel:
    """A model computing in f32, whose experts may be in 4 bits."""
    is_quantized_mixture = folder.name == "nf4" and AutoConfig.from_pretrained(folder).model_type in MIXTURES
    return load_mixture(folder) if is_quantized_mixture else load(folder)


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """All logits of one sequence."""
    with torch.inference_mode():
        return scores(model, ids).clone()


def batch(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Three sequences whose middle parts are supervised, as chat turns are."""
    ids = torch.randint(3, VOCABULARY, (sum(LENGTHS),), generator=generator)
    labels = ids.clone()
    start = 0
    for length in LENGTHS:
        labels[start : start + length // 2] = -100
        start += length
    labels[-2] = -100
    return {"batch.input_ids": ids, "batch.labels": labels, "batch.lengths": torch.tensor(LENGTHS)}


def loss(model: torch.nn.Module, data: dict[str, torch.Tensor]) -> torch.Tensor:
    """Each sequence alone through the model; the sum of all token losses over their count; and the loss of experts'
    balance over all sequences together, where config.json asks for it."""
    total, count, routers = torch.zeros(()), 0, []
    for ids, labels in zip(data["batch.input_ids"].split(LENGTHS), data["batch.labels"].split(LENGTHS), strict=True):
        found = outputs(model, ids)
        predicted = found.logits[0, :-1]
        routers.append(getattr(found, "router_logits", None))
        total = total + torch.nn.functional.cross_entropy(predicted, labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    if routers[0] is None:
        return total / count
    config = model.config
    layers = tuple(torch.cat(layer) for layer in zip(*routers, strict=True))
    balance = load_balancing_loss_func(layers, config.num_experts, config.num_experts_per_tok)
    return total / count + config.router_aux_loss_coef * balance


def gradients(model: PeftModel, data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Loss and every LoRA gradient, named as PEFT saves the tensors."""
    model.zero_grad()
    value = loss(model, data)
    value.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    saved = get_peft_model_state_dict(model, state_dict=grads)
    if model.config.model_type not in MIXTURES:
        assert len(saved) == 2 * len(projections(model)) * SHAPE["num_hidden_layers"]
    return {"loss": value.detach().reshape(1), **{f"grad.{name}": grad.contiguous() for name, grad in saved.items()}}


def expected(folder: Path, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Everything in expected.safetensors.

    Always in training mode (nothing has dropout): in evaluation mode bitsandbytes repacks the
    weights for a bf16 kernel on processors that have one.
    """
    ids = torch.randint(3, VOCABULARY, (SEQUENCE,), generator=generator)
    data = batch(generator)
    found = {"input_ids": ids, **data}
    for base, path in (("dense", folder), ("nf4", folder / "nf4")):
        model = load_any(path).train()
        found[f"{base}.logits"] = logits(model, ids)
        model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True).train()
        found[f"{base}.adapter.logits"] = logits(model, ids)
        found |= {f"{base}.{name}": value for name, value in gradients(model, data).items()}
    return found


def main() -> None:
    """Make the directories of the named families anew, or of all."""
    torch.set_num_threads(1)
    for seed, (name, config) in enumerate(families().items()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        generator = torch.Generator().manual_seed(seed)
        save_checkpoints(config, folder, generator)
        check_quantized(folder)
        save_adapter(folder, generator)
        found = expected(folder, generator)
        save_file(found, folder / "expected.safetensors", metadata={"format": "pt"})
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)
        print(folder, f"dense loss {found['dense.loss'].item():.4f}, nf4 loss {found['nf4.loss'].item():.4f}")


if __name__ == "__main__":
    main()
