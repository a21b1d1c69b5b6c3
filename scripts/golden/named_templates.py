"""Golden texts and token ids of LLaMA-Factory's named templates.

Proves: a template named in train.yaml gives LLaMA-Factory's text, what it trains included, and with the
small tokenizers of byte_fallback.py its token ids and labels.

Run:     python scripts/golden/named_templates.py LLAMAFACTORY      (0.9.5, torch 2.15, transformers 5.24)
         LLAMAFACTORY is the directory of the Python package llamafactory, whose templates are run; modules
         for sound and video that it imports and these templates do not need may be missing
Writes:  tests/golden/named_templates.json: [{"template", "name", "messages", "tools" (or null),
         "pairs": [[prompt, answer], ...], "enable_thinking" and "preserve_thinking" where they are false}],
         with <s> and </s> for the tokenizer's bos and eos, and the date of a run in the texts of llama3 with tools
         tests/golden/named_ids.json: [{"template", "tokenizer", "name", "messages", "ids", "labels"}]
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path

from templates import CONVERSATIONS, TIDE_CALL, TIDE_TOOL, TOOL_CONVERSATIONS

GOLDEN = Path(__file__).parents[2] / "tests/golden"
NAMES = [
    "alpaca", "chatml", "default", "llama2", "llama3", "mistral",
    "qwen", "qwen3", "qwen3_nothink", "smollm", "smollm2",
]  # fmt: skip
WITH_TOOLS = ["qwen", "qwen3", "qwen3_nothink"]
# Templates with few cases, all with tools.
MORE = [
    "breeze", "chatml_de", "deepseek", "deepseek3", "deepseekcoder", "deepseekr1", "empty", "fewshot", "gemma",
    "gemma2", "gemma3", "gemma3n", "glm4", "glmz1", "granite3", "llama2_zh", "ministral", "ministral3", "mistral_small",
    "olmo", "openchat", "openchat-3.6", "opencoder", "phi", "phi4", "phi4_mini", "phi_small", "sailor", "seed_coder",
    "solar", "vicuna", "yi", "zephyr",
]  # fmt: skip
TOOLS_OF_MORE = ["llama3", "mistral", *MORE]
FEW = ["system", "empty_system", "multi_turn"]
# Templates of models that think.
THINKERS = ["qwen3", "deepseekr1", "glmz1"]
CASES = ["one_turn", "system", "empty_system", "multi_turn", "empty_user", "chinese", "emoji", "numbers_and_spaces"]
# Templates with a tokenizer for which it makes no difference that LLaMA-Factory encodes a text in parts, and
# which it leaves as it is (of Phi-3's <|end|> it forgets that the white space behind it belongs to it).
TOKENIZERS = [("gemma", "gemma"), ("gemma2", "gemma"), ("mistral", "mistral")]
TWO_CALLS = [
    {"role": "user", "content": "Tides, please."},
    {"role": "assistant", "content": "", "tool_calls": [TIDE_CALL, TIDE_CALL]},
    {"role": "tool", "content": "2.5"},
    {"role": "assistant", "content": "Both 2.5."},
]
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
    rich_tool = json.loads(json.dumps(TIDE_TOOL))
    rich_tool["function"]["parameters"]["properties"] |= {
        "unit": {"type": "string", "enum": ["m", "ft"]},
        "days": {"type": "array", "description": "days", "items": {"type": "string"}},
    }
    plan = [(name, CASES, True, WITH_TOOLS, [TIDE_TOOL], {}) for name in NAMES]
    plan += [(name, [], False, TOOLS_OF_MORE, [rich_tool, TIDE_TOOL["function"]], {}) for name in ("llama3", "mistral")]
    plan += [(name, FEW, True, MORE, [rich_tool, TIDE_TOOL["function"]], {}) for name in MORE]
    for variables in ({"enable_thinking": False}, {"preserve_thinking": False}):
        plan += [(name, ["multi_turn"], True, THINKERS, [TIDE_TOOL], variables) for name in THINKERS]
    for name, chosen, thinks, with_tools, known, variables in plan:
        template = TEMPLATES[name]
        template.enable_thinking = variables.get("enable_thinking", True)
        cases = [(case, CONVERSATIONS[case], None) for case in chosen]
        cases += [("thinking", THINKING, None)] if thinks else []
        if name in with_tools:
            cases += [(case, TOOL_CONVERSATIONS[case], known) for case in ("tools_unused", "tool_call")]
            # GLM-4 has one call at a time.
            cases += [("two_calls", TWO_CALLS, known)] if name not in ("glm4", "glmz1") else []
        for case, messages, tools in cases:
            system, turns = converted(messages)
            text = json.dumps(tools, ensure_ascii=False) if tools else None
            # As SupervisedDatasetProcessor does where only the last answer is trained.
            drops = {} if variables.get("preserve_thinking", True) else {"discarding_history_cot": True}
            pairs = template.encode_multiturn(tokenizer, turns, system, text, **drops)
            pairs = [[tokenizer.text(part) for part in pair] for pair in pairs]
            if drops:
                prompt, answer = template.encode_oneturn(tokenizer, turns, system, text)
                assert "".join(map("".join, pairs)) == tokenizer.text(prompt + answer), "trained as it answers"
            if template.efficient_eos:
                # The end of text that SupervisedDatasetProcessor adds. Where it teaches the end of an earlier answer,
                # it does so in the place of the next turn's first token, which stays as it is.
                pairs[-1][1] += "</s>"
            case = {"template": name, "name": case, "messages": messages, "tools": tools, "pairs": pairs}
            golden.append(case | variables)
    write("named_templates.json", golden)
    write("named_ids.json", encoded())


def encoded() -> list[dict]:
    """Token ids and labels of LLaMA-Factory's processor."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import TEMPLATES
    from transformers import PreTrainedTokenizerFast

    arguments = types.SimpleNamespace(mask_history=False, train_on_prompt=False, cutoff_len=1 << 20)
    golden = []
    for name, shape in TOKENIZERS:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(GOLDEN / "tokenizers" / shape)
        size = len(tokenizer)
        TEMPLATES[name].fix_special_tokens(tokenizer)
        assert len(tokenizer) == size, "no token is new"
        processor = SupervisedDatasetProcessor(TEMPLATES[name], tokenizer, None, arguments)
        for case in CASES:
            messages = CONVERSATIONS[case]
            system, turns = converted(messages)
            ids, labels = processor._encode_data_example(turns[:-1], turns[-1:], system, None, [], [], [])
            case = {"template": name, "tokenizer": shape, "name": case, "messages": messages}
            golden.append(case | {"ids": ids, "labels": labels})
    return golden


def write(name: str, cases: list[dict]) -> None:
    """One case a line."""
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (GOLDEN / name).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(name, len(cases))


if __name__ == "__main__":
    main()
