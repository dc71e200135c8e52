"""Secrets of the environment are in no file and no word of a real process."""

import os
import subprocess
import sys

import pytest

SECRETS = {
    "HF_TOKEN": "hf_dGhpcyBpcyBhIHNlY3JldA",
    "HUGGING_FACE_HUB_TOKEN": "hf_YW5vdGhlciBzZWNyZXQ",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}
PASSWORD = "correct-horse-battery"
PROXY = f"http://somebody:{PASSWORD}@127.0.0.1:9"  # nobody listens there
PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"), PROXY)
PROXIES |= {"NO_PROXY": "", "no_proxy": ""}


@pytest.fixture
def staff(tmp_path):
    """Run a command in such an environment; gives its exit code and all it said."""

    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, "-m", "staff", *map(str, arguments)],
            capture_output=True, check=False, timeout=300, cwd=tmp_path,
            env={**os.environ, **SECRETS, **PROXIES, "HF_HOME": str(tmp_path / "hf"), **environment},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def check_no_secret(said, folder):
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        said += path.name.encode() + path.read_bytes()
    for secret in (*SECRETS.values(), PASSWORD):
        assert secret.encode() not in said


@pytest.mark.slow  # twenty seconds
def test_of_a_run(staff, tmp_path, e2e_file, family):
    data, out = e2e_file(30), tmp_path / "x"
    small, target = family
    command = [
        "select", data, "--small", small, "--target", target, "--keep", "0.2", "--out", out,
        "--prompt-column", "mr", "--response-column", "ref", "--regions", "2", "--epochs", "1",
        "--verify-per-region", "3", "--verbose", "--debug",
    ]  # fmt: skip
    code, said = staff(*command)
    assert code == 0, said
    for more in (["report", out], ["why", out, "--row", "1"], [*command, "--print-config"]):
        code, again = staff(*more)
        assert code == 0, again
        said += again
    assert (out / "manifest.json").is_file()
    check_no_secret(said, tmp_path)


def test_of_an_error(staff, tmp_path):
    data, out = tmp_path / "train.jsonl", tmp_path / "x"
    data.write_text('{"prompt": "p", "response": ""}\n')
    common = ["--keep", "1", "--out", out, "--verbose", "--debug"]
    code, said = staff("select", data, "--method", "random", *common)
    assert code == 3
    assert b"Traceback" in said
    check_no_secret(said, tmp_path)


@pytest.mark.parametrize(
    "what",
    ["model", pytest.param("data", marks=pytest.mark.slow)],  # slow: `datasets` asks five times
)
def test_of_a_hub_that_cannot_be_reached(staff, tmp_path, what):
    """Through the proxy with a password, which refuses: the name of the proxy is in its errors."""
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "p", "response": "r"}\n')
    command = ["select", "acme/rows", "--method", "random", "--keep", "1"]
    if what == "model":
        command = ["score", data, "--model", "acme/small"]
    online = {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    code, said = staff(*command, "--out", tmp_path / "x", "--verbose", "--debug", **online)
    assert code == (3 if what == "data" else 4), said
    assert b"Traceback" in said
    check_no_secret(said, tmp_path)
