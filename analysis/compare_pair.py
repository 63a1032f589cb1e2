"""Everything that the table `agreement` says about two runs on one task."""

from __future__ import annotations

__all__ = ["compare_pair", "counts_of"]

import math
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis import pair_measures as pair
from vlm_backbones.analysis.bootstrap import cluster_sums, interval, pattern_bootstrap, sign_flip_p
from vlm_backbones.analysis.options import option_matrix
from vlm_backbones.analysis.pairing import Paired, pair_runs

Floats = NDArray[np.float64]
Counts = tuple[int, int, int, int]


def counts_of(first: Floats, second: Floats) -> Floats:
    """Indicator columns n11, n10, n01, n00 of each question: (questions, 4); zeros where one is missing."""
    both = ~np.isnan(first) & ~np.isnan(second)
    a, b = np.nan_to_num(first), np.nan_to_num(second)
    return np.column_stack([a * b, a * (1 - b), (1 - a) * b, (1 - a) * (1 - b)]) * both[:, None]


def compare_pair(
    part: pl.DataFrame, task: str, run_a: str, run_b: str, draws: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the row of the table `agreement` for two runs on one task, without the family's adjusted p-values."""
    seeds = _seed_groups(part, run_a, run_b)
    paired = pair_runs(part, list(dict.fromkeys([run_a, run_b, *seeds[0], *seeds[1]])))
    correct = paired.correct
    logged = (paired.rows[:2] >= 0).any(axis=0)
    scored: NDArray[np.bool_] = np.asarray(~np.isnan(paired.score[:2]).any(axis=0))
    indicators = counts_of(correct[0], correct[1])
    n11, n10, n01, n00 = (int(x) for x in indicators.sum(axis=0))
    row: dict[str, Any] = {"task": task, "run_a": run_a, "run_b": run_b}
    row |= {"threshold": 0.5 if paired.is_share else math.nan}
    row |= {"n": int(scored.sum()), "n_missing": int((logged & ~scored).sum())}
    row |= {"n11": n11, "n10": n10, "n01": n01, "n00": n00}
    notes: list[str] = []
    if not paired.is_share:
        notes.append("these scores are not right or wrong at a threshold: only the difference is compared")
    row |= _point_values((n11, n10, n01, n00), notes)
    row |= _tests(paired, scored, (n10, n01), rng)
    row |= _resampled(paired, scored, indicators, seeds, draws, rng, notes)
    row |= _answers(part, paired, scored)
    if not row["n"]:
        notes.append("no question was scored by both runs")
    change = (paired.score[1] - paired.score[0])[scored]
    smallest = pair.detectable_difference(change, row["design_effect"])
    if math.isfinite(smallest) and smallest > 0 and paired.is_share:
        notes.append(f"n could show a difference of {100 * smallest:.1f} points (80 % power)")
    return row | {"note": "; ".join(notes)}


def _point_values(counts: Counts, notes: list[str]) -> dict[str, float]:
    n11, n10, n01, n00 = counts
    n = sum(counts)
    value = float(pair.phi(*counts))
    low, high = pair.phi_bounds(*counts)
    if n and math.isnan(value):
        notes.append("a run is right on all questions or on none: phi is undefined")
    union, best = float(pair.ratio(n11 + n10 + n01, n)), float(pair.ratio(n11 + max(n10, n01), n))
    return {
        "phi": value,
        "phi_min": low,
        "phi_max": high,
        "phi_scaled": pair.phi_scaled(value, low, high),
        "kappa": float(pair.kappa(*counts)),
        "jaccard_solved": float(pair.ratio(n11, n11 + n10 + n01)),
        "jaccard_failed": float(pair.ratio(n00, n00 + n10 + n01)),
        "union_accuracy": union,
        "intersection_accuracy": float(pair.ratio(n11, n)),
        "oracle_gain": union - best,
        "negative_flip_rate": float(pair.ratio(n10, n)),
        "positive_flip_rate": float(pair.ratio(n01, n)),
        "mcnemar_p": pair.mcnemar_p(n10, n01) if n else math.nan,
        "yule_q": pair.yule_q(*counts),
    }


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
) -> dict[str, float]:
    """Intervals of phi and of the score difference, and the seed ceiling, all from the same draws."""
    score = np.where(scored, paired.score[:2], 0.0)
    columns = [indicators, (score[1] - score[0])[:, None], scored[:, None].astype(float)]
    groups = [list(combinations([paired.runs.index(run) for run in group], 2)) for group in seeds]
    columns += [counts_of(paired.correct[i], paired.correct[j]) for group in groups for i, j in group]
    sums = cluster_sums(np.column_stack(columns), paired.cluster)
    drawn = pattern_bootstrap(sums, draws, rng)
    out: dict[str, float] = {}
    phis = pair.phi(*drawn[:, :4].T)
    out["phi_low"], out["phi_high"] = interval(phis)
    out["diff"] = float(pair.ratio(sums[:, 4].sum(), scored.sum()))
    out["diff_low"], out["diff_high"] = interval(pair.ratio(drawn[:, 4], drawn[:, 5]))
    out["phi_ceiling"] = math.nan
    if all(groups):
        ceiling, drawn_ceiling = (_ceiling(table[:, 6:], groups) for table in (sums.sum(axis=0)[None], drawn))
        out["phi_ceiling"] = float(ceiling[0])
        low, high = interval(phis - drawn_ceiling)
        gap = float(pair.phi(*sums[:, :4].sum(axis=0))) - float(ceiling[0])
        notes.append(
            f"phi - ceiling {gap:.3f} [{low:.3f}, {high:.3f}]"
            if math.isfinite(gap)
            else "a phi between seeds is not positive: the ceiling is undefined"
        )
    return out


