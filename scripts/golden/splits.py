"""Golden splits of data sets.

Proves: the files of a split are those that the datasets library reads, where a README names them and where
the names of folders and files do.

Run:     python scripts/golden/splits.py      (datasets 5.2)
Writes:  tests/golden/splits.json: [{files, readme, subset, folder, splits: [[name, files]] or error}]

A file that the library finds twice, because two of its patterns match it, is named once.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
from datasets import load_dataset_builder  # noqa: E402

OUT = Path(__file__).parents[2] / "tests/golden/splits.json"


def readme(configs):
    return f"---\nlicense: mit\nconfigs:\n{configs}---\n\n# A data set\n"


TWO = """- config_name: en
  data_files:
  - split: train
    path: en/train*.jsonl
  - split: test
    path: [en/test.jsonl, en/more/*.jsonl]
- config_name: de
  data_files: de/*.jsonl
"""
FILES = ["en/train-a.jsonl", "en/train-b.jsonl", "en/test.jsonl", "en/more/x.jsonl", "de/b.jsonl", "de/a.jsonl"]
ULTRA = """- config_name: default
  data_files:
  - {split: train_sft, path: data/train_sft-*}
  - {split: test_sft, path: data/test_sft-*}
"""
SHARDS = ["data/train_sft-00000-of-00002.parquet", "data/train_sft-00001-of-00002.parquet",
          "data/test_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"]

# Files, README, subset, folder.
CASES = [
    (SHARDS, readme(ULTRA), None, None),
    (SHARDS, None, None, None),
    (SHARDS, readme(ULTRA), "default", None),
    (SHARDS, readme(ULTRA), "other", None),
    (FILES, readme(TWO), "en", None),
    (FILES, readme(TWO), "de", None),
    (FILES, readme(TWO), None, None),
    (FILES, readme(TWO), "fr", None),
    (FILES, readme(TWO), None, "en"),
    (FILES, readme(TWO), "de", "en"),
    (FILES, readme(TWO.replace("- config_name: de", "- config_name: de\n  default: true")), None, None),
    (FILES, readme("- config_name: only\n  data_dir: en\n"), None, None),
    (FILES, readme("- config_name: only\n  data_files: ['de/a.jsonl', 'en/**']\n"), None, None),
    (FILES, readme("- config_name: only\n  data_files: '**/[tx]*.jsonl'\n"), None, None),
    (FILES, readme("- config_name: only\n  data_files: 'en/{train}*'\n"), None, None),
    (FILES, "# No dashes\nconfigs:\n- config_name: x\n", None, None),
    (FILES, "---\nlicense: mit\n---\n", None, None),
    (["train.json", "test.json", "rows.json"], None, None, None),
    (["a.json", "b.json", "sub/c.json"], None, None, None),
    (["training.csv", "dev.csv", "evaluation.csv"], None, None, None),
    (["my-train-file.csv", "my_val.csv", "contest.csv", "mytest.csv"], None, None, None),
    (["train.v1.json", "Train.json", "valid_2.json"], None, None, None),
    (["train/a.json", "train/b/c.json", "valid/a.json"], None, None, None),
    (["en-train/a.json", "x/test 1/b.json", "latest/c.json", "other.json"], None, None, None),
    (["data/train/a.json", "data/test.json"], None, None, None),
    (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002-abcdef.parquet",
      "data/validation-00000-of-00001.parquet", "data/extra.parquet", "other/test.parquet"], None, None, None),
    (["data/zeta-00000-of-00001.parquet", "data/test-00000-of-00001.parquet",
      "data/alpha.b-00000-of-00001.parquet"], None, None, None),
    (["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], None, None, None),
    (["sub/train-00000-of-00001.parquet", "sub/data/train-00000-of-00001.parquet"], None, None, "sub"),
    (["rows.json", "rows.jsonl", "rows.csv"], None, None, None),
    (["a.parquet", "b.jsonl"], None, None, None),
    (["a.parquet", "b.jsonl", "c.jsonl"], None, None, None),
    (["a.jsonl", "b.json", "c.csv"], None, None, None),
    (["a.ndjson", "b.json", "c.ndjson"], None, None, None),
    (["train.jsonl.gz", "test.jsonl.gz"], None, None, None),
    (["train.json", ".hidden.json", ".git/train.json", "__pycache__/train.json"], None, None, None),
    (["config.json", "dataset_info.json", "dataset_dict.json", "rows.json"], None, None, None),
    ([], None, None, None),
    (["train.json"], None, "sub", None),
    (["train.json"], None, None, "sub"),
]

NAMES = ["train", "test", "dev", "val", "eval", "data", "rows", "en", "mytrain", "test_gen", "a", "training"]
ENDS = ["", "-1", "_b", ".v2", " 3", "-00000-of-00001", "x"]


def tree(seed):
    chance = random.Random(seed)
    kind = chance.choice(["json", "jsonl", "csv", "parquet"])

    def name():
        return chance.choice(["", "", "my-", "x_"]) + chance.choice(NAMES) + chance.choice(ENDS)

    folders = ["", "data/", *(name() + "/" for _ in range(2))]
    folders.append(folders[2] + name() + "/")
    files = {chance.choice(folders) + name() + "." + kind for _ in range(chance.randrange(1, 8))}
    return sorted(files), None, None, None


def found(files, card, subset, folder):
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as cache:
        root = os.path.realpath(root)
        for file in files:
            path = Path(root, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"a": "b"}\n')
        if card is not None:
            Path(root, "README.md").write_text(card)
        try:
            builder = load_dataset_builder(root, name=subset, data_dir=folder, cache_dir=cache)
        except Exception as error:
            return {"error": type(error).__name__}
        splits = builder.config.data_files.items()
        return {"splits": [[str(split), list(dict.fromkeys(os.path.relpath(file, root) for file in names))]
                           for split, names in splits]}


def main() -> None:
    cases = CASES + [tree(seed) for seed in range(60)]
    golden = [
        {"files": files, "readme": card, "subset": subset, "folder": folder, **found(files, card, subset, folder)}
        for files, card, subset, folder in cases
    ]
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in golden) + "\n]\n")


if __name__ == "__main__":
    main()
