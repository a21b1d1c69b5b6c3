"""Golden answers, losses, scores and merged weights of the tiny models of every family.

Proves: through the tools themselves, every family answers, scores and merges as transformers and PEFT do.

Run:     python scripts/golden/families.py      (torch 2.15, transformers 5.24, peft 0.21.2, CPU, all in f32)
         after scripts/golden/tiny_models.py, whose models it reads
Writes:  tests/golden/families.json: {NAME: {"prompt", "answer", "adapter_answer" (ids of transformers' generate
             without sampling, without and with the adapter), "least_gap" (smallest lead of a chosen token's logit
             over its runner-up's), "losses" (of each of ROWS: mean over the answer's tokens and its end),
             "logprobs" (of " A" to " D" after QUESTION)}}
         tests/golden/families.safetensors: NAME/TENSOR F32 [2, K], the first and the last row of every weight of
             layer 0 that the adapter changes, after PEFT's merge_and_unload
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import OUT, families, load, scores

GOLDEN = OUT.parent
# In tests, a token is a character: its id is its code less 32. `~` ends a turn.
END = ord("~") - 32
# The first of which every token of the answer leads clearly is taken.
PROMPTS = ["What is 2?", "Name it.", "Who said so?", "abc", "In short: why?", "7 x 6 ="]
CLEAR = 3e-4
ROWS = [("ab", "cde"), ("Name it.", "x-y"), ("1+1=", "2")]
LENGTH = 16
# As lm-evaluation-harness asks the question "q" of the subject "x", without shots.
QUESTION = "The following are multiple choice questions (with answers) about x.\n\nq\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
NEWLINE, LETTERS = 95, [62, 64, 91, 93]


def ids(text: str) -> list[int]:
    """The tokens of a text."""
    return [NEWLINE if character == "\n" else ord(character) - 32 for character in text]


def answer(model: torch.nn.Module, text: str) -> tuple[list[int], float]:
    """transformers' greedy answer to a prompt, without what ended it, and the smallest lead of a token."""
    prompt = torch.tensor([ids(text)])
    stops = [END, model.config.get_text_config().eos_token_id]
    made = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=LENGTH,
        eos_token_id=stops, pad_token_id=END, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    best = torch.stack(made.logits)[:, 0].topk(2).values
    found = made.sequences[0, prompt.shape[1] :].tolist()
    return [token for token in found if token not in stops], (best[:, 0] - best[:, 1]).min().item()


def loss(model: torch.nn.Module, question: str, reply: str) -> float:
    """The mean loss of a reply and its end."""
    tokens = torch.tensor([*ids(question), *ids(reply), END])
    start = len(question)
    with torch.inference_mode():
        return torch.nn.functional.cross_entropy(scores(model, tokens)[start - 1 : -1], tokens[start:]).item()


def logprobs(model: torch.nn.Module) -> list[float]:
    """The log-probabilities of the four letters after the question."""
    with torch.inference_mode():
        return scores(model, torch.tensor(ids(QUESTION)))[-1].log_softmax(-1)[LETTERS].tolist()


def merged_rows(model: PeftModel, folder: Path) -> dict[str, torch.Tensor]:
    """Two rows of each weight of layer 0 that the adapter changes, under their names in a checkpoint."""
    before = load_file(folder / "model.safetensors")
    with tempfile.TemporaryDirectory() as saved:
        model.merge_and_unload().save_pretrained(saved)
        tensors = load_file(Path(saved) / "model.safetensors")
    return {
        f"{folder.name}/{name}": torch.stack([tensor[0], tensor[-1]])
        for name, tensor in tensors.items()
        if ".layers.0." in f".{name}" and not torch.equal(tensor, before[name].float())
    }


def main() -> None:
    """Ask, score and merge every model."""
    torch.set_num_threads(1)
    found, rows = {}, {}
    for name in sorted(families()):
        folder = OUT / name
        model = load(folder).eval()
        losses, letters = [loss(model, *row) for row in ROWS], logprobs(model)
        plain = [answer(model, prompt) for prompt in PROMPTS]
        adapted = PeftModel.from_pretrained(model, folder / "adapter").eval()
        trained = [answer(adapted, prompt) for prompt in PROMPTS]
        gaps = [min(one[1], other[1]) for one, other in zip(plain, trained, strict=True)]
        chosen = next(index for index, gap in enumerate(gaps) if gap > CLEAR)
        rows |= merged_rows(adapted, folder)
        found[name] = {
            "prompt": PROMPTS[chosen], "answer": plain[chosen][0], "adapter_answer": trained[chosen][0],
            "least_gap": gaps[chosen], "losses": losses, "logprobs": letters,
        }  # fmt: skip
        print(name, found[name], flush=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items())
    (GOLDEN / "families.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    save_file(rows, GOLDEN / "families.safetensors", metadata={"format": "pt"})
    (GOLDEN / "families.safetensors").chmod(0o644)


if __name__ == "__main__":
    main()
