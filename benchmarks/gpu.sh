#!/usr/bin/env bash
# Everything that takes a GPU, in one command: benchmarks/gpu.py, in an environment of its own.
#
#   bash benchmarks/gpu.sh                  # writes benchmarks/results/gpu-NAME.md and .json
#   bash benchmarks/gpu.sh --device cuda:1 --rows 1024 --name a100      # options of gpu.py
#   bash benchmarks/gpu.sh --device cpu --tiny                          # does the script work?
#
# PYTHON (python3) has the torch that fits your driver, which build/gpu borrows; else pip fetches one.
# GPU_PYTHON=.venv/bin/python: take that environment as it is and install nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

environment() {
  local place=build/gpu
  if [ ! -e "$place/.installed" ] || [ pyproject.toml -nt "$place/.installed" ] ||
    [ tools/peers.txt -nt "$place/.installed" ]; then
    "${PYTHON:-python3}" -m venv "$place"
    # A .pth and not --system-site-packages, which knows nothing of what a virtual environment has.
    "${PYTHON:-python3}" -c 'import site; print(*site.getsitepackages(), site.getusersitepackages(), sep="\n")' \
      >"$("$place/bin/python" -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
    "$place/bin/pip" install --quiet --disable-pip-version-check -e . nvidia-ml-py
    # bergson only computes here: what it needs for that, and none of its other dependencies.
    "$place/bin/pip" install --quiet --disable-pip-version-check --no-deps -r tools/peers.txt
    touch "$place/.installed"
  fi
  GPU_PYTHON=$place/bin/python
}

[ -n "${GPU_PYTHON:-}" ] || environment
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
exec "$GPU_PYTHON" benchmarks/gpu.py "$@"
