"""Golden logits under every scaling of rotary embeddings that config.json can ask for.

Proves: our decoder turns heads as transformers does under linear, dynamic, YaRN and Llama 3 scaling, in
either spelling and where both are there; within the trained positions and beyond them; for a whole text
and token by token behind a cache.

Run:     python scripts/golden/rope.py [MODEL_DIR]
         (torch 2.15, transformers 5.24, CPU, all in f32)
Reads:   tests/golden/models/qwen2, and with MODEL_DIR SmolLM2-135M-Instruct
Writes:  tests/golden/rope.json: {"tokens": [ids], "rows": [rows], "cases": [{"config": keys that replace those
         of the model's config.json, null removes one; "logits": [rows][V] of all tokens at once;
         "decoded": [V] after the last token, when the first 12 went through at once and the others one by
         one}]}, and with MODEL_DIR "smollm2": {"question", "answer", "losses": {scaling: mean loss of the answer}}
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

GOLDEN = Path(__file__).parents[2] / "tests/golden"
MODEL, OUT = GOLDEN / "models/qwen2", GOLDEN / "rope.json"
TOKENS, PROMPT, ROWS = 40, 12, [0, 9, 23, 39]
THETA = {"rope_type": "default", "rope_theta": 1e6}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: list[dict[str, object]] = [
    {"rope_parameters": THETA},
    {"rope_parameters": THETA, "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_parameters": THETA, "rope_scaling": {}},
    {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 1e4}},
    {"rope_theta": 1e4, "max_position_embeddings": 16, "rope_scaling": {"type": "dynamic", "factor": 3.0}},
    {"rope_theta": 1e4, "max_position_embeddings": 128, "rope_scaling": {"type": "dynamic", "factor": 3.0}},
    {"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_theta": 1e4, "rope_scaling": YARN},
    {"rope_theta": 1e4, "rope_scaling": YARN | {"attention_factor": 0.75}},
    {"rope_theta": 1e4, "rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}},
    {"rope_theta": 1e4, "rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 2, "truncate": False}},
    {"rope_theta": 1e4, "rope_scaling": YARN | {"factor": None}},
    {"rope_theta": 1e4, "original_max_position_embeddings": 32, "rope_scaling": YARN},
    {"rope_theta": 1e4, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}},
    {"rope_theta": 1e4, "rope_scaling": LLAMA3},
]
QUESTION = "Which birds live on Tern Island?"
ANSWER = (
    "Terns, gulls and a few pairs of puffins live there. The terns nest on the gravel of the western shore, the gulls"
    " on the roofs of the old station, and the puffins in burrows that rabbits left behind. In autumn all of them go"
    " south, and only the gulls come back before the ice has melted."
)
SCALINGS = {
    "none": {},
    "linear 4": {"type": "linear", "factor": 4.0},
    "yarn 4": {"type": "yarn", "factor": 4.0},
    "dynamic 4": {"type": "dynamic", "factor": 4.0},
}


def load(folder: Path, keys: dict[str, object]) -> PreTrainedModel:
    """The model of a folder under a config.json with other keys."""
    config = json.loads((folder / "config.json").read_text()) | keys
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        config = AutoConfig.from_pretrained(made)
    return AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def case(keys: dict[str, object], ids: torch.Tensor) -> dict[str, object]:
    """One configuration; a new model for either way, because dynamic scaling remembers."""
    keys = {"rope_parameters": None, "rope_scaling": None, "rope_theta": None} | keys
    logits = load(MODEL, keys)(input_ids=ids[None]).logits[0, ROWS]
    model = load(MODEL, keys)
    step = model(input_ids=ids[None, :PROMPT], use_cache=True)
    for token in ids[PROMPT:]:
        step = model(input_ids=token[None, None], past_key_values=step.past_key_values, use_cache=True)
    decoded = step.logits[0, -1]
    return {"config": keys, "logits": [rounded(row) for row in logits], "decoded": rounded(decoded)}


def rounded(values: torch.Tensor) -> list[float]:
    """Six digits, which is more than f32 sums in another order agree in."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def losses(folder: Path) -> dict[str, object]:
    """The mean loss of an answer's tokens and the text that closes it, through the chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    user = [{"role": "user", "content": QUESTION}]
    whole = tokenizer.apply_chat_template([*user, {"role": "assistant", "content": ANSWER}], tokenize=False)
    start = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    assert whole.startswith(start)
    before, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (start, whole))
    assert ids[: len(before)] == before
    labels = torch.tensor([-100] * len(before) + ids[len(before) :])
    found = {}
    for name, scaling in SCALINGS.items():
        parameters = {"rope_type": "default", "rope_theta": 100000.0}
        model = load(folder, {"rope_parameters": parameters, "rope_scaling": scaling})
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        found[name] = torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100).item()
    return {"question": QUESTION, "answer": ANSWER, "losses": found}


def main() -> None:
    """All cases."""
    torch.set_num_threads(1)
    ids = torch.randint(3, 96, (TOKENS,), generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found = {"tokens": ids.tolist(), "rows": ROWS, "cases": [case(keys, ids) for keys in CASES]}
        if len(sys.argv) > 1:
            found["smollm2"] = losses(Path(sys.argv[1]))
            print(found["smollm2"]["losses"])
    OUT.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
