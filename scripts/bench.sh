#!/usr/bin/env bash
# Speed and memory of the tools on this machine, then of the Python peers where they are installed (in
# the python3 on the PATH, or in PEERS_PYTHON). DATA names another file of alpaca rows to train on, MMLU and
# SUBJECT other questions to answer (MMLU=mmlu.zip SUBJECT=abstract_algebra).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/target/release:$PATH
model=$PWD/demo/model/SmolLM2-135M-Instruct
data=${DATA:-$PWD/scripts/demo/instructions.json}
questions=$PWD/scripts/demo/mmlu
asked=${MMLU:-$questions}
subject=${SUBJECT:-everyday_science}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

end() { grep -o 'done in .*' "$1"; }

cargo run --release --quiet -p common --example nf4_speed
python3 scripts/bench-weights.py "$model"
quantize "$model" -o "$place/nf4" -q >/dev/null
lora-train "$place/nf4" --data "$data" --max-steps 4 --logging-steps 1 --cutoff-len 1024 \
    --per-device-train-batch-size 1 --gradient-accumulation-steps 16 -o "$place/adapter" -v \
    2>"$place/log" >/dev/null
grep -o 'step .* tokens/s' "$place/log"
echo "lora-train SmolLM2, batch 1 x 16: $(end "$place/log")"
evaluate "$place/nf4" --data "$questions" -o "$place/report.json" -v 2>"$place/log" >/dev/null
echo "evaluate 80 questions, shared prefixes: $(end "$place/log")"
evaluate "$place/nf4" --data "$questions" -o "$place/whole.json" --no-prefix-cache -v 2>"$place/log" >/dev/null
echo "evaluate 80 questions, whole prompts: $(end "$place/log")"
evaluate "$model" --data "$asked" --subjects "$subject" -o "$place/subject.json" -v 2>"$place/log" >/dev/null
echo "evaluate the questions on $subject in f32 of a bf16 model: $(end "$place/log")"
"${PEERS_PYTHON:-python3}" scripts/bench-peers.py "$model" --data "$data" --questions "$asked" --subject "$subject"
bash scripts/bench-fetch.sh
