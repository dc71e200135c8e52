cd /tmp/w/h/me; HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PYTHONPATH=/tmp/w/h/me/src /work/main/.venv/bin/python -m pytest -q -p no:cacheprovider "$@" 2>&1 | tail -30
