"""Golden files of examples, as pyarrow writes them and the hub keeps them.

Proves: lora-train reads texts, missing values, and lists of objects from parquet, however its pages
are encoded and packed, and no column that it does not use; that a few bytes of parquet cannot fill
its memory; and that it reads packed JSON lines. evaluate reads questions with the columns of the
hub's MMLU.

Run:     python scripts/golden/rows.py          (pyarrow 26, zstandard from pyarrow)
Writes:  tests/golden/rows/*
"""

from __future__ import annotations

import decimal
import gzip
import json
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

PLAIN = [{"instruction": f"q{i}", "input": None, "output": f"a{i}"} for i in range(3)]
UNUSED = [{**row, "image": {"bytes": b"\x89PNG\xff"}, "price": decimal.Decimal("1.50")} for row in PLAIN]
# Arrow gives each object of a column the keys of all.
PADDED = [
    {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {key: value}}}]},
            {"role": "tool", "content": "t"},
            {"role": "assistant", "content": "a"},
        ],
        "tools": [{"name": "f", "parameters": {"properties": {key: {"type": "string"}}}}],
    }
    for key, value in [("city", "Saltmere"), ("depth", "2.5")]
]


def write_codecs() -> None:
    for codec in ["none", "gzip", "brotli", "lz4"]:
        pq.write_table(pa.Table.from_pylist(PLAIN), OUT / f"codec_{codec}.parquet", compression=codec)
    encodings = {"instruction": "DELTA_BYTE_ARRAY", "output": "DELTA_LENGTH_BYTE_ARRAY"}
    delta = {"use_dictionary": False, "column_encoding": encodings, "data_page_version": "2.0"}
    pq.write_table(pa.Table.from_pylist(PLAIN), OUT / "delta.parquet", compression="zstd", **delta)


def write_bombs() -> None:
    """Files that claim, or truly unpack to, what no memory holds."""
    large = pa.table({"instruction": ["q", "q"], "output": ["a" * (300 << 20)] * 2})
    pq.write_table(large, OUT / "bomb_page.parquet", compression="brotli", use_dictionary=False, write_statistics=False)
    nulls = pa.ListArray.from_arrays([0, 30_000_000], pa.nulls(30_000_000, pa.string()))
    pq.write_table(pa.table({"messages": nulls}), OUT / "bomb_elements.parquet", compression="zstd")
    one = pa.array(["b" * (1 << 20)])
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 900_000, pa.int32()), one)
    row = pa.table({"messages": pa.ListArray.from_arrays([0, 900_000], same)})
    pq.write_table(row, OUT / "bomb_row.parquet", compression="zstd", write_statistics=False)
    rows = pa.table({"instruction": pa.array([None] * 900_000, pa.string()), "output": same})
    pq.write_table(rows, OUT / "bomb_rows.parquet", compression="zstd", write_statistics=False)


def write_packed() -> None:
    lines = "".join(json.dumps(row) + "\n" for row in PLAIN).encode()
    (OUT / "rows.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    with pa.CompressedOutputStream(str(OUT / "rows.jsonl.zst"), "zstd") as packed:
        packed.write(lines)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(ALPACA), OUT / "alpaca.parquet", compression="snappy")
    pq.write_table(pa.Table.from_pylist(MESSAGES), OUT / "messages.parquet", compression="zstd")
    pq.write_table(pa.Table.from_pylist(QUESTIONS), OUT / "questions.parquet", compression="snappy")
    pq.write_table(pa.Table.from_pylist(UNUSED), OUT / "unused.parquet")
    pq.write_table(pa.Table.from_pylist(PADDED), OUT / "padded.parquet")
    write_codecs()
    write_bombs()
    write_packed()


if __name__ == "__main__":
    main()
