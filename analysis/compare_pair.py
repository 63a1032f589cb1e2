"""Everything that the table `agreement` says about two runs on one task."""

from __future__ import annotations

__all__ = ["Comparison", "compare_pair", "counts_of"]

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis import pair_measures as pair
from vlm_backbones.analysis.answer_agreement import AnswerAgreement, answer_codes
from vlm_backbones.analysis.bootstrap import cluster_sums, interval, pattern_bootstrap, sign_flip_p
from vlm_backbones.analysis.claims import Component
from vlm_backbones.analysis.interval_rows import IntervalRow, interval_rows
from vlm_backbones.analysis.options import option_matrix
from vlm_backbones.analysis.pairing import Paired
from vlm_backbones.analysis.task_runs import TaskRuns

Floats = NDArray[np.float64]
Counts = tuple[int, int, int, int]

_HAS_COLUMNS = frozenset(["phi", "phi_min", "phi_max"])
"""Measures of the counts whose interval, or whose reading as a bound, stands in the table `agreement` itself."""


@dataclass(frozen=True)
class Comparison:
    """The runs of a task, and what every pair of them needs of its samples, found once."""

    of: TaskRuns

    @cached_property
    def backbones(self) -> dict[str, str]:
        """Run -> backbone."""
        firsts = self.of.part.select("run", "backbone").group_by("run", maintain_order=True)
        return dict(firsts.first().iter_rows())

    @cached_property
    def answers(self) -> NDArray[np.int32]:
        """A code of the parsed answer of each sample."""
        return answer_codes(self.of.part["parsed"])

    @cached_property
    def options(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]] | None:
        """Option probabilities, right option and number of options of each sample; None where no sample has any."""
        part = self.of.part
        if part["option_logprobs"].null_count() == part.height:
            return None
        # run by run: the options of all at once are many times the size of the result
        by_run = part.with_row_index("row").group_by("run", maintain_order=True).agg("row")["row"]
        found = [(rows.to_numpy(), *option_matrix(part, rows.to_list())) for rows in by_run]
        width = max(shares.shape[1] for _, shares, _, _ in found)
        all_shares = np.zeros((part.height, width))
        all_right, all_counts = np.zeros((2, part.height), dtype=np.int64)
        for rows, shares, right, count in found:
            all_shares[rows, : shares.shape[1]], all_right[rows], all_counts[rows] = shares, right, count
        return all_shares, all_right, all_counts


def counts_of(first: Floats, second: Floats) -> Floats:
    """Indicator columns n11, n10, n01, n00 of each question: (questions, 4); zeros where one is missing."""
    both = ~np.isnan(first) & ~np.isnan(second)
    a, b = np.nan_to_num(first), np.nan_to_num(second)
    return np.column_stack([a * b, a * (1 - b), (1 - a) * b, (1 - a) * (1 - b)]) * both[:, None]


def compare_pair(
    runs: Comparison, run_a: str, run_b: str, draws: int, rng: np.random.Generator
) -> tuple[dict[str, Any], list[IntervalRow]]:
    """Return the row of the table `agreement` for two runs on one task, without the family's adjusted p-values, and
    the rows of `intervals` for its measures."""
    seeds = _seed_groups(runs.backbones, run_a, run_b)
    paired = runs.of.pairs(list(dict.fromkeys([run_a, run_b, *seeds[0], *seeds[1]])))
    logged = (paired.rows[:2] >= 0).any(axis=0)
    scored: NDArray[np.bool_] = np.asarray(~np.isnan(paired.score[:2]).any(axis=0))
    indicators = counts_of(*paired.correct[:2])
    n11, n10, n01, n00 = (int(x) for x in indicators.sum(axis=0))
    size = {"n": int(scored.sum()), "n_missing": int((logged & ~scored).sum())}
    row: dict[str, Any] = {"task": runs.of.task, "run_a": run_a, "run_b": run_b}
    row |= {"threshold": 0.5 if paired.is_share else math.nan} | size
    row |= {"n11": n11, "n10": n10, "n01": n01, "n00": n00}
    notes: list[str] = []
    if not paired.is_share:
        notes.append("these scores are not right or wrong at a threshold: only the difference is compared")
    row |= _point_values((n11, n10, n01, n00), notes)
    row |= _tests(paired, scored, (n10, n01), rng)
    resampled, drawn = _resampled(paired, scored, indicators, seeds, draws, rng, notes)
    answers = _answers(runs, paired, scored)
    row |= resampled | answers.values
    if not row["n"]:
        notes.append("no question was scored by both runs")
    change = (paired.score[1] - paired.score[0])[scored]
    smallest = pair.detectable_difference(change, row["design_effect"])
    if math.isfinite(smallest) and smallest > 0 and paired.is_share:
        notes.append(f"n could show a difference of {100 * smallest:.1f} points (80 % power)")
    place = {"table": "agreement", "task": runs.of.task, "runs": f"{run_a} + {run_b}"}
    rows = list(interval_rows(place, {name: row[name] for name in drawn}, drawn, size))
    rows += _answer_rows(place, answers, sum(size.values()), rng.spawn(1)[0])
    return row | {"note": "; ".join(notes)}, rows


def _answer_rows(
    place: dict[str, Any], answers: AnswerAgreement, logged: int, rng: np.random.Generator
) -> list[IntervalRow]:
    if not any(answers.counts.values()):
        return []
    drawn = answers.drawn(rng)
    rows: list[IntervalRow] = []
    for name, n in answers.counts.items():
        counts = {"n": n, "n_missing": logged - n}
        rows += interval_rows(place, {name: answers.values[name]}, drawn, counts)
    return rows


