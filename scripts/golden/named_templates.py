"""Golden texts of LLaMA-Factory's named templates.

Proves: a template named in train.yaml gives LLaMA-Factory's text, what it trains included.

Run:     python scripts/golden/named_templates.py LLAMAFACTORY      (0.9.5, torch 2.11, transformers 5.23)
         LLAMAFACTORY is the directory of the Python package llamafactory, whose templates are run; modules
         for sound and video that it imports and these templates do not need may be missing
Writes:  tests/golden/named_templates.json: [{"template", "name", "messages", "tools" (or null),
         "pairs": [[prompt, answer], ...]}], with <s> and </s> for the tokenizer's bos and eos
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path

from templates import CONVERSATIONS, TIDE_TOOL, TOOL_CONVERSATIONS

OUT = Path(__file__).parents[2] / "tests/golden/named_templates.json"
NAMES = [
    "alpaca", "chatml", "default", "llama2", "llama3", "mistral",
    "qwen", "qwen3", "qwen3_nothink", "smollm", "smollm2",
]  # fmt: skip
WITH_TOOLS = ["qwen", "qwen3", "qwen3_nothink"]
CASES = ["one_turn", "system", "empty_system", "multi_turn", "empty_user", "chinese", "emoji", "numbers_and_spaces"]
THINKING = [
    {"role": "user", "content": "Which sea?"},
    {"role": "assistant", "content": "<think>\nCold.\n</think>\n\nThe Grey Sea."},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


class Characters:
    """A tokenizer that gives characters back."""

    bos_token_id, eos_token_id = -1, -2

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(character) for character in text]

    def text(self, ids: list[int]) -> str:
        return "".join({-1: "<s>", -2: "</s>"}.get(i) or chr(i) for i in ids)


def converted(messages: list[dict]) -> tuple[str, list[dict]]:
    """System message and turns under LLaMA-Factory's roles."""
    system = "".join(message["content"] for message in messages if message["role"] == "system")
    turns = []
    for message in messages:
        if calls := message.get("tool_calls"):
            functions = [call["function"] for call in calls]
            turns.append({"role": "function", "content": json.dumps(functions, ensure_ascii=False)})
        elif message["role"] != "system":
            role = "observation" if message["role"] == "tool" else message["role"]
            turns.append({"role": role, "content": message["content"]})
    return system, turns


def main() -> None:
    for name in ("torchaudio", "librosa", "av"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(Path(sys.argv[1]).resolve().parent))
    from llamafactory.data.template import TEMPLATES

    tokenizer, golden = Characters(), []
    for name in NAMES:
        cases = [(case, CONVERSATIONS[case], None) for case in CASES] + [("thinking", THINKING, None)]
        if name in WITH_TOOLS:
            cases += [(case, TOOL_CONVERSATIONS[case], [TIDE_TOOL]) for case in ("tools_unused", "tool_call")]
        for case, messages, tools in cases:
            system, turns = converted(messages)
            text = json.dumps(tools) if tools else None
            pairs = TEMPLATES[name].encode_multiturn(tokenizer, turns, system, text)
            pairs = [[tokenizer.text(part) for part in pair] for pair in pairs]
            golden.append({"template": name, "name": case, "messages": messages, "tools": tools, "pairs": pairs})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in golden)
    OUT.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(OUT, len(golden))


if __name__ == "__main__":
    main()
