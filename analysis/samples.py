"""Read the samples that lmms-eval logged, ours or anybody's, into one frame."""

from __future__ import annotations

__all__ = ["SAMPLE_SCHEMA", "Logs", "load_logs", "read_samples"]

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from vlm_backbones.analysis._asked_key import AskedKey
from vlm_backbones.analysis._cluster_key import Cluster, parse_cluster_key
from vlm_backbones.analysis._evaluation_notes import (
    checkpoints_of,
    judges_of,
    several_checkpoints,
    unlike_judges,
)
from vlm_backbones.analysis._generation_settings import unlike_settings
from vlm_backbones.analysis._log_lines import read_batches
from vlm_backbones.analysis._sample_frame import (
    SAMPLE_SCHEMA,
    finish_batch,
    is_large,
    last_of_each_document,
    metric_rows,
    split_by,
    with_all_columns,
)
from vlm_backbones.analysis._task_checks import (
    copies,
    no_threshold,
    strange_targets,
    without_correctness,
    without_incomparable,
)
from vlm_backbones.analysis.log_files import LogFile, find_logs
from vlm_backbones.analysis.record import HEADLINE, parse_records
from vlm_backbones.analysis.run_info import RunInfo, read_run_info, tell_apart
from vlm_backbones.analysis.task_runs import TaskRuns, task_runs
from vlm_backbones.errors import LogError


@dataclass(frozen=True)
class Logs:
    """All samples of all runs, and what happened while they were read.

    `metrics` holds every metric of every sample (run, task, condition, doc_id, cluster, metric, value);
    `headline` names the metric behind `score`, by task; `runs` are in the order of the samples; `without_threshold`
    says of a task why its scores are neither right nor wrong at 0.5 (then `correct` is null, and their mean is no share
    where it leaves 0 to 1); `cluster_key` is what the user named as the cluster.
    """

    samples: pl.DataFrame
    metrics: pl.DataFrame
    headline: dict[str, str]
    runs: dict[str, RunInfo]
    notes: list[str] = field(default_factory=list)
    without_threshold: dict[str, str] = field(default_factory=dict)
    cluster_key: str | None = None

    @cached_property
    def clean(self) -> list[TaskRuns]:
        """The tasks without perturbation, each paired once for all that compares its runs."""
        return task_runs(self.samples)


@dataclass(frozen=True)
class _How:
    """How files are read: `large` keeps each distinct text once; `asked` are the keys that the user named."""

    score_key: str | None
    cluster: Cluster | None
    large: bool
    asked: list[AskedKey]


