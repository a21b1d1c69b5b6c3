#!/usr/bin/env python3
"""Prove the server of `chat` by OpenAI's own client, and its answers by transformers.

    scripts/proofs-serve.py target/release/chat MODEL

`chat MODEL --serve` is asked by the package `openai`. A line says of each:

answers     greedy answers to three conversations are those of transformers, token by token: whole, and as a stream
texts       so is the continuation of a text
logprobs    the log-probabilities of an answer's tokens are those of transformers, within 0.002
choices     a seed repeats several sampled answers; a text that is asked for ends an answer
errors      the client raises its own exceptions for a wrong field, an unknown model, a wrong key and a full server

Exits with 1 when a proof fails. Needs openai, torch and transformers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

try:
    import openai
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as missing:
    sys.exit(f"{missing}: pip install openai torch transformers")

KEY = "the key of this proof"
TOKENS = 24
QUESTIONS = ["What is the capital of France?", "Write a haiku about rain.", "Count from one to ten."]
TEXT = "Once upon a time, in a village by the sea,"


class Reference:
    """The model in transformers, in f32."""

    def __init__(self, directory: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def prompt(self, question: str) -> torch.Tensor:
        messages = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids

    @torch.no_grad()
    def answer(self, prompt: torch.Tensor) -> torch.Tensor:
        answer = self.model.generate(prompt, max_new_tokens=TOKENS, do_sample=False)
        return answer[0, prompt.shape[1] :]

    def text(self, tokens: torch.Tensor) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    @torch.no_grad()
    def logprobs(self, prompt: torch.Tensor, answer: torch.Tensor) -> list[float]:
        logits = self.model(torch.cat([prompt[0], answer])[None]).logits[0, prompt.shape[1] - 1 : -1]
        return torch.log_softmax(logits.double(), -1).gather(1, answer[:, None])[:, 0].tolist()


def answers(client: openai.OpenAI, model: str, reference: Reference) -> None:
    for question in QUESTIONS:
        expected = reference.text(reference.answer(reference.prompt(question)))
        wanted = {"model": model, "max_tokens": TOKENS, "temperature": 0}
        messages = [{"role": "user", "content": question}]
        whole = client.chat.completions.create(messages=messages, **wanted)
        assert whole.choices[0].message.content == expected, (whole, expected)
        assert whole.usage.prompt_tokens == reference.prompt(question).shape[1], whole.usage
        stream = client.chat.completions.create(messages=messages, stream=True, **wanted)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(pieces) == expected and len(pieces) > 5, (pieces, expected)


def texts(client: openai.OpenAI, model: str, reference: Reference) -> None:
    prompt = reference.tokenizer(TEXT, return_tensors="pt").input_ids
    expected = reference.text(reference.answer(prompt))
    for given in (TEXT, prompt[0].tolist()):
        answer = client.completions.create(model=model, prompt=given, max_tokens=TOKENS, temperature=0)
        assert answer.choices[0].text == expected, (answer, expected)


def logprobs(client: openai.OpenAI, model: str, reference: Reference) -> None:
    prompt = reference.prompt(QUESTIONS[0])
    answer = reference.answer(prompt)
    answer = answer[answer != reference.tokenizer.eos_token_id]
    expected = reference.logprobs(prompt, answer)
    found = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTIONS[0]}],
        max_tokens=TOKENS,
        temperature=0,
        logprobs=True,
        top_logprobs=2,
    )
    found = [token.logprob for token in found.choices[0].logprobs.content]
    assert len(found) == len(expected), (found, expected)
    assert all(abs(a - b) < 0.002 for a, b in zip(found, expected)), (found, expected)


def choices(client: openai.OpenAI, model: str, _: Reference) -> None:
    def texts(**more) -> list[str]:
        messages = [{"role": "user", "content": QUESTIONS[1]}]
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=TOKENS, **more)
        return [choice.message.content for choice in answer.choices]

    first = texts(n=3, temperature=1, seed=7)
    assert first == texts(n=3, temperature=1, seed=7) and len(set(first)) > 1, first
    whole = texts(temperature=0)[0]
    stop = whole[5:8]
    assert texts(temperature=0, stop=[stop])[0] == whole[: whole.index(stop)], (whole, stop)


def errors(client: openai.OpenAI, model: str, _: Reference) -> None:
    messages = [{"role": "user", "content": "Hi"}]

    def raises(kind: type[Exception], client: openai.OpenAI = client, **fields) -> None:
        try:
            client.chat.completions.create(**{"model": model, "messages": messages, **fields})
        except kind:
            return
        raise AssertionError(f"{kind.__name__} expected for {fields}")

    raises(openai.BadRequestError, temperature=-1)
    raises(openai.NotFoundError, model="gpt-4o")
    raises(openai.AuthenticationError, client=client.with_options(api_key="another"))
    # The server writes two answers at a time and lets two wait.
    with client.chat.completions.create(model=model, messages=messages, n=4, stream=True, max_tokens=4000):
        raises(openai.RateLimitError, client=client.with_options(max_retries=0))


def main(chat: str, directory: str) -> int:
    command = [chat, directory, "--serve", "127.0.0.1:0", "--device", "cpu"]
    command += ["--max-sessions", "2", "--max-waiting", "2"]
    server = subprocess.Popen(
        command, env={**os.environ, "QLORA_API_KEY": KEY}, stdout=subprocess.PIPE, text=True
    )
    failed = 0
    try:
        address = server.stdout.readline().strip()
        if not address:
            return 1  # The server has said why.
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY)
        model = client.models.list().data[0].id
        assert model == Path(directory).resolve().name, model
        reference = Reference(directory)
        for proof in (answers, texts, logprobs, choices, errors):
            try:
                proof(client, model, reference)
                print(f"{proof.__name__:<12}ok")
            except AssertionError as problem:
                failed = 1
                print(f"{proof.__name__:<12}FAILED: {problem}")
    finally:
        server.terminate()
        server.wait()
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