def _seed_groups(part: pl.DataFrame, run_a: str, run_b: str) -> tuple[list[str], list[str]]:
    """All seeds of both backbones; none where the two runs are seeds of one backbone."""
    backbone = dict(part.group_by("run", maintain_order=True).agg(pl.col("backbone").first()).iter_rows())
    if backbone[run_a] == backbone[run_b]:
        return [], []
    first, second = ([run for run, name in backbone.items() if name == backbone[one]] for one in (run_a, run_b))
    return first, second


def _ceiling(table: Floats, groups: list[list[tuple[int, int]]]) -> Floats:
    means, at = [], 0
    for group in groups:
        values = [pair.phi(*table[:, at + 4 * k : at + 4 * k + 4].T) for k in range(len(group))]
        at += 4 * len(group)
        means.append(np.mean(values, axis=0))
    return pair.phi_ceiling(means[0], means[1])


def _answers(part: pl.DataFrame, paired: Paired, scored: NDArray[np.bool_]) -> dict[str, float]:
    """Agreement of the parsed answers themselves, and CAPA where both runs have option probabilities."""
    rows_a, rows_b = paired.rows[0][scored], paired.rows[1][scored]
    wrong = (paired.correct[0] + paired.correct[1])[scored] == 0
    a, b = _answer_codes(part["parsed"], rows_a, rows_b)
    both = (a >= 0) & (b >= 0)
    same = float(pair.ratio((a == b)[both].sum(), both.sum()))
    distinct = int(max(a.max(initial=0), b.max(initial=0))) + 1
    count_a, count_b = (np.bincount(codes[both], minlength=distinct) for codes in (a, b))
    expected = float(pair.ratio(float((count_a * count_b).sum()), float(both.sum()) ** 2))
    first, correct_option, options = option_matrix(part, rows_a)
    second, _, _ = option_matrix(part, rows_b)
    usable = (correct_option >= 0) & (options > 1) & (second.sum(axis=1) > 0)
    width = max(first.shape[1], second.shape[1])
    first, second = (np.pad(p, ((0, 0), (0, width - p.shape[1]))) for p in (first, second))
    return {
        "same_answer_rate": same,
        "answer_kappa": float(pair.ratio(same - expected, 1 - expected)),
        "same_wrong_rate": float(pair.ratio((a == b)[both & wrong].sum(), (both & wrong).sum())),
        "capa": pair.capa(first[usable], second[usable], correct_option[usable], options[usable]),
    }


def _answer_codes(parsed: pl.Series, *rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """A number for each distinct answer of some rows, -1 for none."""
    answers = parsed[np.concatenate(rows)].cast(pl.String)
    codes = answers.cast(pl.Categorical(pl.Categories.random())).to_physical()
    return np.split(codes.cast(pl.Int64).fill_null(-1).to_numpy(), np.cumsum([part.size for part in rows])[:-1])
