#!/usr/bin/env python3
"""`evaluate --style lm-eval` beside lm-evaluation-harness, on the same questions of a local MMLU.

The harness runs its own task definitions (prompts, shots, groups); only where the rows come from is
replaced, so that nothing is downloaded. Both score the first --limit questions of every subject in
f32, and every accuracy has to be the same.

Run:   pip install lm-eval torch transformers
       python3 scripts/proofs-mmlu.py MODEL_DIR MMLU_ZIP --limit 5 --subjects astronomy,virology
       A question takes the harness a second or two; --harness FILE keeps what it found, subject by
       subject, and the same command goes on from there.
Ends:  0 where all accuracies are equal, 1 where one is not, named.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rows(data: zipfile.ZipFile, subject: str, split: str) -> list[dict[str, object]]:
    """The rows of a Hendrycks CSV as the hub's data set has them."""
    text = data.read(f"data/{split}/{subject}_{split}.csv").decode("utf-8")
    table = csv.reader(io.StringIO(text, newline=""))
    return [{"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])} for row in table]


def subjects(data: zipfile.ZipFile) -> list[str]:
    """All subjects of the archive, in order."""
    names = [Path(name).name for name in data.namelist()]
    return sorted(name.removesuffix("_test.csv") for name in names if name.endswith("_test.csv"))


def write_tasks(folder: Path, data: zipfile.ZipFile, wanted: list[str]) -> list[str]:
    """The harness's own tasks, reading local rows; returns their names."""
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent / "mmlu/default"
    for subject in wanted:
        files = {}
        for split in ("dev", "test"):
            files[split] = str(folder / f"{subject}_{split}.jsonl")
            lines = [json.dumps(row) + "\n" for row in rows(data, subject, split)]
            Path(files[split]).write_text("".join(lines), encoding="utf-8")
        task = {
            "include": str(own / f"mmlu_{subject}.yaml"), "task": f"local_{subject}", "tag": "local",
            "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files},
        }  # fmt: skip
        # JSON is YAML.
        (folder / f"local_{subject}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return [f"local_{subject}" for subject in wanted]


def harness(model: Path, data: zipfile.ZipFile, wanted: list[str], limit: int, kept: Path | None) -> dict[str, float]:
    """Accuracy of every subject, by lm-evaluation-harness; `kept` holds those found so far."""
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    by_limit = json.loads(kept.read_text(encoding="utf-8")) if kept and kept.exists() else {}
    found = by_limit.setdefault(str(limit), {})
    language_model = HFLM(pretrained=str(model), dtype="float32", batch_size=1, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        tasks = write_tasks(Path(name), data, wanted)
        manager = TaskManager(include_path=name)
        for subject, task in zip(wanted, tasks):
            if subject in found:
                continue
            results = simple_evaluate(
                model=language_model, tasks=[task], num_fewshot=5, limit=limit, bootstrap_iters=0, task_manager=manager
            )["results"]
            found[subject] = results[task]["acc,none"]
            if kept:
                kept.write_text(json.dumps(by_limit, indent=2) + "\n", encoding="utf-8")
    return {subject: found[subject] for subject in wanted}


def ours(model: Path, data: Path, wanted: list[str], limit: int) -> dict[str, float]:
    """Accuracy of every subject, by `evaluate`."""
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.json"
        command = [str(ROOT / "target/release/evaluate"), str(model), "--data", str(data), "--device", "cpu"]
        command += ["--subjects", ",".join(wanted), "--limit", str(limit), "-o", str(report)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        results = json.loads(report.read_text(encoding="utf-8"))["results"]
    return {subject: results[f"mmlu_{subject}"]["acc,none"] for subject in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="Hugging Face directory, as scripts/demo-model.py makes it")
    parser.add_argument("data", type=Path, help="MMLU's CSV files as a zip archive")
    parser.add_argument("--subjects", type=lambda names: names.split(","), help="only these, separated by commas")
    parser.add_argument("--limit", type=int, default=10, help="questions of each subject")
    parser.add_argument("--harness", type=Path, help="keep the harness's accuracies here, and use them")
    args = parser.parse_args()
    archive = zipfile.ZipFile(args.data)
    wanted = args.subjects or subjects(archive)
    theirs = harness(args.model, archive, wanted, args.limit, args.harness)
    found = ours(args.model, args.data, wanted, args.limit)
    different = [subject for subject in wanted if abs(found[subject] - theirs[subject]) > 1e-9]
    for subject in different:
        print(f"{subject}: evaluate {found[subject]:.4f}, lm-eval {theirs[subject]:.4f}")
    total = [sum(of.values()) / len(wanted) for of in (found, theirs)]
    print(f"{len(wanted)} subjects, {args.limit} questions each: evaluate {total[0]:.4f}, lm-eval {total[1]:.4f}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
