#!/usr/bin/env bash
# Speed and memory on an NVIDIA GPU, on random weights of Qwen2.5-7B's shape: one JSON object a line.
#
#   scripts/bench-gpu.sh [CONFIG.json]
#
# The workloads are those that PEFT + bitsandbytes and Unsloth were measured at: 16 examples of 155
# tokens a step, packed; 8 x 1024; 1 x 4096; with all memory, and within 8 and 24 GiB.
set -euo pipefail
cd "$(dirname "$0")/.."

config=${1:-scripts/bench/qwen2.5-7b.json}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --release --workspace --examples --locked --quiet
bin=target/release/examples

"$bin/random-checkpoint" "$config" "$work/model" >&2
for workload in "16x155 0" "16x155 8" "16x155 24" "8x1024 0" "8x1024 8" "1x4096 0" "1x8192 24"; do
    # shellcheck disable=SC2086 # two words
    "$bin/bench-gpu" "$work/model" train $workload && echo
done
"$bin/bench-gpu" "$work/model" score 16x700 && echo
"$bin/bench-gpu" "$work/model" decode 64 && echo
