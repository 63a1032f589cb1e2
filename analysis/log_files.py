"""Which files are logs of samples, and of which run, task and condition each one is."""

from __future__ import annotations

__all__ = ["CONDITIONS", "LogFile", "RunInfo", "find_logs", "read_run_info"]

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_backbones.errors import LogError

CONDITIONS = ("clean", "jpeg40", "noise05", "shift4", "paraphrase", "swap")

_NAME = re.compile(
    r"^(?:(?P<stamp>\d{8}_\d{6})_)?samples_(?P<task>.+?)(?:_(?P<late>\d{4}-\d\d-\d\dT[\d.\-]+))?\.jsonl(?:\.gz)?$"
)


@dataclass(frozen=True)
class LogFile:
    """One file of samples. `condition` is None where only the samples can tell it."""

    path: Path
    run: str
    task: str
    condition: str | None
    stamp: str
    run_dir: Path | None


@dataclass(frozen=True)
class RunInfo:
    """What `run.json` says about a run; a foreign run is its own backbone with seed 0."""

    run: str
    backbone: str
    seed: int
    run_dir: Path | None


def find_logs(paths: Sequence[Path], runs: Mapping[str, Path] | None = None) -> list[LogFile]:
    """Return every log of samples under the paths, searched recursively, in a stable order.

    Parameters
    ----------
    paths : files or folders; a run is named by its RUN folder, else by the folder of its samples.
    runs : name -> file or folder, the name to use for everything under it.

    Raises
    ------
    LogError
        If a path does not exist or holds no log of samples.
    """
    named = {name: Path(path) for name, path in (runs or {}).items()}
    taken = {path.resolve() for root in named.values() for path in _samples_under(root)}
    logs = [_describe(path, root, name) for name, root in named.items() for path in _samples_under(root)]
    found: dict[Path, list[LogFile]] = {}
    for root in dict.fromkeys(Path(path) for path in paths):
        found[root] = [_describe(path, root) for path in _samples_under(root) if path.resolve() not in taken]
        taken |= {log.path.resolve() for log in found[root]}
    logs += _without_clashes(found, set(named))
    if not logs:
        raise LogError("no path was given. Name a folder of lmms-eval outputs (made with --log_samples).")
    return logs


def _samples_under(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise LogError(f"{root} does not exist. Name a folder or a *_samples_*.jsonl file of lmms-eval.")
    for done in sorted(root.rglob("done.json")):
        _refuse_lost_samples(done)
    files = sorted(path for path in root.rglob("*samples_*.jsonl*") if _NAME.match(path.name) and path.is_file())
    if not files:
        raise LogError(
            f"{root} holds no *_samples_*.jsonl or .jsonl.gz file. Run lmms-eval with --log_samples --output_path."
        )
    return files


def _refuse_lost_samples(done: Path) -> None:
    """Refuse a finished condition of ours of which a log is gone: a table would silently lack a row."""
    try:
        content = json.loads(done.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LogError(f"{done} is not valid JSON ({error}). Run the study or the evaluation again.") from error
    tasks = content.get("tasks") if isinstance(content, dict) else None
    for task, row in tasks.items() if isinstance(tasks, dict) else ():
        log = done.parent / str(row.get("samples", "")) if isinstance(row, dict) else done
        if not log.is_file():
            raise LogError(f"{log} is gone, the samples of task {task!r} that {done} lists. Run the evaluation again.")


def _describe(path: Path, root: Path, name: str | None = None) -> LogFile:
    match = _NAME.match(path.name)
    task = match["task"] if match else path.name.removesuffix(".gz").removesuffix(".jsonl")
    stamp = (match and (match["stamp"] or match["late"])) or ""
    run_dir, condition = _run_folder(path.resolve())
    run = name or (run_dir.name if run_dir else _folder_name(path, root))
    return LogFile(path, run, task, condition, stamp, run_dir)


def _folder_name(path: Path, root: Path) -> str:
    return path.resolve().parent.name or root.name


def _run_folder(path: Path) -> tuple[Path | None, str | None]:
    """RUN and CONDITION of a path like RUN/logs/CONDITION/**/file; lmms-eval users have `logs` folders of their own."""
    parts = path.parts
    for index in range(len(parts) - 3, 0, -1):
        if parts[index] == "logs":
            run_dir = Path(*parts[:index])
            if parts[index + 1] in CONDITIONS or (run_dir / "run.json").is_file():
                return run_dir, parts[index + 1]
    return None, None


def _without_clashes(found: Mapping[Path, list[LogFile]], taken: set[str]) -> Iterator[LogFile]:
    """Where two paths hold a run of the same name, the path's own name goes before."""
    roots_of: dict[str, set[Path]] = {}
    for root, logs in found.items():
        for log in logs:
            roots_of.setdefault(log.run, set()).add(root)
    for root, logs in found.items():
        for log in logs:
            clash = len(roots_of[log.run]) > 1 or log.run in taken
            run = f"{root.resolve().name}/{log.run}" if clash else log.run
            yield LogFile(log.path, run, log.task, log.condition, log.stamp, log.run_dir)


def read_run_info(run: str, run_dir: Path | None) -> RunInfo:
    """Read backbone and seed from `run.json`; the run's own name and seed 0 where there is none."""
    file = run_dir / "run.json" if run_dir else None
    if file is None or not file.is_file():
        return RunInfo(run, run, 0, run_dir)
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LogError(f"{file} is not valid JSON ({error}). Restore it or remove it.") from error
    config = row.get("config") if isinstance(row.get("config"), dict) else {}
    backbone = row.get("backbone") or config.get("backbone") or run
    seed = row.get("seed", config.get("seed", 0))
    if isinstance(backbone, dict):
        backbone = backbone.get("id", run)
    return RunInfo(run, str(backbone), int(seed or 0), run_dir)
