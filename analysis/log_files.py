"""Which files are logs of samples, and of which run, task and condition each one is."""

from __future__ import annotations

__all__ = ["CONDITIONS", "LogFile", "find_logs"]

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlm_backbones.analysis._folders import files_below
from vlm_backbones.analysis._lost_files import refuse_lost_files
from vlm_backbones.analysis._run_names import Place, name_runs
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


def find_logs(
    paths: Sequence[Path], runs: Mapping[str, Path] | None = None, notes: list[str] | None = None
) -> list[LogFile]:
    """Return every log of samples under the paths, searched recursively, in a stable order.

    Parameters
    ----------
    paths : files or folders; a run is named by its RUN folder, else by the folder of its samples.
    runs : name -> file or folder, the name to use for everything under it.
    notes : gets a line for each path whose logs another path or name already has.

    Raises
    ------
    LogError
        If a path does not exist or holds no log of samples.
    """
    said = [] if notes is None else notes
    named = {name: Path(path) for name, path in (runs or {}).items()}
    owner: dict[Path, str] = {}
    logs: list[LogFile] = []
    for name, root in named.items():
        files = _samples_under(root)
        for other in dict.fromkeys(owner[path.resolve()] for path in files if path.resolve() in owner):
            said.append(f"{root}: the runs {other} and {name} read the same files; they are one run counted twice.")
        owner |= {path.resolve(): name for path in files}
        logs += [_describe(path, root, name) for path in files]
    logs += _of_paths(paths, owner, set(named), said)
    if not logs:
        raise LogError("no path was given. Name a folder of lmms-eval outputs (made with --log_samples).")
    return logs


def _of_paths(paths: Sequence[Path], owner: dict[Path, str], taken: set[str], notes: list[str]) -> list[LogFile]:
    """The logs of each path that no name and no earlier path has, their runs told apart."""
    logs: list[LogFile] = []
    places: list[Place] = []
    for root in map(Path, paths):
        files = _samples_under(root)
        left = [path for path in files if path.resolve() not in owner]
        if not left:
            notes.append(f"{root}: its logs were read already, as {owner[files[0].resolve()]}; they count once.")
        owner |= {path.resolve(): str(root) for path in left}
        home = root.resolve() if root.is_dir() else root.resolve().parent
        for log in (_describe(path, root) for path in left):
            folder = log.run_dir or log.path.resolve().parent
            places.append(Place(log.run, home, folder, log.run_dir is not None, (log.task, log.condition)))
            logs.append(log)
    return [replace(log, run=name) for log, name in zip(logs, name_runs(places, taken, notes), strict=True)]


def _samples_under(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise LogError(f"{root} does not exist. Name a folder or a *_samples_*.jsonl file of lmms-eval.")
    for done in files_below(root, "done.json"):
        refuse_lost_files(done)
    files = [path for path in files_below(root, "*samples_*.jsonl*") if _NAME.match(path.name)]
    trials = root / "sweep"  # of a study: they answered another split
    if (root / "study.yaml").is_file():
        files = [path for path in files if not path.is_relative_to(trials)]
    if not files:
        raise LogError(
            f"{root} holds no *_samples_*.jsonl or .jsonl.gz file. Run lmms-eval with --log_samples --output_path."
        )
    return files


def _describe(path: Path, root: Path, name: str | None = None) -> LogFile:
    match = _NAME.match(path.name)
    task = match["task"] if match else path.name.removesuffix(".gz").removesuffix(".jsonl")
    stamp = (match and (match["stamp"] or match["late"])) or ""
    run_dir, condition = _run_folder(path.resolve())
    called, _ = _run_folder(path.absolute())  # a run's folder may be a link to where there is room
    run = name or (called or run_dir or Path(_folder_name(path, root))).name
    return LogFile(path, _listable(run), task, condition, stamp, run_dir)


def _listable(run: str) -> str:
    """A name that can stand in the tables' lists of runs, which are "A + B" or "none"."""
    return "run none" if run == "none" else run.replace(" + ", "+")


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
