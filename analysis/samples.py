"""Read the samples that lmms-eval logged, ours or anybody's, into one frame."""

from __future__ import annotations

__all__ = ["SAMPLE_SCHEMA", "Logs", "load_logs", "read_samples"]

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.analysis.log_files import LogFile, RunInfo, find_logs, read_run_info
from vlm_backbones.analysis.record import HEADLINE, Cluster, parse_cluster_key, parse_record
from vlm_backbones.errors import LogError

# The last four stand beyond the documented columns: what the tables need of each sample.
SAMPLE_SCHEMA: dict[str, Any] = {
    "run": pl.String,
    "task": pl.String,
    "condition": pl.String,
    "doc_id": pl.String,
    "doc_key": pl.String,
    "cluster": pl.String,
    "question": pl.String,
    "target": pl.String,
    "answer": pl.String,
    "parsed": pl.String,
    "score": pl.Float64,
    "correct": pl.Boolean,
    "confidence": pl.Float64,
    "confidence_kind": pl.String,
    "option_logprobs": pl.List(pl.Struct({"option": pl.String, "logprob": pl.Float64})),
    "image_key": pl.String,
    "question_type": pl.String,
    "frame": pl.String,
    "targets": pl.String,
    "backbone": pl.String,
    "seed": pl.Int64,
    "sequence_confidence": pl.Float64,
    "per_token_confidence": pl.Float64,
}
_METRIC_SCHEMA: dict[str, Any] = {
    "run": pl.String,
    "task": pl.String,
    "condition": pl.String,
    "doc_id": pl.String,
    "cluster": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
}


@dataclass(frozen=True)
class Logs:
    """All samples of all runs, and what happened while they were read.

    `metrics` holds every metric of every sample (run, task, condition, doc_id, cluster, metric, value);
    `headline` names the metric behind `score`, by task; `runs` are in the order they were given.
    """

    samples: pl.DataFrame
    metrics: pl.DataFrame
    headline: dict[str, str]
    runs: dict[str, RunInfo]
    notes: list[str] = field(default_factory=list)


def read_samples(
    paths: Sequence[Path | str],
    runs: Mapping[str, Path | str] | None = None,
    *,
    cluster_key: str | None = None,
    score_key: str | None = None,
) -> pl.DataFrame:
    """Return one row a (run, task, condition, document).

    Parameters
    ----------
    paths : folders (searched recursively) or files of lmms-eval samples, .jsonl or .jsonl.gz.
    runs : name -> path, for logs whose folder does not name the run.
    cluster_key : KEY, KEY%N or KEY//N of the logged samples; default: the image.
    score_key : the key of a sample that holds its score; dots step into mappings.

    Returns
    -------
    polars.DataFrame
        run, task, condition, doc_id, doc_key, cluster, question, target, answer, parsed, score, correct (score >= 0.5),
        confidence (0 to 1), confidence_kind (option or sequence), option_logprobs (natural logarithms), image_key,
        question_type, frame, targets (JSON), and backbone, seed, sequence_confidence, per_token_confidence.

    Raises
    ------
    LogError
        If a path holds no samples, or a row is malformed; the message names file and row.
    """
    named = {name: Path(path) for name, path in (runs or {}).items()}
    return load_logs([Path(p) for p in paths], named, cluster_key=cluster_key, score_key=score_key).samples


def load_logs(
    paths: Sequence[Path],
    runs: Mapping[str, Path] | None = None,
    *,
    cluster_key: str | None = None,
    score_key: str | None = None,
) -> Logs:
    """Read samples, metrics and notes; of several logs of one (run, task, condition) the fullest and newest counts."""
    cluster = parse_cluster_key(cluster_key) if cluster_key else None
    notes: list[str] = []
    files = find_logs(paths, runs)
    info = {log.run: read_run_info(log.run, log.run_dir) for log in files}
    best: dict[tuple[str, str, str], tuple[LogFile, list[dict[str, Any]], list[tuple[Any, ...]]]] = {}
    for log in files:
        rows, metrics = _read_file(log, info[log.run], score_key, cluster, notes)
        if not rows:
            notes.append(f"{log.path}: no sample in it; left out.")
            continue
        key = (log.run, log.task, rows[0]["condition"])
        if key not in best:
            best[key] = (log, rows, metrics)
            continue
        old = best[key]
        newer = (len(rows), log.stamp, log.path.stat().st_mtime) >= (
            len(old[1]),
            old[0].stamp,
            old[0].path.stat().st_mtime,
        )
        winner, loser = ((log, rows, metrics), old) if newer else (old, (log, rows, metrics))
        best[key] = winner
        notes.append(
            f"{loser[0].path}: {len(loser[1])} documents; {winner[0].path.name} with {len(winner[1])} was used for "
            f"{' / '.join(key)} instead."
        )
    if not best:
        raise LogError(f"none of the {len(files)} logs holds a sample. " + " ".join(notes[:3]))
    return _assemble(list(best.values()), info, notes)


