"""Which results file belongs to which run, and what it claims."""

from __future__ import annotations

__all__ = ["RunResults", "aggregate_claims", "has_samples", "results_of"]

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm_backbones.analysis._folders import files_below
from vlm_backbones.analysis._lost_files import refuse_changed_results
from vlm_backbones.analysis._run_names import distinct_names
from vlm_backbones.analysis.leaderboard.claimed import Claim, Entry, visible
from vlm_backbones.analysis.leaderboard.logged import Wanted, wanted_of
from vlm_backbones.analysis.leaderboard.results import Aggregate, Results, find_results, read_results
from vlm_backbones.analysis.log_files import LogFile, find_logs
from vlm_backbones.analysis.record import HEADLINE
from vlm_backbones.analysis.run_info import RunInfo, read_run_info
from vlm_backbones.errors import LogError, nearest


@dataclass(frozen=True)
class RunResults:
    """One results file of the clean condition and the run that it belongs to."""

    info: RunInfo
    results: Results


def has_samples(path: Path) -> bool:
    """Whether a file or folder is or holds a log of samples."""
    if path.is_file():
        return path.suffix != ".json"
    return bool(files_below(path, "*samples_*.jsonl*"))


def results_of(
    roots: Sequence[Path], named: Mapping[str, Path], logs: Sequence[LogFile], notes: list[str]
) -> list[RunResults]:
    """Find the results files under the paths; one that lies beside logs of samples belongs to their run.

    Two folders of one name that belong to no RUN folder are two runs: then as many folders above go before as tell them
    apart.

    Raises
    ------
    LogError
        If a path holds neither results nor samples, a file named as such is another tool's, or an evaluation's files
        are gone or damaged.
    """
    beside = {log.path.resolve().parent: log for log in logs}
    found: dict[Path, tuple[str, LogFile, Results]] = {}
    for name, root in [*named.items(), *((None, root) for root in roots)]:
        for path, results in _readable(root, notes):
            folder = path.resolve().parent
            log = beside.get(folder) or find_logs([path])[0]
            if (results.condition or log.condition or "clean") == "clean":
                found.setdefault(path.resolve(), (name or log.run, log, results))
    # A file whose run has samples or a RUN folder has its name from there.
    lone = {
        path: (run, path.parent)
        for path, (run, log, _) in found.items()
        if log.run_dir is None and path.parent not in beside and path.parent.name == run
    }
    named_already = {log.run for log in beside.values()} | {
        run for path, (run, _, _) in found.items() if path not in lone
    }
    shown = distinct_names(list(lone.values()), named_already)
    return [
        RunResults(read_run_info(shown[lone[path]] if path in lone else run, log.run_dir), results)
        for path, (run, log, results) in found.items()
    ]


def _readable(root: Path, notes: list[str]) -> list[tuple[Path, Results]]:
    files = [path for path in find_results(root) if path.suffix == ".json"]
    if not has_samples(root):  # of a folder with samples, the logs were looked at when they were found
        refuse_changed_results(root)
    if not files and not has_samples(root):
        raise LogError(
            f"{root} holds neither *_results.json nor *_samples_*.jsonl. Name a folder of lmms-eval outputs, or a "
            "published table (.csv)."
        )
    out = []
    for path in files:
        results = read_results(path)
        if results is not None:
            out.append((path, results))
        elif root.is_file():
            raise LogError(f"{path} is not a results file of lmms-eval: it has no 'results' beside 'configs'.")
        else:
            notes.append(f"{path}: not a results file of lmms-eval; left out.")
    return out


def aggregate_claims(
    files: Sequence[RunResults],
    entries: Mapping[str, Entry],
    headline: Mapping[str, str],
    wanted: Sequence[Wanted],
    has_score: Container[tuple[Entry, str]] = (),
) -> list[Claim]:
    """One claim a run, task and column, from the file with the most questions, the newest among equals.

    The metric is the one asked for, else the one behind the samples' score, else the first that the task lists. A
    metric that was asked for may be absent where the samples have it: `has_score` holds their (entry, column).
    """
    best: dict[tuple[str, str], tuple[int, str, Results]] = {}
    for file in files:
        for one in file.results.aggregates:
            key, rank = (file.info.run, one.task), (one.n or 0, file.results.path.name)
            if key not in best or rank >= best[key][:2]:
                best[key] = (*rank, file.results)
    claims = []
    for (run, task), (_, _, results) in best.items():
        metrics = {one.metric: one for one in results.aggregates if one.task == task}
        usual = headline.get(task) or HEADLINE.get(task)
        for column in wanted_of(task, wanted):
            name = column.metric or (usual if usual in metrics else next(iter(metrics)))
            if name not in metrics and (column.optional or (entries[run], column.name) in has_score):
                continue
            if name not in metrics:
                raise LogError(f"{results.path}: task {task} has no metric {name!r}.{nearest(name, metrics)}")
            claims.append(_claim(metrics[name], entries[run], column, results.path.name))
    return claims


def _claim(one: Aggregate, entry: Entry, column: Wanted, source: str) -> Claim:
    return Claim(
        entry,
        column.name,
        visible(one.metric),
        one.value,
        "results",
        source,
        unit=column.unit,
        higher_is_better=one.higher_is_better,
        n=one.n,
        is_mean=one.is_mean,
    )
