#!/usr/bin/env bash
# Correctness and speed of the operator and the training step on a machine with a GPU; Ray is not needed. About eight
# minutes:
#
#     bash benchmarks/gpu.sh [FOLDER]        results as text and JSON in FOLDER, by default ./outputs/gpu
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-outputs/gpu}
python=${PYTHON:-python}
mkdir -p "$folder"

run() {  # a name for the files, seconds it may take, and the command
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    timeout "$limit" "$@" 2>&1 | tee "$folder/$name.txt" || echo "== $name ended with an error" | tee -a "$folder/$name.txt"
}

run correctness 120 "$python" -m pytest -q -p no:cacheprovider -m gpu tests/model tests/training
run outlook 110 "$python" -m benchmarks.outlook_gpu --dtype bf16 --rounds 7 --json "$folder/outlook.json"
run train_step 60 "$python" -m benchmarks.train_step --batch-size 1024 --rounds 7 --json "$folder/train_step.json"
run train_step_compiled 130 "$python" -m benchmarks.train_step --compile --batch-size 1024 --rounds 7 \
    --json "$folder/train_step_compiled.json"
run memory 30 "$python" -m benchmarks.memory --dtype bf16 --json "$folder/memory.json"
run small 80 "$python" -m jobs.train --recipe small --dataset shapes --batch-size 1024 --compile --num-workers 0 \
    --max-steps 300 --output-dir "$folder" --run-name small --fresh
