#!/usr/bin/env python3
"""Speed of a server of `chat` with one client and with many: one JSON object.

    scripts/bench-serve.py http://127.0.0.1:8000 [CLIENTS [PROMPT [ANSWER]]]

CLIENTS (32) ask at the same time, each with a prompt of PROMPT (500) random tokens of its own, for ANSWER (200) tokens,
the likeliest ones. Needs Python alone.

first_token_seconds     from a request of one client to its first token, in the median of five
tokens_per_second       tokens of all answers in the time from the first request to the last answer
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from urllib.parse import urlsplit


async def post(host: str, port: int, path: str, fields: dict) -> dict:
    """Sends a request on a connection of its own, and returns the answer."""
    body = json.dumps(fields).encode()
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    status, _, rest = answer.partition(b"\r\n")
    if status.split()[1] != b"200":
        sys.exit(f"{status.decode()}: {rest.decode()}")
    return json.loads(rest.partition(b"\r\n\r\n")[2])


async def main(address: str, clients: int, prompt: int, answer: int) -> None:
    host, port = urlsplit(address).hostname, urlsplit(address).port
    draw = random.Random(1)

    async def ask(tokens: int) -> int:
        given = [draw.randrange(1000, 40000) for _ in range(prompt)]
        fields = {"prompt": given, "max_tokens": tokens, "temperature": 0}
        return (await post(host, port, "/v1/completions", fields))["usage"]["completion_tokens"]

    await ask(8)  # Kernels are compiled when they are first used.
    await asyncio.gather(*[ask(8) for _ in range(clients)])
    first = []
    for _ in range(5):
        begun = time.perf_counter()
        await ask(1)
        first.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    tokens = sum(await asyncio.gather(*[ask(answer) for _ in range(clients)]))
    seconds = time.perf_counter() - begun
    print(
        json.dumps(
            {
                "clients": clients,
                "prompt_tokens": prompt,
                "answer_tokens": tokens,
                "seconds": seconds,
                "first_token_seconds": statistics.median(first),
                "tokens_per_second": tokens / seconds,
            }
        )
    )


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    numbers = [int(number) for number in sys.argv[2:]]
    asyncio.run(main(sys.argv[1], *[*numbers, *[32, 500, 200][len(numbers) :]]))
