#!/usr/bin/env bash
# What only a GPU can tell, within six minutes: all chapters on it, the tests that need it, and the benchmark at full size.
#
#   tools/gpu_rehearsal.sh [FOLDER]     FOLDER gets logs and gpu.json; build/gpu when left out
#
# PYTHON names an interpreter that has the package's requirements and a torch with CUDA. A part that fails, or takes too
# long, leaves the others alone; the exit status is that of the worst.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
folder=${1:-build/gpu}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export ELITE_DEVICE=cuda ELITE_BUDGET_FACTOR=0 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2

if ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "A GPU is needed, and the torch of $python finds none." >&2
    exit 2
fi
{ nvidia-smi; "$python" -m pip list; } > "$folder/machine.log" 2>&1

began=$SECONDS
chapter() {  # all at once, each in a process of its own
    timeout -k 5 130 "$python" -m pytest --nbval "$1" -rP -p no:cacheprovider > "$work/$(basename "$1").log" 2>&1
    echo $? > "$work/$(basename "$1").status"
}
for notebook in book/*.ipynb; do chapter "$notebook" & done
wait
worst=0
for notebook in book/*.ipynb; do
    name=$(basename "$notebook")
    status=$(cat "$work/$name.status")
    echo "$name: status $status, $(tail -n 1 "$work/$name.log")"
    [ "$status" -eq 0 ] || worst=1
done
cat "$work"/*.log > "$folder/chapters.log"
echo "chapters: $((SECONDS - began)) s"

began=$SECONDS
timeout -k 5 45 "$python" -m pytest tests/test_gpu.py -p no:cacheprovider 2>&1 | tee "$folder/tests.log" | tail -n 3
[ "${PIPESTATUS[0]}" -eq 0 ] || worst=1
echo "tests: $((SECONDS - began)) s"

began=$SECONDS
timeout -k 5 170 "$python" -m bench.gpu --output "$folder/gpu.json" --seconds 140 2>&1 | tee "$folder/bench.log"
[ "${PIPESTATUS[0]}" -eq 0 ] || worst=1
echo "bench: $((SECONDS - began)) s"
exit $worst