def _point_values(counts: Counts, notes: list[str]) -> dict[str, float]:
    _, n10, n01, _ = counts
    values = {name: float(value) for name, value in pair.count_measures(*counts).items()}
    if sum(counts) and math.isnan(values["phi"]):
        notes.append("a run is right on all questions or on none: phi is undefined")
    return values | {"mcnemar_p": pair.mcnemar_p(n10, n01) if sum(counts) else math.nan}


def _tests(
    paired: Paired, scored: NDArray[np.bool_], flips: tuple[int, int], rng: np.random.Generator
) -> dict[str, Any]:
    """The p-value that belongs to `diff`: of the scores themselves where they are not just right or wrong."""
    if not scored.any():
        return {"test": None, "p": math.nan, "design_effect": math.nan}
    change = (paired.score[1] - paired.score[0])[scored]
    is_graded = not np.isin(paired.score[:2][:, scored], (0.0, 1.0)).all()
    _, cluster = np.unique(paired.cluster[scored], return_inverse=True)
    if int(cluster.max()) + 1 == cluster.size:
        if is_graded:
            return {"test": "sign-flip", "p": sign_flip_p(change, rng), "design_effect": 1.0}
        return {"test": "mcnemar", "p": pair.mcnemar_p(*flips), "design_effect": 1.0}
    p = sign_flip_p(np.bincount(cluster, weights=change).astype(float), rng)
    centred = np.bincount(cluster, weights=change - change.mean())
    effect = float(pair.ratio((centred**2).sum(), ((change - change.mean()) ** 2).sum()))
    return {"test": "cluster sign-flip", "p": p, "design_effect": effect}


def _resampled(
    paired: Paired,
    scored: NDArray[np.bool_],
    indicators: Floats,
    seeds: tuple[list[str], list[str]],
    draws: int,
    rng: np.random.Generator,
    notes: list[str],
) -> tuple[dict[str, float], dict[str, Floats]]:
    """Intervals of phi and the difference, and the seed ceiling; and the other measures on the same draws."""
    score = np.where(scored, paired.score[:2], 0.0)
    columns = [indicators, (score[1] - score[0])[:, None], scored[:, None].astype(float)]
    groups = [list(combinations([paired.runs.index(run) for run in group], 2)) for group in seeds]
    columns += [counts_of(paired.correct[i], paired.correct[j]) for group in groups for i, j in group]
    sums = cluster_sums(np.column_stack(columns), paired.cluster)
    drawn = pattern_bootstrap(sums, draws, rng)
    measures = pair.count_measures(*drawn[:, :4].T)
    out: dict[str, float] = {}
    out["phi_low"], out["phi_high"] = interval(measures["phi"])
    out["diff"] = float(pair.ratio(sums[:, 4].sum(), scored.sum()))
    out["diff_low"], out["diff_high"] = interval(pair.ratio(drawn[:, 4], drawn[:, 5]))
    out["phi_ceiling"] = math.nan
    others = {name: values for name, values in measures.items() if name not in _HAS_COLUMNS}
    if all(groups):
        ceiling, drawn_ceiling = (_ceiling(table[:, 6:], groups) for table in (sums.sum(axis=0)[None], drawn))
        out["phi_ceiling"], others["phi_ceiling"] = float(ceiling[0]), drawn_ceiling
        low, high = interval(measures["phi"] - drawn_ceiling)
        gap = float(pair.phi(*sums[:, :4].sum(axis=0))) - float(ceiling[0])
        notes.append(
            str(Component("phi - ceiling", gap, low, high, math.nan))
            if math.isfinite(gap)
            else "a phi between seeds is not positive: the ceiling is undefined"
        )
    return out, others


def _seed_groups(backbones: dict[str, str], run_a: str, run_b: str) -> tuple[list[str], list[str]]:
    """All seeds of both backbones; none where the two runs are seeds of one backbone."""
    if backbones[run_a] == backbones[run_b]:
        return [], []
    first, second = ([run for run, name in backbones.items() if name == backbones[one]] for one in (run_a, run_b))
    return first, second


def _ceiling(table: Floats, groups: list[list[tuple[int, int]]]) -> Floats:
    means, at = [], 0
    for group in groups:
        values = [pair.phi(*table[:, at + 4 * k : at + 4 * k + 4].T) for k in range(len(group))]
        at += 4 * len(group)
        means.append(np.mean(values, axis=0))
    return pair.phi_ceiling(means[0], means[1])


def _answers(runs: Comparison, paired: Paired, scored: NDArray[np.bool_]) -> AnswerAgreement:
    """The parsed answers themselves, and CAPA's terms where both runs have option probabilities."""
    rows_a, rows_b = paired.rows[0][scored], paired.rows[1][scored]
    terms = np.full((rows_a.size, 4), np.nan)
    if runs.options is not None:
        shares, right, count = runs.options
        usable = (right[rows_a] >= 0) & (count[rows_a] > 1)
        usable &= (count[rows_a] == count[rows_b]) & (right[rows_a] == right[rows_b])  # the same options
        first, second = rows_a[usable], rows_b[usable]
        terms[usable] = pair.capa_terms(shares[first], shares[second], right[first], count[first])
    wrong = (paired.correct[0] + paired.correct[1])[scored] == 0
    cluster = np.unique(paired.cluster[scored], return_inverse=True)[1].astype(np.int64)
    return AnswerAgreement(runs.answers[rows_a], runs.answers[rows_b], wrong, terms, cluster)
