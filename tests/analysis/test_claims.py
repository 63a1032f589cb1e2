"""Verdicts follow the rules: supported, not supported, undecided, and one Holm family over all."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from vlm_backbones.analysis.backbone_pair import BackbonePair, blind_drop
from vlm_backbones.analysis.claims import Claim, Component, judge_claims
from vlm_backbones.analysis.run_info import RunInfo
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, Logs
from vlm_backbones.analysis.table_claims import claims


def claim(*components: Component, missing: str = "") -> Claim:
    return Claim("c", "s", "r", components, 100, 0, missing=missing)


def around(value: float, spread: float, **region: float) -> Component:
    """Draws evenly over value +- spread."""
    return Component.from_draws("x", value, np.linspace(value - spread, value + spread, 2001), **region)


@pytest.mark.parametrize(
    ("components", "missing", "verdict"),
    [
        ([around(-0.3, 0.1, below=0)], "", "supported"),
        ([around(-0.05, 0.1, below=0)], "", "undecided"),
        ([around(0.3, 0.1, below=0)], "", "not supported"),
        ([around(-0.3, 0.1, below=0), around(0.0, 0.01, above=-0.02, below=0.02)], "", "supported"),
        ([around(-0.3, 0.1, below=0), around(0.0, 0.03, above=-0.02, below=0.02)], "", "undecided"),
        ([around(-0.3, 0.1, below=0), around(0.05, 0.01, above=-0.02, below=0.02)], "", "not supported"),
        ([around(0.3, 0.1, below=0)], "no second seed", "undecided"),
        ([Component.from_draws("x", math.nan, np.full(100, math.nan), below=0)], "", "undecided"),
    ],
)
def test_the_verdict_follows_the_intervals(components: list[Component], missing: str, verdict: str) -> None:
    (row,) = judge_claims([claim(*components, missing=missing)])
    assert row["verdict"] == verdict
    assert missing in row["note"]


def test_p_is_the_largest_components_and_holm_goes_over_all_claims() -> None:
    sure, less = Component("a", -1, -2, -0.5, 0.001, below=0), Component("b", -1, -2, -0.1, 0.02, below=0)
    rows = judge_claims([claim(sure), claim(sure, less), claim(less), claim(missing="seeds")])
    assert [row["p"] for row in rows[:3]] == [0.001, 0.02, 0.02]
    # Holm by hand: 0.001 * 3, then 0.02 * 2 for the second and the third
    assert [row["p_holm"] for row in rows[:3]] == pytest.approx([0.003, 0.04, 0.04])
    assert [row["verdict"] for row in rows] == ["supported", "supported", "supported", "undecided"]
    assert math.isnan(rows[3]["p_holm"])
    crowd = judge_claims([claim(less)] * 3)
    assert crowd[0]["verdict"] == "undecided"  # 0.02 * 3 > 0.05


def part_of(correct: dict[str, np.ndarray], condition: str = "clean", clusters: int | None = None) -> pl.DataFrame:
    rows = [
        {
            "run": run, "task": "t", "condition": condition, "doc_id": str(index), "doc_key": f"k{index}",
            "cluster": f"i{index % clusters if clusters else index}", "question": f"q{index}", "target": "x",
            "score": float(value), "correct": bool(value), "backbone": run.split("-seed")[0],
            "seed": int(run.partition("-seed")[2] or 0),
        }
        for run, values in correct.items()
        for index, value in enumerate(values)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema={name: SAMPLE_SCHEMA[name] for name in rows[0]})


def test_phi_and_its_ceiling_by_hand() -> None:
    # two seeds each: a = (1100, 1000), b = (0011, 0111)
    seeds = {"a": [1, 1, 0, 0], "a-seed1": [1, 0, 0, 0], "b": [0, 0, 1, 1], "b-seed1": [0, 1, 1, 1]}
    pair = BackbonePair(part_of({k: np.array(v) for k, v in seeds.items()}), ["a", "a-seed1"], ["b", "b-seed1"], 200, 0)
    table = {name: np.array(values, dtype=float) for name, values in seeds.items()}

    def phi(x: str, y: str) -> float:
        return float(np.corrcoef(table[x], table[y])[0, 1])

    mean = np.mean([phi("a", "b"), phi("a", "b-seed1"), phi("a-seed1", "b"), phi("a-seed1", "b-seed1")])
    assert pair.phi()[0] == pytest.approx(mean)
    assert pair.seed_phis() == pytest.approx((phi("a", "a-seed1"), phi("b", "b-seed1")))
    ceiling = math.sqrt(phi("a", "a-seed1") * phi("b", "b-seed1"))
    assert pair.phi_minus_ceiling()[0] == pytest.approx(mean - ceiling)
    assert pair.score_difference()[0] == pytest.approx((0.5 + 0.75) / 2 - (0.5 + 0.25) / 2)
    assert pair.counts == (4, 0)
    # right with b only, mean over the four pairs: 2, 2, 2 and 3 of four questions; with a only: 2, 1, 1 and 1
    newer, older = (drawn[0] for drawn in pair.right_with_one())
    assert (newer, older) == pytest.approx(((2 + 2 + 2 + 3) / 16, (2 + 1 + 1 + 1) / 16))


def test_without_a_second_seed_there_is_no_ceiling() -> None:
    correct = {name: np.random.default_rng(seed).integers(0, 2, 50) for seed, name in enumerate("ab")}
    pair = BackbonePair(part_of(correct), ["a"], ["b"], 200, 0)
    assert math.isnan(pair.phi_minus_ceiling()[0])
    assert math.isfinite(pair.phi()[0])


def test_blind_drop_pairs_the_same_questions() -> None:
    clean, swap = part_of({"a": np.array([1, 1, 1, 0])}), part_of({"a": np.array([0, 0, 1])}, "swap")
    (value, drawn), n = blind_drop(pl.concat([clean, swap]), ["a"], 100, 0)
    assert value == pytest.approx(-2 / 3)
    assert (n, len(drawn)) == (3, 100)


def logs_of(parts: list[pl.DataFrame]) -> Logs:
    samples = pl.concat(parts, how="diagonal")
    for name, kind in SAMPLE_SCHEMA.items():
        if name not in samples.columns:
            samples = samples.with_columns(pl.lit(None, dtype=kind).alias(name))
    runs = {
        run: RunInfo(run, run.split("-seed")[0], int(run.partition("-seed")[2] or 0), None)
        for run in samples["run"].unique()
    }
    return Logs(samples, pl.DataFrame(), {"t": "score"}, dict(sorted(runs.items())), [])


def test_planted_different_questions_are_found() -> None:
    """Seeds of one backbone solve the same half, the other backbone solves the other half, equally many."""
    rng = np.random.default_rng(0)
    half = np.arange(20_000) % 2
    noisy = {
        "a": half, "a-seed1": np.where(rng.random(20_000) < 0.05, 1 - half, half),
        "b": 1 - half, "b-seed1": np.where(rng.random(20_000) < 0.05, half, 1 - half),
    }  # fmt: skip
    blind = part_of({name: np.zeros(20_000) for name in ("b", "b-seed1")}, "swap")
    table = claims(logs_of([part_of(noisy), blind]), {}, ["a", "b"], bootstrap=1000)
    different = next(row for row in table.to_dicts() if "rather than more" in row["claim"])
    assert different["verdict"] == "supported"
    assert different["ci_high"] < 0
    assert "seed null: phi 0.9" in different["note"]
    measured = [row for row in table.to_dicts() if row["n"]]
    assert {row["verdict"] for row in measured} == {"supported"}  # and so is the rest of it
    unmeasured = [row for row in table.to_dicts() if not row["n"]]  # neither confidences nor states were logged
    assert {row["verdict"] for row in unmeasured} == {"undecided"}
    assert all("confidences" in row["note"] or "hidden states" in row["note"] for row in unmeasured)
    assert {row["n"] for row in measured} == {20_000}


def test_one_seed_leaves_different_questions_undecided() -> None:
    half = np.arange(400) % 2
    table = claims(logs_of([part_of({"a": half, "b": 1 - half})]), {}, ["a", "b"], bootstrap=500)
    row = next(row for row in table.to_dicts() if "rather than more" in row["claim"])
    assert row["verdict"] == "undecided"
    assert "one seed a backbone" in row["note"]


def test_one_backbone_has_no_claims() -> None:
    assert claims(logs_of([part_of({"a": np.ones(20)})]), {}, ["a"]).height == 0


def test_a_task_is_judged_for_the_backbones_that_answered_it() -> None:
    half = np.arange(400) % 2
    logs = logs_of([part_of({"a": half, "b": 1 - half}), part_of({"c": half}).with_columns(task=pl.lit("other"))])
    table = claims(logs, {}, ["a", "b", "c"], bootstrap=200)
    assert len(table) == 5
    assert all(text.startswith("t: ") and " c " not in text for text in table["claim"])


def test_a_saturated_task_says_nothing_of_the_eye() -> None:
    """Both solve 97 of 100: that they differ by nothing shows no limit but the task's own."""
    right = np.arange(2000) % 100 >= 3
    blind = part_of({"b": np.zeros(2000)}, "swap")
    table = claims(logs_of([part_of({"a": right, "b": right}), blind]), {}, ["a", "b"], bootstrap=500)
    row = next(row for row in table.to_dicts() if "the eye is the limit" in row["claim"])
    assert row["verdict"] == "undecided"
    assert "saturated: a scores 0.970" in row["note"]
    assert math.isnan(row["p_holm"])


def test_an_interval_that_is_not_defined_is_said_to_be() -> None:
    draws = np.where(np.arange(1000) < 900, math.nan, 0.1)
    assert str(Component.from_draws("phi", -0.002, draws, below=0.0)).startswith("phi -0.002 (interval not defined: ")