@dataclass(frozen=True)
class _Read:
    """One file: its samples, their metrics, how many have their score from which key, who graded and who answered."""

    log: LogFile
    samples: pl.DataFrame
    metrics: pl.DataFrame
    headlines: dict[str | None, int]
    judges: set[str]
    checkpoints: set[str]

    @property
    def condition(self) -> str:
        return str(self.samples["condition"][0])


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
        run, task, condition, doc_id, doc_key, cluster, question, target, answer, parsed, score, correct (score >= 0.5;
        null in a task whose scores leave 0 to 1 or get better downwards),
        confidence (0 to 1), confidence_kind (option or sequence), option_logprobs (natural logarithms), image_key,
        question_type, frame, targets (JSON), and backbone, seed, sequence_confidence, per_token_confidence.
        Text is `String`; above 256 MB of logs it is `Categorical`, each distinct text kept once.

    Raises
    ------
    LogError
        If a path holds no samples, or no file can be read; the message names file and row.
    ConfigError
        If no sample has the key that was named.
    """
    named = {name: Path(path) for name, path in (runs or {}).items()}
    return _load([Path(p) for p in paths], named, cluster_key, score_key, (), ()).samples


def load_logs(
    paths: Sequence[Path],
    runs: Mapping[str, Path] | None = None,
    *,
    cluster_key: str | None = None,
    score_key: str | None = None,
    backbones: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> Logs:
    """Read samples, metrics and notes; of several logs of one (run, task, condition) the fullest and newest counts.

    `backbones` and `tasks` go first, in their order; runs of one backbone by seed; all others as the paths came. A file
    that cannot be read, and a task whose runs cannot be compared, are left out with a note; LogError where nothing is
    left.
    """
    logs = _load(paths, runs, cluster_key, score_key, backbones, tasks)
    samples, metrics = without_incomparable(logs.samples, logs.metrics, logs.notes)
    logs.notes.extend(copies(samples))
    tasks_left, runs_left = (set(samples[name].unique().cast(pl.String)) for name in ("task", "run"))
    headline = {task: name for task, name in logs.headline.items() if task in tasks_left}
    left = {run: info for run, info in logs.runs.items() if run in runs_left}
    return replace(logs, samples=samples, metrics=metrics, headline=headline, runs=left, cluster_key=cluster_key)


def _load(
    paths: Sequence[Path],
    runs: Mapping[str, Path] | None,
    cluster_key: str | None,
    score_key: str | None,
    backbones: Sequence[str],
    tasks: Sequence[str],
) -> Logs:
    notes: list[str] = []
    files = find_logs(paths, runs, notes)
    info = tell_apart({log.run: read_run_info(log.run, log.run_dir) for log in files}, notes)
    cluster = parse_cluster_key(cluster_key) if cluster_key else None
    asked = [AskedKey("--score-key", score_key, "none is scored")] if score_key else []
    if cluster:
        asked.append(AskedKey("--cluster-key", cluster.key, "its questions are resampled as they are without it"))
    how = _How(score_key, cluster, is_large([log.path for log in files]), asked)
    best: dict[tuple[str, str, str], _Read] = {}
    with _without_cycle_search():
        for log in files:
            read = _read_or_note(log, info[log.run], how, notes)
            if read is not None:
                key = (log.run, log.task, read.condition)
                best[key] = _better(best.get(key), read, key, notes)
    if not best:
        raise LogError(f"none of the {len(files)} logs holds a sample. " + " ".join(notes[:3]))
    for named in asked:
        named.refuse_unknown()
    info = _ordered(info, backbones)
    places = dict.fromkeys([*tasks, *(task for _, task, _ in best)])
    # files in order, not samples: millions of rows would be copied
    chosen = sorted(best.values(), key=lambda read: (list(places).index(read.log.task), list(info).index(read.log.run)))
    notes += unlike_judges((read.log.task, read.log.run, read.judges) for read in chosen)
    notes += several_checkpoints(
        (read.log.run, f"{read.log.task} / {read.condition}", read.checkpoints) for read in chosen
    )
    notes += unlike_settings((read.log, read.condition) for read in chosen)
    return _assemble(chosen, info, notes)


def _ordered(info: dict[str, RunInfo], backbones: Sequence[str]) -> dict[str, RunInfo]:
    """Runs of the named backbones first, in their order and by seed, those at a sweep's best rates behind them; without
    names as they came."""
    if not backbones:
        return info
    place = {name: number for number, name in enumerate(backbones)}
    rank = {run: (facts.is_best, place.get(facts.backbone, len(place)), facts.seed) for run, facts in info.items()}
    return {run: info[run] for run in sorted(info, key=rank.__getitem__)}


@contextmanager
def _without_cycle_search() -> Iterator[None]:
    """Rows of JSON hold no reference cycles, and looking for some among millions of rows takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _better(old: _Read | None, new: _Read, key: tuple[str, str, str], notes: list[str]) -> _Read:
    """The one with more documents, the newer among equals; the other is reported."""
    if old is None:
        return new
    loser, winner = sorted([old, new], key=_fullest_then_newest)
    used = winner.log.path.name if winner.log.path.parent == loser.log.path.parent else str(winner.log.path)
    name_each = "" if used == winner.log.path.name else " Two models need a name each: --run NAME=PATH."
    notes.append(
        f"{loser.log.path}: {loser.samples.height} documents; {used} with {winner.samples.height} was used for "
        f"{' / '.join(key)} instead.{name_each}"
    )
    return winner


def _fullest_then_newest(read: _Read) -> tuple[int, str, float]:
    return read.samples.height, read.log.stamp, read.log.path.stat().st_mtime


