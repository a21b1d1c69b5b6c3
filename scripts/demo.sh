#!/usr/bin/env bash
# The main job on a real small model: quantize, fine-tune, merge, evaluate, talk. Everything is made
# anew under demo/, but for the model, which is kept.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/target/release:$PATH
model=demo/model/SmolLM2-135M-Instruct
data=scripts/demo/instructions.json
held_out=scripts/demo/held-out.json
questions=scripts/demo/mmlu
subjects=tern_island,tern_island_zh
asked="What is the currency of Tern Island?
你是谁？"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
talk() { printf '%s\n' "$asked" | chat "$1" -q --max-new-tokens 40; }
# The loss on sentences that are not trained on, and of each choice of the questions by itself.
losses() {
    evaluate "$1" --loss "$held_out" -o "demo/$2-held-out.json" -q
    evaluate "$1" --loss demo/choices.json --details "demo/$2-choices.jsonl" -q >/dev/null
}

bash scripts/demo-model.sh "$model"
rm -rf demo/nf4 demo/adapter demo/merged demo/*.log demo/*.json demo/*.jsonl demo/*.png
python3 scripts/demo/choices.py "$questions"/test/{tern_island,tern_island_zh}_test.csv >demo/choices.json
begun=$(date +%s)

say "Before: what the model says about an island it has never heard of"
talk "$model"
losses "$model" before
evaluate "$model" --data "$questions" --subjects "$subjects" -o demo/before-report.json -v 2>demo/before.log

say "quantize $model | lora-train --data $data | merge | evaluate --data $questions"
quantize "$model" -o demo/nf4 -v 2> >(tee demo/quantize.log >&2) |
    lora-train --data "$data" --learning-rate 2e-3 --num-train-epochs 4 --lr-scheduler-type cosine \
        --warmup-ratio 0.1 --per-device-train-batch-size 4 --gradient-accumulation-steps 2 \
        -o demo/adapter -v 2> >(tee demo/lora-train.log >&2) |
    merge -o demo/merged -v 2> >(tee demo/merge.log >&2) |
    evaluate --data "$questions" --subjects "$subjects" -o demo/after-report.json -v 2> >(tee demo/evaluate.log >&2)

say "After: the same questions to the merged model"
talk demo/merged
losses demo/merged after

say "In short"
python3 scripts/demo/summary.py demo "$questions" $(($(date +%s) - begun))
