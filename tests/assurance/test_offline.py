"""Without a network: a study's parts, an evaluation and an analysis run, and nothing tries to connect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

# Refuses every connection but those within this machine's processes, and writes down who asked.
BLOCKED = """
import os, socket, sys, traceback

def refuse(event, arguments):
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto"}:
        own = event in {"socket.connect", "socket.sendto"} and arguments[0].family == socket.AF_UNIX
        if not own:
            with open(os.environ["TRIED"], "a") as log:
                log.write(f"{event} {arguments[1:]!r}\\n" + "".join(traceback.format_stack(limit=12)))
            raise OSError(101, "the network is unreachable")

sys.addaudithook(refuse)
sys.argv[0] = "vlm-backbones"
from vlm_backbones.cli import main
main()
"""


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VLM_BACKBONES"))}
    return kept | {
        "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "VLM_BACKBONES_CACHE": str(tmp_path / "cache"),
        "TRIED": str(tmp_path / "tried"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    tried = Path(environment["TRIED"])
    assert not tried.exists(), tried.read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_hook_sees_a_connection(offline: dict[str, str]) -> None:
    """A word of the test itself: what tries to connect is seen and fails."""
    code = BLOCKED.partition("sys.argv[0]")[0] + "socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=offline, check=False)
    assert done.returncode != 0
    assert "socket." in Path(offline["TRIED"]).read_text()


def test_everything_local_runs_without_a_network(
    tiny_parts: ModuleType, parts: Path, offline: dict[str, str], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--assurance"):
        pytest.skip("five commands, one after the other: with --assurance")
    import yaml

    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tiny_parts.study_text(parts)))
    environment = offline | {"VLM_BACKBONES_DATA": str(parts / "data")}
    run(environment, "study", "check", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"))
    run(environment, "compose", str(parts / "backbone"), str(parts / "tower"), str(tmp_path / "checkpoint"))
    for name in ("one", "two"):
        run(environment, "eval", str(tmp_path / "checkpoint"), "--tasks", "seismic_coords", "--limit", "2",
            "--out", str(tmp_path / "logs" / name))  # fmt: skip
    said = run(environment, "analyze", str(tmp_path / "logs"), "--out", str(tmp_path / "report"), "--bootstrap", "100")
    assert Path(said.strip().splitlines()[-1]).is_file()