def _read_or_note(log: LogFile, info: RunInfo, how: _How, notes: list[str]) -> _Read | None:
    try:
        read = _read_file(log, info, how, notes)
    except LogError as error:
        notes.append(f"Left out: {error}")
        return None
    if read is None:
        notes.append(f"{log.path}: no sample in it; left out.")
    return read


def _read_file(log: LogFile, info: RunInfo, how: _How, notes: list[str]) -> _Read | None:
    """All samples of one file; the last sample of a document counts where ranks or reruns repeat it."""
    batches, judges, checkpoints = [], set[str](), set[str]()
    for records in read_batches(log.path, notes):
        judges |= judges_of(records)
        checkpoints |= checkpoints_of(records)
        for named in how.asked:
            named.look(records)
        parsed = parse_records(records, how.score_key, how.cluster)
        batches.append(finish_batch(parsed, log.condition or "clean", how.large))
    if not batches:
        return None
    for named in how.asked:
        named.end_of_file(log.path, notes)
    logged = pl.concat(batches, how="diagonal", rechunk=not how.large)
    frame = last_of_each_document(logged)
    if frame.height < logged.height:
        repeated = logged.height - frame.height
        notes.append(f"{log.path}: {repeated} documents appear more than once; the last sample of each was used.")
    notes += strange_targets(frame, log.path)
    constants = {"run": log.run, "task": log.task, "backbone": info.backbone, "seed": info.seed}
    frame = with_all_columns(frame, constants, how.large)
    headlines = dict(frame.group_by("headline", maintain_order=True).len().iter_rows())
    return _Read(log, frame.select(list(SAMPLE_SCHEMA)), metric_rows(frame), headlines, judges, checkpoints)


def _assemble(chosen: list[_Read], info: dict[str, RunInfo], notes: list[str]) -> Logs:
    headline = _headlines(chosen, notes)
    runs = {run: value for run, value in info.items() if any(read.log.run == run for read in chosen)}
    samples = pl.concat([read.samples for read in chosen])
    reasons = no_threshold(samples, headline)
    for task, why in reasons.items():
        notes.append(
            f"{task}: {why}, so no question counts as right or wrong and means stay in the unit of the log; name a "
            "score from 0 to 1 with --score-key KEY."
        )
    samples = without_correctness(samples, reasons)
    return Logs(samples, pl.concat([read.metrics for read in chosen]), headline, runs, notes, reasons)


def _named_by_task(task: str, chosen: list[_Read]) -> str:
    """What a task calls the score of its record: its own metric of the same values, which is then not told twice."""
    if task in HEADLINE:
        return HEADLINE[task]
    equal: list[list[str]] = []
    for read in (read for read in chosen if read.log.task == task):
        score = _known(read.samples, "score")
        parts = split_by(read.metrics, "metric")
        equal.append([metric for (metric,), part in parts if _known(part, "value").equals(score)])
    return next((metric for metric in equal[0] if all(metric in names for names in equal)), "score")


def _known(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    return frame.select("doc_id", value=pl.col(column).fill_nan(None)).drop_nulls("value")


def _headlines(chosen: list[_Read], notes: list[str]) -> dict[str, str]:
    """The metric behind `score`, by task: the one that most samples have."""
    found: Counter[tuple[str, str | None]] = Counter()
    for read in chosen:
        found.update({(read.log.task, name): count for name, count in read.headlines.items()})
    headline: dict[str, str] = {}
    for (task, name), _ in found.most_common():
        if name is not None:
            named = _named_by_task(task, chosen) if name == "backbones.score" else name
            headline.setdefault(task, named)
            if named.startswith("computed"):
                notes.append(f"{task}: the log holds no correctness; {named}. Choose another with --score-key.")
    for task in sorted({task for task, _ in found} - set(headline)):
        headline[task] = "score"
        notes.append(f"{task}: no key of the samples looks like a score; name one with --score-key KEY.")
    for task in sorted({task for task, name in found if name is not None}):
        own = [read for read in chosen if read.log.task == task]
        empty = dict.fromkeys(read.log.run for read in own if not read.samples["score"].count())
        if empty:
            where = "" if len(empty) == len({read.log.run for read in own}) else f" of {', '.join(empty)}"
            notes.append(
                f"{task}: no sample{where} has a score ({headline[task]}); name another key with --score-key KEY."
            )
    return headline
