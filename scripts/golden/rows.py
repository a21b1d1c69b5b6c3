"""Golden parquet files of examples, as pyarrow writes them and the hub keeps them.

Proves: lora-train reads texts, missing values, and lists of objects from parquet, compressed with
snappy and with zstd; evaluate reads questions with the columns of the hub's MMLU.

Run:     python scripts/golden/rows.py          (pyarrow 26)
Writes:  tests/golden/rows/{alpaca,messages,questions}.parquet
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

OUT = Path(__file__).parents[2] / "tests/golden/rows"
ALPACA = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Greet in 中文.", "input": None, "output": "你好 🙂"},
    {"instruction": "Without an answer.", "input": "", "output": None},
]
MESSAGES = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}], "score": i / 2}
    for i in range(3)
]

QUESTIONS = [
    {"question": question, "subject": subject, "choices": ["1", "2, 3", "", "4"], "answer": answer}
    for question, subject, answer in [('Q1, "x"\ny', "astronomy", 0), ("Q2", "astronomy", 3), ("Q3", "virology", 1)]
]


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(ALPACA), OUT / "alpaca.parquet", compression="snappy")
    pq.write_table(pa.Table.from_pylist(MESSAGES), OUT / "messages.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(QUESTIONS), OUT / "questions.parquet", compression="snappy")


if __name__ == "__main__":
    main()
