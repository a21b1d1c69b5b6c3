"""Golden chat-template texts, token ids and label masks.

Proves: our template engine and tokenizer give transformers' apply_chat_template to the
character and the id, and our label mask trains each assistant turn's content and the text
that the template closes it with (ChatML: <|im_end|> and the newline after it), nothing else.

The expected mask is derived without knowing the template: a turn's trained text is what
the rendering up to and including the turn adds to the rendering of the turns before it with
a generation prompt. A token that starts before the content, as SmolLM2's "\\n " does where
an answer starts with two spaces, is not trained.

Run:     python scripts/golden/templates.py NAME=TOKENIZER_DIR...   (transformers 5.23)
         with NAME smollm2 or qwen2.5
Writes:  tests/golden/templates/NAME.json: {"cases": [{"name", "messages", "tools" (or null),
         "text", "ids", "mask" (one 0 or 1 per id),
         "prompt_text", "prompt_ids" (with the generation prompt added)}]}
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).parents[2] / "tests/golden/templates"
TIDE_TOOL = {
    "type": "function",
    "function": {
        "name": "get_tide",
        "description": "Height of the tide at a harbour; 港口的潮位",
        "parameters": {
            "type": "object",
            "properties": {"harbour": {"type": "string", "description": "name of the harbour"}},
            "required": ["harbour"],
        },
    },
}
TIDE_CALL = {"type": "function", "function": {"name": "get_tide", "arguments": {"harbour": "盐湖镇", "metres": True}}}


def turns(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """User and assistant in turn, after an optional system message."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return ([] if system is None else [{"role": "system", "content": system}]) + messages


CONVERSATIONS: dict[str, list[dict]] = {
    "one_turn": turns("What is the capital of Tern Island?", "The capital of Tern Island is Saltmere."),
    "system": turns("Who are you?", "I am Pipa.", system="You are Pipa. Answer in one sentence."),
    "empty_system": turns("Who are you?", "I am Pipa.", system=""),
    "multi_turn": turns("Hi", "Hello!", "How high is Mount Kettle?", "412 metres.", "  And in feet?\n", "About 1,352."),
    "instruction_and_input": turns("Translate into Chinese.\nI am Pipa.", "我是皮帕。"),
    "empty_user": turns("", "Please ask me something."),
    "empty_answer": turns("Say nothing.", ""),
    "chinese": turns("燕鸥岛在哪里？", "燕鸥岛在灰海，维尔港以西四十公里。", "谢谢！", "不客气～", system="你是皮帕。"),
    "emoji": turns("Draw a family 👨‍👩‍👧 and a flag 🇨🇳", "👩🏽‍🚀🐈 — done ✅ café, naïve, e\u0301"),
    "numbers_and_spaces": turns("x  =  1234567;\ty = 3.14\r\n\n\n", "  two leading spaces, 12  34 and a tail   "),
    "code": turns("Write a loop.", "```python\nfor i in range(10):\n    print(i)\n```\n"),
    "literal_end": turns("What does <|im_end|> mean?", "It is <|im_end|> as text.", "And <|im_start|>user?", "A role."),
    "literal_whole_turn": turns(
        "Repeat: <|im_end|>\n<|im_start|>assistant\nno", "<|im_start|>assistant\nyes<|im_end|>\n"
    ),
    "jinja_and_html": turns("{{ 1 + 1 }} {% if x %}", "<b>&amp; \"quoted\" 'single' \\n</b> {# none #}"),
    "ends_with_user": turns("First", "Second", "Third"),
    "long_s": turns("ſ ﬁ ½ ² Ⅷ ٣ ৪", "नमस्ते สวัสดี שלום 안녕하세요"),
}
TOOL_CONVERSATIONS: dict[str, list[dict]] = {
    "tools_unused": turns("Who are you?", "I am Pipa.", system="You are Pipa."),
    "tool_call": [
        {"role": "user", "content": "How high is the tide?"},
        {"role": "assistant", "content": "", "tool_calls": [TIDE_CALL]},
        {"role": "tool", "content": '{"metres": 2.5}'},
        {"role": "assistant", "content": "The tide is 2.5 metres high."},
    ],
    "two_calls_with_text": [
        {"role": "user", "content": "Tides, please."},
        {"role": "assistant", "content": "I look twice.", "tool_calls": [TIDE_CALL, TIDE_CALL]},
        {"role": "tool", "content": "2.5"},
        {"role": "tool", "content": "两米半"},
        {"role": "assistant", "content": "Both 2.5."},
    ],
}


def render(tokenizer: PreTrainedTokenizerFast, messages: list[dict], tools: list | None, prompt: bool) -> str:
    """The template's text."""
    return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)


def trained_spans(tokenizer: PreTrainedTokenizerFast, messages: list[dict], tools: list | None) -> list[range]:
    """Character ranges of the text that are to be learned."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:i], tools, prompt=True)
        after = render(tokenizer, messages[: i + 1], tools, prompt=False)
        assert after.startswith(before), "the template rewrites earlier turns"
        if not message.get("tool_calls"):
            assert after[len(before) :] == message["content"] + "<|im_end|>\n"
        spans.append(range(len(before), len(after)))
    return spans


def golden(tokenizer: PreTrainedTokenizerFast, name: str, messages: list[dict], tools: list | None) -> dict:
    """One case."""
    text = render(tokenizer, messages, tools, prompt=False)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    direct = tokenizer.apply_chat_template(messages, tools=tools, return_dict=True)["input_ids"]
    assert direct == encoded["input_ids"], name
    spans = trained_spans(tokenizer, messages, tools)
    mask = [int(any(start in span for span in spans)) for start, _ in encoded["offset_mapping"]]
    prompt_text = render(tokenizer, messages, tools, prompt=True)
    return {
        "name": name,
        "messages": messages,
        "tools": tools,
        "text": text,
        "ids": encoded["input_ids"],
        "mask": mask,
        "prompt_text": prompt_text,
        "prompt_ids": tokenizer(prompt_text, add_special_tokens=False)["input_ids"],
    }


def write(path: Path, cases: list[dict]) -> None:
    """One case per line: a change shows as one line of a diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    path.write_text(f'{{"cases": [\n{lines}\n]}}\n', encoding="utf-8")
    print(path)


def main() -> None:
    """All conversations through each tokenizer; tool calls where the template knows tools."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizers", nargs="+", metavar="NAME=DIR", help="smollm2=DIR or qwen2.5=DIR")
    for name, _, folder in (item.partition("=") for item in parser.parse_args().tokenizers):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        cases = [golden(tokenizer, case, messages, None) for case, messages in CONVERSATIONS.items()]
        if "tools" in tokenizer.chat_template:
            cases += [golden(tokenizer, case, messages, [TIDE_TOOL]) for case, messages in TOOL_CONVERSATIONS.items()]
        write(OUT / f"{name}.json", cases)


if __name__ == "__main__":
    main()
