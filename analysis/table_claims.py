"""Table `claims`: rules read from what was published about newer backbones, judged on this study's checkpoints."""

from __future__ import annotations

__all__ = ["claims"]

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from vlm_backbones.analysis._computed_scores import is_coordinate_task, with_places
from vlm_backbones.analysis.backbone_pair import BackbonePair, blind_drop
from vlm_backbones.analysis.bootstrap import interval, wilson
from vlm_backbones.analysis.claims import Claim, Component, judge_claims
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.confidences import primary_kind
from vlm_backbones.analysis.samples import Logs
from vlm_backbones.analysis.stability_pair import stability_difference
from vlm_backbones.analysis.states import TaskStates
from vlm_backbones.analysis.table_calibration import paired_difference
from vlm_backbones.analysis.table_coordinates import coordinate_rows
from vlm_backbones.analysis.task_runs import by_task

BARN = "Back to the Barn with LLAMAs, arXiv 2604.10985"
EQUIVALENT = 0.02
FAR_BELOW = -0.10
ROOM = 0.10
APPEARS, ABSENT = 0.10, 0.01


def claims(
    logs: Logs,
    states: Mapping[tuple[str, str, str], TaskStates],
    backbones: Sequence[str],
    *,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> pl.DataFrame:
    """Judge every claim for the newest backbone against each older one, task by task.

    Parameters
    ----------
    backbones : the study's, oldest generation first; with fewer than two there is nothing to claim. Runs at the best
        rates of a sweep are left out: the claims are about one recipe.
    """
    runs = {name: [run for run, info in logs.runs.items() if info.group == name] for name in backbones}
    present = [name for name in backbones if runs[name]]
    found: list[Claim] = []
    for task, part in by_task(logs.samples, "clean") if len(present) > 1 else ():
        logged = set(part["run"].unique())
        here = [name for name in present if set(runs[name]) & logged]
        if len(here) < 2:
            continue
        newest = here[-1]
        everything = logs.samples.filter(pl.col("task") == task)
        for older in here[:-1]:
            pair = BackbonePair(part, runs[older], runs[newest], bootstrap, seed)
            found += _of_pair(pair, task, older, newest, everything)
            found += _calibrated(part, task, older, newest, pair, seed)
            found += _stable(logs.samples, states, task, older, newest, pair, seed)
        if is_coordinate_task(part["target"]):
            found.append(
                _appears(with_places(part), task, [(name, [r for r in runs[name] if r in logged]) for name in here])
            )
    return build_table("claims", judge_claims(found))


def _of_pair(pair: BackbonePair, task: str, older: str, newest: str, samples: pl.DataFrame) -> Iterator[Claim]:
    n, n_missing = pair.counts
    if n == 0:
        return
    difference = Component.from_draws("score difference", *pair.score_difference(), above=-EQUIVALENT, below=EQUIVALENT)
    gap = Component.from_draws("phi - ceiling", *pair.phi_minus_ceiling(), below=0.0)
    old, new = ("not defined" if math.isnan(phi) else f"{phi:.3f}" for phi in pair.seed_phis())
    null = f"seed null: phi {old} between seeds of {older}, {new} between those of {newest}"
    missing = ""
    if min(len(pair.older), len(pair.newer)) < 2:
        missing, null = "one seed a backbone: without the seed null, different questions stay undecided", ""
    elif math.isnan(gap.value):
        missing = "a phi between seeds is undefined or not positive, and so is the ceiling"
    yield Claim(
        f"{task}: {newest} solves different questions than {older} rather than more",
        BARN,
        "score difference within 2 points (both one-sided tests) and the whole interval of phi - ceiling under 0; "
        "ceiling = sqrt of the product of the phis between seeds",
        (difference,) if missing else (gap, difference),
        n,
        n_missing,
        null,
        missing,
    )
    yield Claim(
        f"{task}: correctness of {newest} and {older} is negatively correlated",
        BARN,
        "the whole interval of phi under 0",
        (Component.from_draws("phi", *pair.phi(), below=0.0),),
        n,
        n_missing,
        null,
    )
    yield _eye_limited(pair, task, older, newest, samples, difference)


def _eye_limited(
    pair: BackbonePair, task: str, older: str, newest: str, samples: pl.DataFrame, difference: Component
) -> Claim:
    """Little gain means a limit only where there was something to gain: a saturated task leaves it undecided."""
    n, n_missing = pair.counts
    score, drawn = pair.older_score()
    low, high = interval(drawn)
    saturated = (
        f"saturated: {older} scores {score:.3f} [{low:.3f}, {high:.3f}] of 1, so no {100 * ROOM:.0f} points are "
        "left to gain"
    )
    drop, swapped = blind_drop(samples, pair.newer, pair.draws, pair.seed)
    return Claim(
        f"{task}: {newest} gains little over {older} because the eye is the limit",
        BARN,
        "score difference within 2 points, and the score with another question's image at least 10 points lower; "
        "undecided where less than 10 points are left to gain",
        (difference, Component.from_draws("swap - clean", *drop, below=FAR_BELOW)) if swapped else (difference,),
        n,
        n_missing,
        missing="no evaluation under condition swap" if not swapped else saturated if high > 1 - ROOM else "",
    )


def _calibrated(
    part: pl.DataFrame, task: str, older: str, newest: str, pair: BackbonePair, seed: int
) -> Iterator[Claim]:
    claim = f"{task}: the confidence of {newest} is better calibrated than that of {older}"
    rule = "paired differences of smece and of nll both under 0"
    found = paired_difference(part, list(pair.older), list(pair.newer), draws=pair.draws, seed=seed)
    if found is None:
        missing = "fewer than 50 confidences of one kind in common"
        yield Claim(claim, BARN, rule, (), 0, sum(pair.counts), missing=missing)
        return
    values, n, n_missing = found
    parts = tuple(Component.from_draws(name, *values[name], below=0.0) for name in ("smece", "nll"))
    judged = "judged by whether an answer is its target word for word" if primary_kind(part) == "exact" else ""
    yield Claim(claim, BARN, rule, parts, n, n_missing, judged)


def _stable(
    samples: pl.DataFrame,
    states: Mapping[tuple[str, str, str], TaskStates],
    task: str,
    older: str,
    newest: str,
    pair: BackbonePair,
    seed: int,
) -> Iterator[Claim]:
    claim = f"{task}: the inside of {newest} is more stable than that of {older}"
    rule = (
        "paired difference of stability over 0: last prompt token, mean over all kept layers but the embeddings and "
        "over the perturbations"
    )
    found = stability_difference(samples, states, task, list(pair.older), list(pair.newer), seed=seed)
    if found is None:
        missing = "no clean and perturbed hidden states of both: set the study's analysis.states"
        yield Claim(claim, BARN, rule, (), 0, sum(pair.counts), missing=missing)
        return
    value, drawn, n, n_missing, conditions = found
    component = Component.from_draws("stability difference", value, drawn, above=0.0)
    yield Claim(claim, BARN, rule, (component,), n, n_missing, f"mean over {', '.join(conditions)}")


def _appears(part: pl.DataFrame, task: str, runs: Sequence[tuple[str, Sequence[str]]]) -> Claim:
    """Only the newest answers within 100 km: it over 10 %, every older one under 1 %."""
    *older, (newest, newest_runs) = runs
    components = [_rate(part, newest, newest_runs, above=APPEARS)]
    components += [_rate(part, name, of, below=ABSENT) for name, of in older]
    n = min(part.filter(pl.col("run") == run).height for _, of in runs for run in of)
    return Claim(
        f"{task}: only {newest} predicts coordinates",
        BARN,
        "within 100 km: the newest over 10 %, every older one under 1 %, both by the whole Wilson interval; exact "
        "binomial p",
        tuple(components),
        n,
        part["doc_id"].n_unique() - n,
    )


def _rate(
    part: pl.DataFrame, name: str, runs: Sequence[str], *, above: float = -math.inf, below: float = math.inf
) -> Component:
    """Share within 100 km, mean over the seeds; the questions count once, however many seeds answered them."""
    from scipy.stats import binomtest

    right = [[bool(row["within_100_km"]) for row in coordinate_rows(part.filter(pl.col("run") == run))] for run in runs]
    rate, n = float(np.mean([np.mean(of) for of in right])), min(len(of) for of in right)
    low, high = wilson(rate * n, n)
    side, limit = ("greater", above) if math.isfinite(above) else ("less", below)
    p = float(binomtest(round(rate * n), n, limit, alternative=side).pvalue)
    return Component(f"{name} within 100 km", rate, low, high, p, above, below)
