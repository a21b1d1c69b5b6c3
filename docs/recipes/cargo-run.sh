#!/usr/bin/env bash
# The pipe of pipeline.sh without installing anything: cargo builds each tool when it is first used.
set -euo pipefail

model=HuggingFaceTB/SmolLM2-135M-Instruct
data=data.json

cargo run --release -p fetch -- "$model" -o model
cargo run --release -p quantize -- model -o nf4
cargo run --release -p lora -- nf4 --data "$data" --num-train-epochs 4 --learning-rate 1e-3 -o adapter
cargo run --release -p merge -- adapter -o merged
echo 'Who are you?' | cargo run --release -p chat -- merged --max-new-tokens 40
