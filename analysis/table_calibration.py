"""Tables `calibration`, `calibration_pairs` and `reliability`."""

from __future__ import annotations

__all__ = ["FEWEST", "calibrate", "calibration", "calibration_pairs", "paired_difference", "reliability"]

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis import calibration_measures as measure
from vlm_backbones.analysis._computed_scores import is_coordinate_task
from vlm_backbones.analysis._sample_frame import where
from vlm_backbones.analysis.bootstrap import cluster_weights, interval
from vlm_backbones.analysis.calibration_draws import RANK_GRID, Side, aurc_draws, mean_known, measure_draws
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.confidences import Confidences, column_of, kinds_of, primary_kind, take_confidences
from vlm_backbones.analysis.exact_words import is_graded
from vlm_backbones.analysis.interval_rows import ALL_TYPES, SAMPLE_DRAWS, IntervalRow, interval_rows
from vlm_backbones.analysis.pairing import Paired, cluster_codes, pair_runs
from vlm_backbones.analysis.smooth_ece import smece
from vlm_backbones.analysis.task_runs import TaskRuns, by_task, runs_of
from vlm_backbones.analysis.temperature import HeldOut, at_limit, held_out, in_first_half

Floats = NDArray[np.float64]

FEWEST = 50
_JUDGED_EXACT = "by whether the answer is its target word for word"
_TYPE_DRAWS = 300


def calibration(samples: pl.DataFrame, *, condition: str = "clean", seed: int = 0) -> pl.DataFrame:
    """Measure how well each run's confidence is calibrated, by task, question type and kind of confidence.

    Fewer than 50 confidences give NaN and a note. `per_token` rows cannot be compared across backbones.
    """
    return calibrate(samples, condition=condition, draws=0, seed=seed)[0]


def calibrate(
    samples: pl.DataFrame, *, condition: str = "clean", draws: int = SAMPLE_DRAWS, seed: int = 0
) -> tuple[pl.DataFrame, list[IntervalRow]]:
    """The table `calibration`, and the rows of `intervals` for its measures ("RUN, KIND" as their run).

    Binned errors have none, since their bias is as large as their spread (`calibration_p` stands beside them), nor has
    `per_token`, which is compared with nothing. A question type gets at most 300 draws, all questions 1,000.
    """
    rows: list[dict[str, Any]] = []
    ranges: list[IntervalRow] = []
    for task, part in by_task(samples, condition):
        kinds, event = kinds_of(part), _event_note(part)
        for run in runs_of(part):
            of_run = where(part, run=run)
            for question_type, group in _question_types(of_run):
                for kind in kinds:
                    taken = take_confidences(group, kind)
                    if not len(taken):
                        continue
                    start = {"run": run, "task": task, "question_type": question_type, "confidence_kind": kind}
                    rows.append(start | _measures(group, taken, kind, event, np.random.default_rng(seed)))
                    if draws and kind != "per_token" and len(taken) >= FEWEST:
                        place = {"table": "calibration", "task": task, "runs": f"{run}, {kind}"}
                        most = min(draws, SAMPLE_DRAWS if question_type == ALL_TYPES else _TYPE_DRAWS)
                        ranges += _ranges(place | {"question_type": question_type}, group, taken, most, seed)
    return build_table("calibration", rows), ranges


def _ranges(
    place: dict[str, Any], part: pl.DataFrame, taken: Confidences, draws: int, seed: int
) -> Iterator[IntervalRow]:
    """Intervals over clusters."""
    cluster = cluster_codes(part["cluster"].gather(taken.rows))
    weights, group = cluster_weights(cluster, draws, np.random.default_rng(seed))
    side = Side(taken.confidence, taken.correct, taken.brier, taken.nll)
    values, drawn = measure_draws(side, group, weights)
    values |= {"aurc": measure.aurc(side.confidence, side.correct)[0]}
    drawn |= {"aurc": aurc_draws(side, group, weights)}
    counts = {"n": len(taken), "n_missing": taken.n_missing}
    yield from interval_rows(place, values, drawn, counts)


