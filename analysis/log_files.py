"""Which files are logs of samples, and of which run, task and condition each one is."""

from __future__ import annotations

__all__ = [
    "CONDITIONS",
    "LogFile",
    "RunInfo",
    "find_logs",
    "read_run_info",
    "refuse_changed_results",
    "tell_apart",
]

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlm_backbones.analysis._folders import files_below
from vlm_backbones.analysis._run_names import Place, name_runs
from vlm_backbones.analysis._values import text
from vlm_backbones.done_files import (
    STATES,
    files_of,
    is_of_another_checkpoint,
    results_of,
    run_folder,
    samples_of,
)
from vlm_backbones.errors import LogError
from vlm_backbones.hashes import changed, read_sealed_json
from vlm_backbones.json_text import parse_json
from vlm_backbones.trained_runs import unlike_facts

CONDITIONS = ("clean", "jpeg40", "noise05", "shift4", "paraphrase", "swap")

_NAME = re.compile(
    r"^(?:(?P<stamp>\d{8}_\d{6})_)?samples_(?P<task>.+?)(?:_(?P<late>\d{4}-\d\d-\d\dT[\d.\-]+))?\.jsonl(?:\.gz)?$"
)

_AGAIN = "Run the study or the evaluation again, which replaces it"


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
    is_best: bool = False
    """Trained at the learning rate that a sweep chose for its backbone."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained from, but for its seed; empty where its record tells nothing."""

    @property
    def group(self) -> str:
        """What its seeds have in common: the backbone, apart by whether a sweep chose the learning rate."""
        return self.backbone + ("-best" if self.is_best else "")


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
        _refuse_lost_of(done)
    files = [path for path in files_below(root, "*samples_*.jsonl*") if _NAME.match(path.name)]
    trials = root / "sweep"  # of a study: they answered another split
    if (root / "study.yaml").is_file():
        files = [path for path in files if not path.is_relative_to(trials)]
    if not files:
        raise LogError(
            f"{root} holds no *_samples_*.jsonl or .jsonl.gz file. Run lmms-eval with --log_samples --output_path."
        )
    return files


def refuse_changed_results(root: Path) -> None:
    """Refuse results below a folder that are not those of the evaluation beside them; its logs need not be there.

    Raises
    ------
    LogError
        Naming the file.
    """
    for done in files_below(root, "done.json"):
        tasks = (read_sealed_json(done) or {}).get("tasks")
        for task, row in tasks.items() if isinstance(tasks, dict) else ():
            _refuse_changed(
                done, {path: digest for path, digest in _results(done, task, row).items() if _is_file(path)}
            )


def _results(done: Path, task: str, row: object) -> dict[Path, str]:
    try:
        return results_of(done, row)
    except ValueError as error:
        raise LogError(f"{done}, task {task[:200]!r}: {error}. {_AGAIN}.") from error


def _refuse_changed(done: Path, listed: Mapping[Path, str]) -> None:
    if damaged := changed(listed):
        raise LogError(
            f"{damaged[0]} is not the file that the evaluation wrote (its sha256 is not the one in {done.name}): "
            f"it is damaged or was edited. {_AGAIN}; or delete {done} to read it as it is."
        )


def _refuse_lost_of(done: Path) -> None:
    """Refuse a finished condition of ours of which a log, results or hidden states are gone or damaged.

    A table would silently be another. Its pictures change no table; the next `study run` looks at them.
    """
    content = read_sealed_json(done)
    tasks = content.get("tasks", {}) if content is not None else None
    if not isinstance(tasks, dict):
        raise LogError(
            f"{done} is no intact JSON object: it is damaged or was edited. {_AGAIN}; or delete it to read the logs "
            "beside it as they are."
        )
    if content is not None and is_of_another_checkpoint(done, content):
        raise LogError(
            f"{done}: another checkpoint answered than the one in {run_folder(done) / 'checkpoint'}: the logs are "
            f"another run's, or of before it was trained again. {_AGAIN}."
        )
    for task, row in tasks.items():
        try:
            samples, states = samples_of(done, row), files_of(done, row, STATES)
        except ValueError as error:
            raise LogError(f"{done}, task {task[:200]!r}: {error}. {_AGAIN}.") from error
        results = _results(done, task, row)
        lost = [path for path in [*samples, *states, *results] if not _is_file(path)]
        if not samples or lost:
            gone = str(lost[0] if lost else "")[:500]
            raise LogError(
                f"{done.parent}: {gone!r} is gone, a file of task {task[:200]!r} that {done.name} lists. {_AGAIN}."
            )
        _refuse_changed(done, {path: digest for path, digest in samples.items() if digest} | states | results)
        _refuse_unlisted(done, task, states)


