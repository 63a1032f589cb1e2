"""A difference between backbones is told from the noise of their seeds."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, Logs
from vlm_backbones.analysis.seed_noise import seed_noise
from vlm_backbones.analysis.table_seeds import seeds


def test_a_hand_derived_difference() -> None:
    """Two questions, two seeds: means .5, 1 and 0, .5; every part of the variance by hand."""
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 0.0]])
    found = seed_noise(a, b, np.arange(2))
    assert found.diff == pytest.approx(0.25 - 0.75)
    # changes by question: .5 - 1, 0 - .5: no variance. Seed means of each: variance .125, over two seeds .0625.
    # rest: y - seed mean - question mean + mean = +-.25 four times: sum of squares .25, one degree of freedom,
    # over two seeds and two questions .0625; so .0625 + .0625 - .0625 - .0625 = 0, and the largest part stands
    assert found.sd_a == found.sd_b == pytest.approx(math.sqrt(0.125))
    df = 0.0625**2 / (4 * 0.0625**2)
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(2 * student.sf(0.5 / 0.25, df))


def test_the_interval_ends_where_the_scale_ends() -> None:
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 0.0], [1.0, 0.0]])
    free, cut = (seed_noise(a, b, np.arange(2), largest=largest) for largest in (math.inf, 1.0))
    assert free.low < -1 < 1 < free.high
    assert (cut.low, cut.high, cut.p, cut.df) == (-1.0, 1.0, free.p, free.df)


def test_with_seeds_that_agree_it_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random(50), rng.random(50)
    found = seed_noise(np.stack([one, one]), np.stack([two, two]), np.arange(50))
    change = two - one
    assert found.p == pytest.approx(2 * student.sf(abs(change.mean()) / (change.std(ddof=1) / math.sqrt(50)), 49))


def drawn(rng: np.random.Generator, threshold: float, spread: float, seeds: int, cluster: np.ndarray) -> np.ndarray:
    """Right answers of a backbone's seeds; `spread` moves a whole seed."""
    shared, of_cluster = rng.standard_normal(cluster.size), rng.standard_normal(cluster.max() + 1)[cluster]
    own = rng.standard_normal((seeds, cluster.size))
    z = np.sqrt(0.4) * shared + np.sqrt(0.3) * of_cluster + np.sqrt(0.3) * own
    right: np.ndarray = (z < threshold + spread * rng.standard_normal((seeds, 1))).astype(float)
    return right


@pytest.mark.parametrize(("spread", "seeds_each"), [(0.0, 3), (0.1, 3), (0.3, 3), (0.3, 5)])
def test_the_interval_covers_the_difference_over_all_seeds(spread: float, seeds_each: int, repetitions: int) -> None:
    repetitions = 4 * repetitions
    thresholds = ndtri(0.6), ndtri(0.7)
    truth = float(np.diff(ndtr(np.array(thresholds) / math.sqrt(1 + spread**2)))[0])
    cluster = np.arange(400) // 4
    covered = of_questions = 0
    for number in range(repetitions):
        rng = np.random.default_rng(number)
        a, b = (drawn(rng, threshold, spread, seeds_each, cluster) for threshold in thresholds)
        found = seed_noise(a, b, cluster)
        covered += found.low <= truth <= found.high
        change = b.mean(0) - a.mean(0)
        sums = np.bincount(cluster, weights=change - change.mean())
        of_questions += abs(found.diff - truth) <= 1.96 * math.sqrt((sums**2).sum()) / 400
    shares = covered / repetitions, of_questions / repetitions
    print(f"spread {spread}, {seeds_each} seeds, {repetitions} studies: {shares[0]} cover, questions alone {shares[1]}")
    chance = 3.3 * math.sqrt(0.05 * 0.95 / repetitions)
    assert 0.93 - chance <= shares[0] <= 0.99 + chance
    if spread > 0.2:
        assert shares[1] < 0.85  # what an interval over questions alone would claim


def test_the_table_names_seeds_and_leaves_single_ones_out() -> None:
    rng = np.random.default_rng(0)
    runs = {
        name: RunInfo(name, name.split("-")[0], int(name[-1]), None) for name in ("a-0", "a-1", "b-0", "b-1", "c-0")
    }
    frames = [
        pl.DataFrame(
            {"run": run, "task": "t", "condition": "clean", "doc_id": [str(i) for i in range(100)],
             "doc_key": [str(i) for i in range(100)], "cluster": [str(i // 2) for i in range(100)], "question": "",
             "target": "x", "score": (rng.random(100) < (0.9 if info.backbone == "b" else 0.3)).astype(float),
             "correct": True, "backbone": info.backbone, "seed": info.seed}
        )
        for run, info in runs.items()
    ]  # fmt: skip
    samples = pl.concat([pl.DataFrame(schema=SAMPLE_SCHEMA), *frames], how="diagonal_relaxed")
    (row,) = seeds(Logs(samples, pl.DataFrame(), {"t": "score"}, runs, [])).to_dicts()
    assert (row["backbone_a"], row["backbone_b"], row["seeds_a"], row["seeds_b"], row["n"]) == ("a", "b", 2, 2, 100)
    assert row["diff_low"] < row["diff"] == pytest.approx(0.6, abs=0.1)
    assert row["p"] == row["p_holm"]  # one pair
