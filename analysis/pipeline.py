"""Logs in, tables and report out: the one call behind `vlm-backbones analyze`."""

from __future__ import annotations

__all__ = ["VERSION", "analyze"]

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_backbones.analysis._evaluation_notes import unlike_evaluations
from vlm_backbones.analysis.samples import Logs, load_logs
from vlm_backbones.cache import atomic_write_text, recorded_writes
from vlm_backbones.done_files import REPORT_SEAL
from vlm_backbones.errors import LogError
from vlm_backbones.hashes import relative_sha256, sealed_json
from vlm_backbones.locks import hold
from vlm_backbones.trained_runs import training_notes

VERSION = 4


def analyze(
    paths: Sequence[Path],
    out: Path,
    *,
    runs: Mapping[str, Path] | None = None,
    cluster_key: str | None = None,
    score_key: str | None = None,
    study_dir: Path | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
    inline_images: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write OUT/tables/*.csv and *.parquet and OUT/report.html; return the report's path.

    Parameters
    ----------
    paths : files or folders of lmms-eval logs, searched recursively.
    out : folder for the tables and the report.
    runs : name -> path, for logs whose folder does not name the run.
    cluster_key : KEY, KEY%N or KEY//N: questions that share it are resampled together; default the image.
    score_key : key of a sample that holds its score.
    study_dir : a study's folder with certificate.json and study.yaml, for the order of the runs and the first page.
    bootstrap : draws of each interval; `seed` makes them repeatable.
    inline_images : put the samples and their images into the page itself, so that it can be sent as one file.
    tell : gets a line before each part of the work that takes time.

    Raises
    ------
    LogError
        If a path holds no samples, a row is malformed, or two runs saw different data.
    ConfigError
        If another analysis writes to `out`.
    """
    if bootstrap < 1:
        raise LogError(f"bootstrap is {bootstrap}; at least 1 draw is needed, 10000 is the default.")
    from vlm_backbones.analysis.columns import write_tables
    from vlm_backbones.analysis.report.page import write_report
    from vlm_backbones.analysis.tables import build_tables

    study = _read_study(study_dir)
    backbones = [str(name) for name in study.get("backbones") or ()]
    places = [*map(str, paths), *(f"{name}={path}" for name, path in (runs or {}).items())]
    tell(f"reading the logs under {', '.join(places)}")
    logs = load_logs(
        [Path(path) for path in paths],
        runs,
        cluster_key=cluster_key,
        score_key=score_key,
        backbones=backbones,
        tasks=[str(task) for task in study.get("tasks") or ()],
    )
    logs.notes.extend(_notes(logs, study_dir if study else None))
    tasks = logs.samples["task"].unique(maintain_order=True).to_list()
    count = f"{logs.samples.height:,} samples of {len(logs.runs)} runs and {len(tasks)} tasks"
    tell(f"computing the tables: {count}, {bootstrap:,} resamples an interval")
    tables = build_tables(
        logs,
        backbones=backbones,
        probe_targets=(study.get("analysis") or {}).get("probe_targets") or None,
        bootstrap=bootstrap,
        seed=seed,
    )
    # the folder itself is locked by the study that this may be a stage of
    with hold(out / "tables"), recorded_writes() as written:
        write_tables(tables, out / "tables")
        tell("drawing the report")
        page = write_report(
            logs,
            tables,
            list(logs.runs),
            tasks,
            out,
            title=str(study.get("name") or "Backbone comparison"),
            study_dir=study_dir,
            deviations=_deviations(study),
            inline_images=inline_images,
            seed=seed,
        )
        _seal(out, written)
    return page


def _notes(logs: Logs, study_dir: Path | None) -> list[str]:
    """Say how the trainings and evaluations of the runs differ; what a study holds together was checked before."""
    folders = {run: info.run_dir.resolve() for run, info in logs.runs.items() if info.run_dir is not None}
    own = {path.resolve() for path in study_dir.iterdir()} if study_dir is not None else set()  # some may be links
    inside = [run for run, folder in folders.items() if folder in own]
    others = [run for run in logs.runs if run not in inside]
    is_study = study_dir is not None and not others
    notes = [*training_notes(folders, is_study=is_study), *unlike_evaluations(folders)]
    if study_dir is not None and others:
        notes.insert(0, f"{', '.join(others)}: no run of {study_dir}, whose certificate says nothing about it.")
    return notes


def _seal(out: Path, written: Sequence[Path]) -> None:
    """List what an analysis wrote with its hashes, last: `study run` makes it again where it is damaged."""
    files = relative_sha256(out.absolute(), {path for path in written if path.is_file()})
    atomic_write_text(out / REPORT_SEAL, sealed_json({"files": files}))


def _read_study(study_dir: Path | None) -> dict[str, Any]:
    """Return the study's YAML as far as a report needs it: names of backbones, tasks and targets, deviations."""
    file = study_dir / "study.yaml" if study_dir else None
    if file is None or not file.is_file():
        return {}
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LogError(f"{file} is not valid YAML ({error}). Restore it, or leave out --study-dir.") from error
    kinds: dict[str, type] = {"backbones": list, "tasks": list, "analysis": dict, "deviations": dict}
    for key, kind in kinds.items():
        value = content.get(key) if isinstance(content, dict) else content
        if not isinstance(content, dict) or (value is not None and not isinstance(value, kind)):
            found = type(value).__name__
            raise LogError(f"{file}: {key!r} is a {found}, expected a {kind.__name__}. Restore the study's file.")
    study: dict[str, Any] = content
    return study


def _deviations(study: Mapping[str, Any]) -> list[str]:
    """One line for each per-backbone difference that the study declares."""
    lines = []
    for backbone, changes in (study.get("deviations") or {}).items():
        reason = changes.get("reason", "no reason given")
        keys = ", ".join(f"{key} = {value}" for key, value in changes.items() if key != "reason")
        lines.append(f"{backbone}: {keys} ({reason})")
    return lines