def _question_types(part: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    yield ALL_TYPES, part
    types = part["question_type"].drop_nulls().unique().sort().to_list()
    for question_type in types if len(types) > 1 else ():
        yield question_type, part.filter(pl.col("question_type") == question_type)


def _event_note(part: pl.DataFrame) -> str:
    """What stands beside the probability of a whole answer where right is a threshold on a score; else empty."""
    if not is_graded(part):
        return ""
    right = "within 100 km" if is_coordinate_task(part["target"]) else "a score of 0.5 or more"
    return (
        f"right means {right}, the confidence is the probability of these very words: their difference is no over- or "
        "underconfidence of the model"
    )


def _measures(
    part: pl.DataFrame, taken: Confidences, kind: str, event: str, rng: np.random.Generator
) -> dict[str, Any]:
    c, y = taken.confidence, taken.correct
    row: dict[str, Any] = {"n": len(taken), "n_missing": taken.n_missing, "accuracy": float(y.mean())}
    notes = ["not comparable across backbones: their tokenizers differ"] if kind == "per_token" else []
    notes += [event] if event and kind == "sequence" else []
    notes += ["right means the target's very words (a place: to the decimals of the answer)"] if kind == "exact" else []
    if taken.without_target:
        notes.append(f"{taken.without_target} targets are none of the options: left out of brier, nll and temperature")
    if len(taken) < FEWEST:
        notes.append(f"fewer than {FEWEST} confidences")
        return row | {"note": "; ".join(notes)}
    if len(set(y.tolist())) < 2:
        notes.append("all right or all wrong: auroc is undefined")
    if np.ptp(c) == 0:
        notes.append("the confidence is constant")
    area, excess = measure.aurc(c, y)
    row |= {
        "mean_confidence": float(c.mean()),
        "overconfidence": float(c.mean() - y.mean()),
        "ece": measure.ece(c, y),
        "ece_debiased": measure.ece_debiased(c, y),
        "calibration_p": measure.calibration_p(c, y, rng),
        "ece_mass": measure.ece_mass(c, y),
        "mce": measure.mce(c, y),
        "rmsce": measure.rmsce(c, y),
        "smece": smece(c, y),
        "brier": mean_known(taken.brier),
        "nll": mean_known(taken.nll),
        "auroc": measure.auroc(c, y),
        "aurc": area,
        "e_aurc": excess,
    }
    row |= {f"selective_{share}": measure.selective_accuracy(c, y, share / 100) for share in (25, 50, 75)}
    held = _held_out(part, taken)
    if math.isnan(held.temperature):
        notes.append("temperature is not defined: half of the clusters is all right, all wrong or empty")
    elif limit := at_limit(held.temperature):
        notes.append(f"the temperature ran into its limit of {limit}: none mends this confidence")
    return row | asdict(held) | {"note": "; ".join(notes)}


def _held_out(part: pl.DataFrame, taken: Confidences) -> HeldOut:
    first = in_first_half([str(name) for name in part["cluster"].gather(taken.rows.tolist())])
    if taken.options is None:
        return held_out(taken.confidence, taken.correct, first)
    known = taken.options.right >= 0
    return held_out(taken.confidence[known], taken.correct[known], first[known], taken.options.where(known))


def reliability(samples: pl.DataFrame, *, condition: str = "clean") -> pl.DataFrame:
    """Return the 15 bins behind the reliability diagram of each run and task; no bin is dropped."""
    rows: list[dict[str, Any]] = []
    edges = np.linspace(0, 1, measure.BINS + 1)
    for task, part in by_task(samples, condition):
        kind = primary_kind(part)
        for run in runs_of(part):
            taken = take_confidences(where(part, run=run), kind)
            if len(taken) < FEWEST:
                continue
            count, mean, accuracy = measure.reliability_bins(taken.confidence, taken.correct)
            for index in range(measure.BINS):
                place = {"run": run, "task": task, "bin": index, "low": edges[index], "high": edges[index + 1]}
                value = {"n": int(count[index]), "confidence": mean[index], "accuracy": accuracy[index]}
                rows.append(place | value | {"n_missing": taken.n_missing})
    return build_table("reliability", rows)


def calibration_pairs(tasks: Sequence[TaskRuns], *, bootstrap: int = 10_000, seed: int = 0) -> pl.DataFrame:
    """Paired differences (run_b - run_a) of each measure with cluster-bootstrap intervals.

    brier, nll, auroc, smece and overconfidence (points of mean confidence over accuracy).

    Both runs are judged on the questions for which both have a confidence of the same kind. These measures need the
    samples themselves, so at most 1,000 draws are taken.
    """
    rows: list[dict[str, Any]] = []
    for of in tasks:
        kind = primary_kind(of.part)
        if of.part.select(column_of(kind).count()).item() < FEWEST:
            continue
        sides = [_side(of.part, kind, rows) for rows in of.paired.rows]
        drawn = _Draws(sides, of.paired, min(bootstrap, SAMPLE_DRAWS), seed, _JUDGED_EXACT if kind == "exact" else "")
        for (i, a), (j, b) in combinations(enumerate(of.runs), 2):
            rows += [{"task": of.task, "run_a": a, "run_b": b, **row} for row in drawn.differences(i, j)]
    return build_table("calibration_pairs", rows)


def paired_difference(
    part: pl.DataFrame, first: list[str], second: list[str], *, draws: int, seed: int = 0
) -> tuple[dict[str, tuple[float, Floats]], int, int] | None:
    """Differences (second - first) of the measures of `calibration_pairs`, mean over the seeds, pair by pair.

    Returns
    -------
    measure -> (value, its draws), questions of the smallest pair, and questions left out of it; None where a pair has
    fewer than 50 confidences of one kind in common.
    """
    paired, kind = pair_runs(part, [*first, *second]), primary_kind(part)
    sides = [_side(part, kind, rows_of) for rows_of in paired.rows]
    drawn = _Draws(sides, paired, min(draws, SAMPLE_DRAWS), seed)
    found = [drawn.difference(i, len(first) + i) for i in range(min(len(first), len(second)))]
    known = [pair for pair in found if pair is not None]
    if len(known) < len(found):
        return None
    n, n_missing = min((n, n_missing) for _, n, n_missing in known)
    means = {
        name: (float(np.mean([pair[name][0] for pair, *_ in known])), np.mean([pair[name][1] for pair, *_ in known], 0))
        for name in known[0][0]
    }
    return means, n, n_missing


class _Draws:
    """Measures of each run on each set of questions, computed once; all runs of a task share the same draws."""

    def __init__(self, sides: list[Side], paired: Paired, draws: int, seed: int, note: str = "") -> None:
        self._sides = sides
        self._logged = paired.rows >= 0
        self._weights, self._group = cluster_weights(paired.cluster, draws, np.random.default_rng(seed))
        self._known: dict[tuple[int, bytes], tuple[dict[str, float], dict[str, Floats]]] = {}
        joined = self._weights.shape[1] < np.unique(paired.cluster).size
        grid = (
            f"interval from {self._weights.shape[1]:,} random groups of clusters, auroc and smece on a grid of "
            f"{RANK_GRID:,} confidences"
        )
        self._note = "; ".join([*([note] if note else []), *([grid] if joined else [])])

    def differences(self, i: int, j: int) -> Iterator[dict[str, Any]]:
        """Rows of the pair, none where both have fewer than 50 confidences of the kind in common."""
        found = self.difference(i, j)
        if found is None:
            return
        values, n, n_missing = found
        for name, (value, drawn) in values.items():
            low, high = interval(drawn)
            row = {"measure": name, "diff": value, "diff_low": low, "diff_high": high, "note": self._note}
            yield row | {"n": n, "n_missing": n_missing}

    def difference(self, i: int, j: int) -> tuple[dict[str, tuple[float, Floats]], int, int] | None:
        """Measure -> (difference, its draws), with n and n_missing; None for fewer than 50 confidences in common."""
        both = ~np.isnan(self._sides[i].confidence) & ~np.isnan(self._sides[j].confidence)
        logged = self._logged[i] | self._logged[j]
        if both.sum() < FEWEST:
            return None
        (a, a_draws), (b, b_draws) = (self._values(index, both) for index in (i, j))
        values = {name: (b[name] - a[name], b_draws[name] - a_draws[name]) for name in a}
        return values, int(both.sum()), int((logged & ~both).sum())

    def _values(self, index: int, where: NDArray[np.bool_]) -> tuple[dict[str, float], dict[str, Floats]]:
        key = (index, where.tobytes())
        if key not in self._known:
            self._known[key] = measure_draws(self._sides[index].where(where), self._group[where], self._weights)
        return self._known[key]


def _side(part: pl.DataFrame, kind: str, rows: NDArray[np.int64]) -> Side:
    """One run's confidence, outcome and losses, laid out by paired question; NaN where it has none."""
    present = np.flatnonzero(rows >= 0)
    taken = take_confidences(part[rows[present]], kind)
    laid_out = np.full((4, rows.size), np.nan)
    laid_out[:, present[taken.rows]] = taken.confidence, taken.correct, taken.brier, taken.nll
    return Side(*laid_out)
