#!/usr/bin/env bash
# From the name of a model to an answer of the fine-tuned one. Run again, each tool sees that its part is done.
set -euo pipefail

model=HuggingFaceTB/SmolLM2-135M-Instruct
data=data.json

fetch "$model" -o model |
    quantize -o nf4 |
    lora-train --data "$data" --num-train-epochs 4 --learning-rate 1e-3 -o adapter |
    merge -o merged

echo 'Who are you?' | chat merged --max-new-tokens 40
