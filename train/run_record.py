"""run.json: what a run was made from, on what, and how it went."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vlm_backbones.cache import atomic_write_text
from vlm_backbones.errors import DataError
from vlm_backbones.hashes import content_sha256, read_sealed_json, sealed_json
from vlm_backbones.train.processes import processes, sharding

_PACKAGES = (
    "vlm-backbones",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "numpy",
    "pillow",
    "liger-kernel",
)


def hash_json(value: Any) -> str:
    """Return the sha256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def part_fingerprint(source: str, revision: str | None) -> str:
    """Return a hash of a pretrained part: of its files where it is a folder, else of its name and revision."""
    folder = Path(source)
    if not folder.is_dir():
        return hash_json([source, revision])
    total = hashlib.sha256()
    for file, digest in content_sha256(sorted(path for path in folder.iterdir() if path.is_file())).items():
        total.update(f"{file.name} {digest}\n".encode())
    return total.hexdigest()


def read_record(run_dir: Path) -> dict[str, Any]:
    """Return the content of run.json; empty where there is none or it is damaged."""
    return read_sealed_json(run_dir / "run.json") or {}


@dataclass
class RunRecord:
    """Collects what run.json holds; the main process writes it at the start, after each stage, and at the end."""

    run_dir: Path
    content: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Note in the file that the body failed or was asked to stop; it is raised all the same."""
        try:
            yield
        except SystemExit:
            self.write(state="stopped")
            raise
        except Exception as error:
            with suppress(DataError):  # on a full disk the error itself matters
                self.write(state="failed", error=str(error).partition("\n")[0])
            raise

    def write(self, **changes: Any) -> None:
        """Add facts and write the file."""
        self.content.update(changes)
        self.content["peak_memory_gb"] = peak_memory_gb()
        if processes().is_main_process:
            atomic_write_text(self.run_dir / "run.json", sealed_json(self.content))


def environment() -> dict[str, Any]:
    """Return versions, git commit and hardware."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if _is_installed(name)}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    hardware = {
        "device": device,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes().num_processes,
        "sharding": sharding(),
    }
    return {"versions": versions, "git_commit": _git_commit(), "hardware": hardware}


def peak_memory_gb() -> float:
    """Return the process's largest resident memory, and the GPU's where there is one, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = max(peak, torch.cuda.max_memory_allocated())
    return round(peak / 1e9, 3)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