def _assemble(chosen: list[Any], info: dict[str, RunInfo], notes: list[str]) -> Logs:
    rows = [row for _, rows, _ in chosen for row in rows]
    headline: dict[str, str] = {}
    for (task, name), _ in Counter((row["task"], row["headline"]) for row in rows).most_common():
        if name is not None:
            named = HEADLINE.get(task, "score") if name == "backbones.score" else name
            headline.setdefault(task, named)
            if named.startswith("computed"):
                notes.append(f"{task}: the log holds no correctness; {named}. Choose another with --score-key.")
    for task in sorted({row["task"] for row in rows} - set(headline)):
        notes.append(f"{task}: no key of the samples looks like a score; name one with --score-key KEY.")
    metrics = [metric for _, _, metrics in chosen for metric in metrics]
    runs = {run: value for run, value in info.items() if any(log.run == run for log, _, _ in chosen)}
    return Logs(
        pl.DataFrame(rows, schema=SAMPLE_SCHEMA, strict=False),
        pl.DataFrame(metrics, schema=_METRIC_SCHEMA, orient="row", strict=False),
        headline,
        runs,
        notes,
    )


def _read_file(
    log: LogFile, info: RunInfo, score_key: str | None, cluster: Cluster | None, notes: list[str]
) -> tuple[list[dict[str, Any]], list[tuple[Any, ...]]]:
    """Rows and metric rows of one file; the last sample of a document counts where ranks or reruns repeat it."""
    rows: dict[str, dict[str, Any]] = {}
    metrics: dict[str, dict[str, float]] = {}
    repeated = 0
    for number, record in _records(log.path, notes):
        doc_id = record.get("doc_id")
        if doc_id is None or ("filtered_resps" not in record and "resps" not in record):
            keys = ", ".join(list(record)[:8])
            raise LogError(
                f"{log.path} row {number}: not a sample of lmms-eval (it has {keys}; doc_id and filtered_resps are "
                "expected). Leave this file out, or log with lmms-eval --log_samples."
            )
        row, values = parse_record(record, score_key, cluster)
        row |= {"run": log.run, "task": log.task, "backbone": info.backbone, "seed": info.seed}
        row["condition"] = row["condition"] or log.condition or "clean"
        row["cluster"] = row["cluster"] or row["doc_key"] or f"doc {row['doc_id']}"
        repeated += row["doc_id"] in rows
        rows[row["doc_id"]], metrics[row["doc_id"]] = row, values
    if repeated:
        notes.append(f"{log.path}: {repeated} documents appear more than once; the last sample of each was used.")
    return list(rows.values()), [
        (log.run, log.task, rows[doc]["condition"], doc, rows[doc]["cluster"], name, value)
        for doc, values in metrics.items()
        for name, value in values.items()
    ]


def _records(path: Path, notes: list[str]) -> Any:
    """Yield (row number from 1, parsed sample); a cut last line is reported, any other bad line is an error."""
    pending: tuple[int, ValueError] | None = None
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if pending is not None:
                    raise LogError(f"{path} row {pending[0]}: not valid JSON ({pending[1]}). Repair or remove the row.")
                if not line.strip():
                    continue
                try:
                    record = json.loads(line.decode("utf-8", "replace"))
                except ValueError as error:
                    pending = (number, error)
                    continue
                if not isinstance(record, dict):
                    raise LogError(f"{path} row {number}: a JSON object is expected, found {type(record).__name__}.")
                yield number, record
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        notes.append(f"{path}: the file ends early after row {number} ({error}); the rows before were used.")
    except OSError as error:
        raise LogError(f"cannot read {path}: {error.strerror or error}. Check the path and its permissions.") from error
    if pending is not None:
        notes.append(f"{path}: the last line (row {pending[0]}) is cut off and was left out; the rest was used.")
