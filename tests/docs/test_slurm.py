"""The job scripts of docs/how-to/slurm.md, with stand-ins for srun and scontrol.

`srun` runs what follows it once a node, here once on the same machine, and fails as soon as one fails.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from doc_commands import ROOT, blocks
from test_commands import environment, placeholders

ONE_GPU, FOUR_MACHINES = (block.commands[0].text for block in blocks(ROOT / "docs/how-to/slurm.md"))
NODES = 2
pytestmark = pytest.mark.slow  # runs with fine-tuning, two of them at once in the second
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
for _ in $(seq "$SLURM_NNODES"); do "$@" & done
for _ in $(seq "$SLURM_NNODES"); do wait -n || exit; done
"""
TORCHRUN = f"""#!/bin/bash
exec {sys.executable} -m torch.distributed.run "$@"
"""


@pytest.fixture
def sbatch(tmp_path, programs):
    """A function that submits a script to Slurm, as far as the script sees; it gives the job."""
    tools = tmp_path / "tools"
    tools.mkdir()
    nodes = "\\n".join(["localhost"] * NODES)
    for name, text in {
        "srun": SRUN,
        "torchrun": TORCHRUN,
        "scontrol": f"#!/bin/sh\nprintf '{nodes}\\n'\n",
    }.items():
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)
    placeholders(tmp_path)

    def submit(script: str, nodes: int) -> subprocess.CompletedProcess[str]:
        job = environment(programs)
        job["PATH"] = os.pathsep.join([str(tools), job["PATH"]])
        with socket.socket() as free:
            free.bind(("localhost", 0))
            number = free.getsockname()[1]
        job |= {
            "SLURM_JOB_ID": str(number % 10000 + 10000),
            "SLURM_NNODES": str(nodes),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_PER_TASK": "1",
        }
        text = script.replace("/shared", str(tmp_path))
        process = subprocess.Popen(
            ["bash", "-eu", "-c", text],
            cwd=tmp_path, env=job, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            said = process.communicate(timeout=600)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(script, process.returncode, *said)

    return submit


def coreset(folder: Path) -> bytes:
    return (folder / "runs" / "x" / "coreset-0.2.jsonl").read_bytes()


def test_the_job_of_one_machine(sbatch, tmp_path):
    done = sbatch(ONE_GPU, 1)
    assert done.returncode == 0, done.stderr
    first = coreset(tmp_path)
    assert first.count(b"\n") == 8
    again = sbatch(ONE_GPU, 1)  # requeued after its run was finished
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout + again.stderr
    assert coreset(tmp_path) == first


def test_the_job_of_several_machines(sbatch, tmp_path):
    script = FOUR_MACHINES.replace("--nproc-per-node 8", "--nproc-per-node 1")
    assert script != FOUR_MACHINES
    done = sbatch(script, NODES)
    assert done.returncode == 0, done.stderr
    assert f", {NODES} processes, " in done.stdout
    assert done.stdout.count("The target scored") == 1
    assert coreset(tmp_path).count(b"\n") == 8
