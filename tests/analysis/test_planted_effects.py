"""Intervals and tests on simulated studies whose truth is known: how often do they cover it, how often do they lie?

Two backbones answer the same questions. Whether run r solves question q of cluster k is drawn by a Gaussian copula,
z = a * shared(q) + b * cluster(k, r) + rest < threshold(r), so that accuracy, phi and, with a confidence that
is P(right | shared) moved by a logit, Brier score and overconfidence have exact values by quadrature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import multivariate_normal

from vlm_backbones.analysis import agreement
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, Logs
from vlm_backbones.analysis.table_calibration import calibrate, calibration_pairs
from vlm_backbones.analysis.table_scores import scores
from vlm_backbones.analysis.task_runs import task_runs

RUNS = ("old", "new")
SHARED, OF_CLUSTER = 0.5, 0.3  # variances; what is left is each answer's own


@dataclass(frozen=True)
class Planted:
    """A study of `questions` questions in clusters of `size`, with accuracies and logit shifts of the confidence."""

    accuracy: tuple[float, float]
    shift: tuple[float, float] = (0.0, 0.0)
    questions: int = 400
    size: int = 1

    def draw(self, seed: int) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        cluster = np.arange(self.questions) // self.size
        shared = rng.standard_normal(self.questions)
        frames = []
        for run, accuracy, shift in zip(RUNS, self.accuracy, self.shift, strict=True):
            of_cluster = rng.standard_normal(cluster.max() + 1)[cluster]
            rest = rng.standard_normal(self.questions) * np.sqrt(1 - SHARED - OF_CLUSTER)
            z = np.sqrt(SHARED) * shared + np.sqrt(OF_CLUSTER) * of_cluster + rest
            right = (z < ndtri(accuracy)).astype(float)
            confidence = expit(logit(self._chance(shared, accuracy)) + shift)
            frames.append(_frame(run, right, confidence, cluster))
        return pl.concat(frames)

    def truth(self) -> dict[str, float]:
        """Return the exact value of every statistic that is judged."""
        p = np.array(self.accuracy)
        both = multivariate_normal(cov=[[1, SHARED], [SHARED, 1]]).cdf(ndtri(p))
        phi = (both - p.prod()) / np.sqrt((p * (1 - p)).prod())
        nodes, weights = np.polynomial.hermite_e.hermegauss(201)
        weights = weights / weights.sum()
        brier, over = [], []
        for accuracy, shift in zip(self.accuracy, self.shift, strict=True):
            q = self._chance(nodes, accuracy)
            c = expit(logit(q) + shift)
            brier.append(float(weights @ (q * (1 - c) ** 2 + (1 - q) * c**2)))
            over.append(float(weights @ (c - q)))
        return {"score": p[1], "diff": p[1] - p[0], "phi": float(phi), "brier": brier[1], "overconfidence": over[1],
                "brier diff": brier[1] - brier[0], "overconfidence diff": over[1] - over[0]}  # fmt: skip

    @staticmethod
    def _chance(shared: np.ndarray, accuracy: float) -> np.ndarray:
        """Return P(right | the question's shared difficulty), kept off 0 and 1 as a model's confidence is."""
        p: np.ndarray = ndtr((ndtri(accuracy) - np.sqrt(SHARED) * shared) / np.sqrt(1 - SHARED))
        return np.clip(p, 1e-12, 1 - 1e-12)


def _frame(run: str, right: np.ndarray, confidence: np.ndarray, cluster: np.ndarray) -> pl.DataFrame:
    names = [str(index) for index in range(right.size)]
    known = pl.DataFrame(
        {"run": run, "task": "t", "condition": "clean", "doc_id": names, "doc_key": names, "question": "",
         "cluster": [str(index) for index in cluster], "target": "a", "answer": "a", "parsed": "a", "score": right,
         "correct": right >= 0.5, "confidence": confidence, "confidence_kind": "sequence",
         "sequence_confidence": confidence, "backbone": run, "seed": 0},
    )  # fmt: skip
    return pl.concat([pl.DataFrame(schema=SAMPLE_SCHEMA), known], how="diagonal_relaxed")


def intervals(samples: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """Return each statistic's 95 % interval, as the tables state it."""
    logs = Logs(samples, pl.DataFrame(schema=_METRICS), {"t": "acc"}, {run: RunInfo(run, run, 0, None) for run in RUNS})
    score = scores(logs, bootstrap=2_000).filter(run="new").row(0, named=True)
    pair = agreement(samples, bootstrap=2_000).row(0, named=True)
    found = {"score": (score["ci_low"], score["ci_high"])}
    found |= {name: (pair[f"{name}_low"], pair[f"{name}_high"]) for name in ("diff", "phi")}
    _, ranges = calibrate(samples)
    own = {row["measure"]: row for row in ranges if row["runs"] == "new, sequence"}
    pairs = {row["measure"]: row for row in calibration_pairs(task_runs(samples)).iter_rows(named=True)}
    for name in ("brier", "overconfidence"):
        found[name] = own[name]["ci_low"], own[name]["ci_high"]
        found[f"{name} diff"] = pairs[name]["diff_low"], pairs[name]["diff_high"]
    return found


def covered(planted: Planted, repetitions: int) -> dict[str, float]:
    """Return in which share of simulated studies each statistic's interval covers the truth, and print it."""
    truth = planted.truth()
    counts = dict.fromkeys(truth, 0)
    for seed in range(repetitions):
        for name, (low, high) in intervals(planted.draw(seed)).items():
            counts[name] += low <= truth[name] <= high
    shares = {name: float(count) / repetitions for name, count in counts.items()}
    print(f"{planted}, {repetitions} repetitions: share of the 95 % intervals that cover the truth: {shares}")
    return shares


_METRICS = {"run": pl.String, "task": pl.String, "condition": pl.String, "doc_id": pl.String, "cluster": pl.String,
            "metric": pl.String, "value": pl.Float64}  # fmt: skip


@pytest.mark.parametrize("size", [1, 4])
def test_intervals_cover_the_truth(size: int, repetitions: int) -> None:
    shares = covered(Planted(accuracy=(0.6, 0.7), shift=(0.0, 0.4), size=size), repetitions)
    least, most = _tolerated(0.95, repetitions, 0.93, 0.97)
    assert all(least <= share <= most for share in shares.values()), shares


@pytest.mark.parametrize(
    "planted",
    [
        Planted((0.6, 0.7), (0.0, 0.4), questions=100, size=4),  # 25 clusters
        Planted((0.6, 0.7), (0.0, 0.4), questions=80),
        Planted((0.95, 0.97), (0.0, 0.4), size=4),  # a dozen wrong answers
    ],
    ids=str,
)
def test_intervals_of_small_studies_cover_little_less(planted: Planted, repetitions: int) -> None:
    """Percentile intervals are known to be somewhat short there; docs/reliability.md says how much."""
    shares = covered(planted, repetitions)
    least, _ = _tolerated(0.9, repetitions, 0.88, 1.0)
    assert all(least <= share for share in shares.values()), shares


def test_the_cluster_test_keeps_its_level_where_mcnemar_does_not(repetitions: int) -> None:
    planted = Planted(accuracy=(0.7, 0.7), size=4)
    pairs = [agreement(planted.draw(seed), bootstrap=100).row(0, named=True) for seed in range(repetitions)]
    by_cluster, by_question = (float(np.mean([pair[name] <= 0.05 for pair in pairs])) for name in ("p", "mcnemar_p"))
    print(f"{repetitions} studies without a difference: p <= .05 in {by_cluster} by clusters, {by_question} McNemar")
    assert by_cluster <= _most_errors(repetitions)
    assert by_question > 0.07


def test_holm_keeps_the_error_of_a_family(repetitions: int) -> None:
    # three runs alike: three pairs, no difference anywhere
    alone, rejected = np.arange(200), 0
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        runs = [_frame(name, (rng.random(200) < 0.7).astype(float), np.full(200, 0.7), alone) for name in "abc"]
        pairs = agreement(pl.concat(runs), bootstrap=100)
        assert pairs.height == 3
        rejected += bool((pairs["p_holm"] <= 0.05).any())
    print(f"{repetitions} families of three pairs without a difference: Holm rejects in {rejected / repetitions}")
    assert rejected / repetitions <= _most_errors(repetitions)


def _most_errors(repetitions: int) -> float:
    """Return the level itself for the thousand repetitions that it is asked of; fewer are left to chance as well."""
    return 0.05 if repetitions >= 1000 else _tolerated(0.05, repetitions, 0.0, 0.05)[1]


def _tolerated(share: float, repetitions: int, low: float, high: float) -> tuple[float, float]:
    """Return the ends that are asked for, wider where few repetitions allow chance more."""
    width = 3.3 * np.sqrt(share * (1 - share) / repetitions)
    return min(low, share - width), max(high, share + width)


def test_the_truth_of_the_simulation_is_what_large_samples_show() -> None:
    planted = Planted(accuracy=(0.6, 0.7), shift=(0.0, 0.4), questions=400_000, size=4)
    truth, samples = planted.truth(), planted.draw(0)
    old, new = (samples.filter(run=run) for run in RUNS)
    a, b = (frame["score"].to_numpy() for frame in (old, new))
    brier = [float(((frame["confidence"] - frame["score"]) ** 2).mean()) for frame in (old, new)]  # type: ignore[arg-type]
    over = [float((frame["confidence"] - frame["score"]).mean()) for frame in (old, new)]  # type: ignore[arg-type]
    assert b.mean() == pytest.approx(truth["score"], abs=4e-3)
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(truth["phi"], abs=6e-3)
    assert brier[1] - brier[0] == pytest.approx(truth["brier diff"], abs=2e-3)
    assert over[1] - over[0] == pytest.approx(truth["overconfidence diff"], abs=4e-3)
    assert (brier[1], over[1]) == pytest.approx((truth["brier"], truth["overconfidence"]), abs=4e-3)
