"""Logs in, tables and report out: the one call behind `vlm-backbones analyze`."""

from __future__ import annotations

__all__ = ["VERSION", "analyze"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_backbones.analysis.samples import Logs, load_logs
from vlm_backbones.errors import LogError

VERSION = 1


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

    Raises
    ------
    LogError
        If a path holds no samples, a row is malformed, or two runs saw different data.
    """
    if bootstrap < 1:
        raise LogError(f"bootstrap is {bootstrap}; at least 1 draw is needed, 10000 is the default.")
    from vlm_backbones.analysis.columns import write_tables
    from vlm_backbones.analysis.report.page import write_report
    from vlm_backbones.analysis.tables import build_tables

    study = _read_study(study_dir)
    logs = load_logs([Path(path) for path in paths], runs, cluster_key=cluster_key, score_key=score_key)
    logs, tasks = _ordered(logs, study)
    tables = build_tables(
        logs,
        backbones=[str(name) for name in study.get("backbones") or ()],
        probe_targets=(study.get("analysis") or {}).get("probe_targets") or None,
        bootstrap=bootstrap,
        seed=seed,
    )
    write_tables(tables, out / "tables")
    return write_report(
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


def _read_study(study_dir: Path | None) -> dict[str, Any]:
    file = study_dir / "study.yaml" if study_dir else None
    if file is None or not file.is_file():
        return {}
    import yaml

    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _ordered(logs: Logs, study: Mapping[str, Any]) -> tuple[Logs, list[str]]:
    """Runs oldest backbone first, as the study lists them; else as the paths came. Tasks alike."""
    import polars as pl

    backbones = [str(name) for name in study.get("backbones") or ()]
    place = {name: index for index, name in enumerate(backbones)}
    order = sorted(
        logs.runs, key=lambda run: (place.get(logs.runs[run].backbone, len(place)), logs.runs[run].seed)
    ) if place else list(logs.runs)  # fmt: skip
    tasks = list(dict.fromkeys(logs.samples["task"]))
    wished = [str(task) for task in study.get("tasks") or ()]
    tasks = [task for task in wished if task in tasks] + [task for task in tasks if task not in wished]
    ranked = logs.samples.with_columns(
        pl.col("run").replace_strict({run: i for i, run in enumerate(order)}, return_dtype=pl.Int64).alias("_run"),
        pl.col("task").replace_strict({task: i for i, task in enumerate(tasks)}, return_dtype=pl.Int64).alias("_task"),
    )
    samples = ranked.sort("_task", "_run", maintain_order=True).drop("_run", "_task")
    headline = {task: logs.headline[task] for task in tasks if task in logs.headline}
    return Logs(samples, logs.metrics, headline, {run: logs.runs[run] for run in order}, logs.notes), tasks


def _deviations(study: Mapping[str, Any]) -> list[str]:
    """One line for each per-backbone difference that the study declares."""
    lines = []
    for backbone, changes in (study.get("deviations") or {}).items():
        reason = changes.get("reason", "no reason given")
        keys = ", ".join(f"{key} = {value}" for key, value in changes.items() if key != "reason")
        lines.append(f"{backbone}: {keys} ({reason})")
    return lines
