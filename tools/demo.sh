#!/bin/sh
# The demo: a synthetic archive, balanced splits, four methods, the page. Everything below demo/, offline, on a CPU.
set -eu
export HF_HUB_OFFLINE=1
# The base is small: a second thread would gain little on an idle machine, and lose much on a busy one.
export OMP_NUM_THREADS=1
out=${1:-demo}
cxr-phantom --out "$out/archive" --subjects 1000 --seed 0 --size 160 --workers 2
cxr-split "$out/archive" --layout mimic_cxr --per-label 100 --text all --out "$out/splits"
cxr-ablate configs/demo.yaml --splits "$out/splits" --out "$out/runs"
cxr-compare "$out/runs" --out "$out/page"
echo "The page: $(cd "$out/page" && pwd)/comparison.html"
