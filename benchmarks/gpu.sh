#!/usr/bin/env bash
# What a machine with a GPU has to show, the most important first; Ray is not needed. Parts 1 to 4 are meant to take nine
# minutes, which has not been measured yet. What has ended well is not run again, so a second call does what is missing.
#
#     bash benchmarks/gpu.sh [FOLDER]               results as text and JSON in FOLDER, by default ./outputs/gpu
#     bash benchmarks/gpu.sh --dry-run [FOLDER]     every part on a CPU, as short as it can be
#
# Parts 2 and 5 need data/cifar10-jpeg, an image folder of 50,000 and 10,000 images.
set -euo pipefail
cd "$(dirname "$0")/.."
dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
folder=${1:-outputs/gpu${dry:+-dry}}
data=${DATA:-data/cifar10-jpeg}
python=${PYTHON:-python}
failed=0
mkdir -p "$folder"

part() {  # a name for the files, seconds it may take, and the command
    local name=$1 limit=$2
    shift 2
    if [ -e "$folder/$name.done" ]; then echo "== $name is done"; return; fi
    echo "== $name: $*"
    if timeout "$limit" "$@" 2>&1 | tee "$folder/$name.txt"; then
        touch "$folder/$name.done"
    else
        echo "== $name ended with an error" | tee -a "$folder/$name.txt"
        failed=1
    fi
}

either() {  # on a GPU the words before the bar, in a dry run those after it
    local word after=
    for word; do
        if [ "$word" = "|" ]; then after=1; elif [ "$after" = "$dry" ]; then printf '%s\n' "$word"; fi
    done
}
mapfile -t tests < <(either -m gpu "|" -m gpu --collect-only)
mapfile -t short < <(either --rounds 7 "|" --rounds 1 --device cpu)
mapfile -t training < <(either --batch-size 1024 --lr 4e-3 --compile "|" --batch-size 8 --train-images 100 --max-steps 2 --device cpu)
mapfile -t batch < <(either --batch-size 1024 "|" --batch-size 2)
mapfile -t large < <(either --batch-size 128 --precisions bf16 "|" --batch-size 1 --precisions fp32)
mapfile -t compiled < <(either --compile "|")
mapfile -t outlook < <(either --dtype bf16 --rounds 7 --json "$folder/outlook.json" "|" --help)
mapfile -t memory < <(either --dtype bf16 --json "$folder/memory.json" "|" --help)
mapfile -t device < <(either --device cuda "|" --device cpu)

# 1. Kernels and steps of training, against the CPU.
part correctness 120 "$python" -m pytest -q -p no:cacheprovider "${tests[@]}" tests/model tests/training
# 2. 130 passes of the small model: time, images/s, accuracy.
part small 260 "$python" -m jobs.train --recipe small --dataset imagefolder --data-dir "$data" "${training[@]}" \
    --num-workers 0 --output-dir "$folder" --run-name small
part small_test 60 "$python" -m jobs.analyze --checkpoint "$folder/small" --analysis eval --no-show --num-workers 0 \
    --output-dir "$folder/small-analysis"
# 3. A published model's step at 224 pixels.
part volo_d1 90 "$python" -m benchmarks.train_step --model volo_d1 --image-size 224 "${large[@]}" "${short[@]}" \
    --json "$folder/volo_d1.json"
part volo_d1_compiled 180 "$python" -m benchmarks.train_step --model volo_d1 --image-size 224 "${large[@]}" \
    "${short[@]}" "${compiled[@]}" --json "$folder/volo_d1_compiled.json"
# 4. The operator's kernels and memory.
part outlook 110 "$python" -m benchmarks.outlook_gpu "${outlook[@]}"
part memory 30 "$python" -m benchmarks.memory "${memory[@]}"
# 5. Small models' steps, and the pipeline before them.
part train_step 60 "$python" -m benchmarks.train_step "${batch[@]}" "${short[@]}" --json "$folder/train_step.json"
part pipeline 60 "$python" -m benchmarks.pipeline "${batch[@]}" "${device[@]}"
exit $failed