def _refuse_unlisted(done: Path, task: str, states: Mapping[Path, str]) -> None:
    """Refuse states beside those that the evaluation listed: they would count as its own."""
    for folder in {path.parent for path in states}:
        others = sorted(set(folder.glob(f"{glob.escape(task)}-rank*.safetensors")) - set(states))
        if others:
            raise LogError(
                f"{others[0]} is no file of the evaluation that {done} tells of, and lies among its hidden states. "
                "Move it elsewhere."
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        return False


def _describe(path: Path, root: Path, name: str | None = None) -> LogFile:
    match = _NAME.match(path.name)
    task = match["task"] if match else path.name.removesuffix(".gz").removesuffix(".jsonl")
    stamp = (match and (match["stamp"] or match["late"])) or ""
    run_dir, condition = _run_folder(path.resolve())
    run = name or (run_dir.name if run_dir else _folder_name(path, root))
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


def read_run_info(run: str, run_dir: Path | None) -> RunInfo:
    """Read backbone and seed from `run.json`; the run's own name and seed 0 where there is none."""
    file = run_dir / "run.json" if run_dir else None
    if file is None or not file.is_file():
        return RunInfo(run, run, 0, run_dir)
    try:
        row = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LogError(f"{file} is not valid JSON ({error}). Restore it or remove it.") from error
    if not isinstance(row, dict):
        raise LogError(f"{file} holds no JSON object. Restore it or remove it.")
    if read_sealed_json(file) is None:
        raise LogError(
            f"{file} was edited or is damaged (its own_sha256 is of another content). Run the study again, which "
            "writes it anew; or restore it."
        )
    given = row.get("config")
    config = given if isinstance(given, dict) else {}
    backbone = row.get("backbone") or config.get("backbone") or run
    seed = row.get("seed", config.get("seed", 0))
    if isinstance(backbone, dict):
        backbone = backbone.get("id", run)
    if not isinstance(seed, int | None) or abs(seed or 0) >= 2**63:
        raise LogError(f"{file}: seed is {str(seed)[:60]!r}, expected a whole number. Restore it or remove it.")
    facts = row.get("facts")
    shared = {key: value for key, value in facts.items() if key != "seed"} if isinstance(facts, dict) else {}
    return RunInfo(run, text(str(backbone)) or run, seed or 0, run_dir, row.get("is_best") is True, shared)


def tell_apart(runs: Mapping[str, RunInfo], notes: list[str]) -> dict[str, RunInfo]:
    """Let runs of one backbone that are no seeds of each other stand for themselves, each with a note.

    Two of one seed, or trained otherwise than by their seed, are not: they come from different studies.
    """
    found = dict(runs)
    for group in dict.fromkeys(info.group for info in runs.values()):
        own = [info for info in runs.values() if info.group == group]
        seeds = {info.seed for info in own}
        is_alike = not any(unlike_facts(info.facts, own[0].facts) for info in own[1:])
        if len(seeds) == len(own) and is_alike:
            continue
        names = ", ".join(info.run for info in own)
        why = "share a seed" if len(seeds) < len(own) else "were trained otherwise"
        notes.append(f"{names}: runs of {group} that {why}; they are no seeds of each other, each stands for itself.")
        found |= {info.run: replace(info, backbone=info.run, is_best=False) for info in own}
    return found
