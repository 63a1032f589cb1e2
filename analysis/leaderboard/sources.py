"""From the paths of the command line to one standing: samples, results files and tables told apart and reconciled."""

from __future__ import annotations

__all__ = ["read_standing", "shipped_columns"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlm_backbones.analysis.leaderboard.claimed import Claim, Entry, visible
from vlm_backbones.analysis.leaderboard.logged import Wanted, logged_claims
from vlm_backbones.analysis.leaderboard.published import read_published, shipped_tables
from vlm_backbones.analysis.leaderboard.published_columns import PublishedColumn, columns_beside, with_columns
from vlm_backbones.analysis.leaderboard.run_results import RunResults, aggregate_claims, has_samples, results_of
from vlm_backbones.analysis.leaderboard.settle import settle
from vlm_backbones.analysis.leaderboard.standing import Standing
from vlm_backbones.analysis.log_files import find_logs
from vlm_backbones.analysis.pairing import Paired
from vlm_backbones.analysis.samples import Logs, load_logs
from vlm_backbones.errors import ConfigError, LogError, nearest


def read_standing(
    paths: Sequence[str],
    *,
    runs: Mapping[str, Path] | None = None,
    wanted: Sequence[Wanted] = (),
    cluster_key: str | None = None,
    score_key: str | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> Standing:
    """Read everything that the paths name.

    A path is the name of a shipped table, a published table (.csv), a results file (.json), a log of samples, or a
    folder with results files and logs. An existing path goes before a shipped name. Beside a shipped table the runs'
    metrics stand in its columns, except those of tasks that `wanted` names.

    Raises
    ------
    LogError, DataError
        If a path holds nothing of the kind, a row is malformed, or sources contradict each other.
    """
    tables, roots = _split(paths)
    wanted = with_columns(wanted, shipped_columns(paths))
    named = dict(runs or {})
    for name, root in named.items():
        if not root.exists():
            raise LogError(f"--run {name}: no file or folder {root}.")
    notes: list[str] = []
    sampled = [path for path in roots if has_samples(path)]
    sampled_named = {name: path for name, path in named.items() if has_samples(path)}
    logs, claims, paired = None, list[Claim](), dict[str, Paired]()
    if sampled or sampled_named:
        logs = load_logs(sampled, sampled_named, cluster_key=cluster_key, score_key=score_key)
        notes += logs.notes
    files = results_of(roots, named, find_logs(sampled, sampled_named) if logs else [], notes)
    entries = _entries(logs, files)
    if logs:
        claims, paired = logged_claims(logs, entries, wanted, bootstrap=bootstrap, seed=seed)
    _refuse_unknown(wanted, logs, files)
    scored = {(claim.entry, claim.benchmark) for claim in claims}
    aggregated = aggregate_claims(files, entries, logs.headline if logs else {}, wanted, scored)
    claims = _reconciled(claims, aggregated, notes)
    claims += [claim for path in tables for claim in read_published(path)]
    if not claims:
        raise LogError("no score was found under these paths. Name a metric with --benchmark NAME=TASK:METRIC.")
    return settle(claims, paired, notes)


def shipped_columns(paths: Sequence[str]) -> list[PublishedColumn]:
    """Return which metrics of lmms-eval stand in the columns of the shipped tables among the paths."""
    shipped = set(shipped_tables().values())
    return [column for table in _split(paths)[0] if table in shipped for column in columns_beside(table)]


def _refuse_unknown(wanted: Sequence[Wanted], logs: Logs | None, files: Sequence[RunResults]) -> None:
    """Raise ConfigError where --benchmark names a task or metric that neither samples nor results files have."""
    metrics: dict[str, set[str]] = {}
    if logs is not None:
        for task, metric in [*logs.metrics.select("task", "metric").unique().iter_rows(), *logs.headline.items()]:
            metrics.setdefault(str(task), set()).add(str(metric))
    for file in files:
        for one in file.results.aggregates:
            metrics.setdefault(one.task, set()).add(one.metric)
    for asked in wanted:
        if asked.optional:
            continue
        option = f"--benchmark {asked.name}={asked.task}"
        if asked.task not in metrics:
            raise ConfigError(f"{option}: no log has the task {asked.task!r}.{nearest(asked.task, metrics)}")
        known = metrics[asked.task]
        if asked.metric is not None and asked.metric not in known:
            raise ConfigError(
                f"{option}:{asked.metric}: task {asked.task} has no metric {asked.metric!r}."
                f"{nearest(asked.metric, known)}"
            )


def _split(paths: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Published tables, and what holds logs."""
    shipped = shipped_tables()
    tables, roots = [], []
    for text in dict.fromkeys(paths):
        path = Path(text)
        if not path.exists() and text in shipped:
            tables.append(shipped[text])
        elif not path.exists():
            raise LogError(f"no file, folder or shipped table {text!r}.{nearest(text, shipped)}")
        elif path.suffix.lower() == ".csv":
            tables.append(path)
        else:
            roots.append(path)
    return tables, roots


def _entries(logs: Logs | None, files: Sequence[RunResults]) -> dict[str, Entry]:
    """Run -> entry; architecture and checkpoint are what the results file says of the model."""
    infos = dict(logs.runs) if logs is not None else {}
    for file in files:
        infos.setdefault(file.info.run, file.info)
    models = {file.info.run: file.results for file in files}
    entries = {}
    for run, info in infos.items():
        model = models.get(run)
        said = (model.model, model.checkpoint) if model else ("", "")
        entries[run] = Entry(visible(run), said[0], visible(info.backbone), said[1], "run")
    return entries


def _reconciled(samples: list[Claim], results: list[Claim], notes: list[str]) -> list[Claim]:
    """Samples go before the results file of the same run, unless that file shows that the score is not their mean."""
    kept = {(claim.entry, claim.benchmark): claim for claim in samples}
    logged = {claim.benchmark: claim.metric for claim in samples}
    for claim in results:
        place = (claim.entry, claim.benchmark)
        own = kept.get(place)
        if own is None:
            usual = logged.get(claim.benchmark, claim.metric)
            name = claim.benchmark if usual == claim.metric else f"{claim.benchmark} ({claim.metric})"
            kept[claim.entry, name] = replace(claim, benchmark=name)
        elif own.metric != claim.metric:
            notes.append(
                f"{own.benchmark}: {own.metric} of the samples is used; {claim.source} also has {claim.metric} = "
                f"{claim.value:g}. Choose with --benchmark NAME=TASK:METRIC."
            )
        elif own.n == claim.n and not _same(own, claim):
            notes.append(
                f"{own.benchmark}, {own.entry.name}: {claim.metric} = {claim.value:g} in {claim.source} is not the "
                "mean of its samples, so it has no interval and is not paired."
            )
            kept[place] = claim
    return list(kept.values())


def _same(samples: Claim, results: Claim) -> bool:
    """Whether both say the same, one perhaps in percent."""
    return any(abs(samples.value * factor - results.value) <= 1e-6 * max(1, abs(results.value)) for factor in (1, 100))
