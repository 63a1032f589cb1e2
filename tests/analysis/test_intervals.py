"""The table `intervals`: what it holds is the value of its table, with an interval that resampling agrees with."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from vlm_backbones.analysis import calibration_measures as measure
from vlm_backbones.analysis import many_measures as many
from vlm_backbones.analysis import pair_measures as pair
from vlm_backbones.analysis.answer_agreement import AnswerAgreement
from vlm_backbones.analysis.bootstrap import cluster_weights, interval, level_totals
from vlm_backbones.analysis.calibration_draws import Side, aurc_draws, measure_draws
from vlm_backbones.analysis.samples import load_logs
from vlm_backbones.analysis.table_scores import scores
from vlm_backbones.analysis.tables import build_tables


def answers(rng: np.random.Generator, n: int, each: int = 1) -> AnswerAgreement:
    """Answers 0 to 3 of two runs that often agree, 400 questions in clusters of `each`."""
    first = rng.integers(-1, 4, n)
    second = np.where(rng.random(n) < 0.5, first, rng.integers(-1, 4, n))
    terms = rng.random((n, 4))
    terms[::7] = math.nan
    return AnswerAgreement(first, second, rng.random(n) < 0.4, terms, np.arange(n) // each)


def test_values_of_answers_are_those_of_the_oracles() -> None:
    of = answers(np.random.default_rng(0), 400)
    both = (of.first >= 0) & (of.second >= 0)
    known = ~np.isnan(of.capa_terms[:, 0])
    assert of.values["answer_kappa"] == pytest.approx(cohen_kappa_score(of.first[both], of.second[both]), abs=1e-12)
    same = (of.first == of.second) & both
    assert of.values["same_answer_rate"] == pytest.approx(same.sum() / both.sum(), abs=1e-12)
    wrong = both & of.both_wrong
    assert of.values["same_wrong_rate"] == pytest.approx((same & wrong).sum() / wrong.sum(), abs=1e-12)
    assert of.values["capa"] == pytest.approx(float(pair.capa_of_means(of.capa_terms[known].mean(0)[None])[0]))
    assert of.counts == {
        "same_answer_rate": both.sum(), "answer_kappa": both.sum(), "same_wrong_rate": wrong.sum(), "capa": known.sum()
    }  # fmt: skip


def test_kappa_of_answers_spreads_as_resampling_shows() -> None:
    rng = np.random.default_rng(1)
    of = answers(rng, 600, each=3)
    both = (of.first >= 0) & (of.second >= 0)
    drawn = []
    for _ in range(400):
        rows = (3 * rng.integers(0, 200, 200)[:, None] + np.arange(3)).ravel()
        rows = rows[both[rows]]
        drawn.append(cohen_kappa_score(of.first[rows], of.second[rows]))
    assert np.std(of.drawn(rng)["answer_kappa"]) == pytest.approx(np.std(drawn), rel=0.15)


def test_answers_that_are_all_one_have_no_kappa() -> None:
    one = np.zeros(9, dtype=np.int64)
    of = AnswerAgreement(one, one, np.ones(9, dtype=bool), np.full((9, 4), math.nan), np.arange(9))
    assert math.isnan(of.values["answer_kappa"])
    assert math.isnan(of.values["capa"])
    assert of.values["same_wrong_rate"] == 1


def test_measures_of_counts_are_of_each_draw() -> None:
    counts = np.array([[40, 10, 20, 30], [10, 0, 0, 0], [3, 5, 7, 11]])
    together = pair.count_measures(*counts.T)
    for row, of in enumerate(counts):
        for name, values in pair.count_measures(*of).items():
            assert together[name][row] == pytest.approx(float(values), nan_ok=True), name
    # by hand: 70 of 100 solved by either, the better one has 60
    assert together["oracle_gain"][0] == pytest.approx(0.1)
    assert together["jaccard_solved"][0] == pytest.approx(40 / 70)


def test_measures_of_all_runs_spread_as_resampling_shows() -> None:
    rng = np.random.default_rng(2)
    ease = rng.random(500)
    correct = (rng.random((3, 500)) < 0.2 + 0.6 * ease).astype(float)
    correct[0, :25] = math.nan
    values, drawn = many.together(correct, np.arange(500), 4000, rng)
    assert values["krippendorff_alpha"] == many.krippendorff_alpha(correct)
    assert values["fleiss_kappa"] == many.fleiss_kappa(correct)
    assert values["oracle_accuracy"] == correct[:, 25:].max(axis=0).mean()
    again: dict[str, list[float]] = {"krippendorff_alpha": [], "fleiss_kappa": []}
    for _ in range(400):
        some = correct[:, rng.integers(0, 500, 500)]
        again["krippendorff_alpha"].append(many.krippendorff_alpha(some))
        again["fleiss_kappa"].append(many.fleiss_kappa(some))
    for name, found in again.items():
        assert np.std(drawn[name]) == pytest.approx(np.std(found), rel=0.15), name


@pytest.mark.parametrize("levels", [5, 400])
def test_aurc_of_unit_weights_is_the_plain_one(levels: int) -> None:
    rng = np.random.default_rng(3)
    c = rng.integers(0, levels, 300) / levels
    y = (rng.random(300) < 0.3 + 0.6 * c).astype(float)
    side = Side(c, y, c, c)
    drawn = aurc_draws(side, np.arange(300), np.ones((1, 300)))
    assert drawn[0] == pytest.approx(measure.aurc(c, y)[0], abs=1e-12)
    twice = aurc_draws(side, np.arange(300), np.full((1, 300), 2.0))
    assert twice[0] == pytest.approx(measure.aurc(np.repeat(c, 2), np.repeat(y, 2))[0], abs=1e-12)


def test_measures_of_a_draw_are_those_of_the_questions_that_it_holds() -> None:
    """Confidences that repeat, clusters of three, some questions without a loss."""
    rng = np.random.default_rng(4)
    confidence = rng.integers(0, 20, 300) / 20
    correct = (rng.random(300) < confidence).astype(float)
    brier = np.where(rng.random(300) < 0.1, np.nan, (confidence - correct) ** 2)
    side, group = Side(confidence, correct, brier, 2 * brier), np.repeat(np.arange(100), 3)
    weights = rng.multinomial(100, np.full(100, 0.01), size=5).astype(float)
    values, _ = measure_draws(side, group, np.ones((1, 100)))
    _, drawn = measure_draws(side, group, np.vstack([np.ones(100), weights]))
    held = [np.repeat(np.arange(300), draw[group].astype(int)) for draw in weights]
    expected = [values, *(measure_draws(side.where(rows), group[rows], np.ones((1, 100)))[0] for rows in held)]
    for name in values:
        tolerance = 0.01 if name == "smece" else 1e-9  # on a grid
        np.testing.assert_allclose(drawn[name], [found[name] for found in expected], atol=tolerance, err_msg=name)


def test_sparse_and_dense_totals_are_one() -> None:
    rng = np.random.default_rng(4)
    values, level = rng.random(200), rng.integers(0, 90, 200)
    by_hand: list[NDArray[np.float64]] = []
    weights, group = cluster_weights(np.arange(200) // 2, 7, rng)
    for draw in weights:
        by_hand.append(np.bincount(level, weights=values * draw[group], minlength=int(level.max()) + 1))
    assert level_totals(weights, group, level, values) == pytest.approx(np.array(by_hand))
    few, some = np.zeros(200, dtype=np.int64), np.ones((7, 1))  # one group: dense
    assert level_totals(some, few, level, values) == pytest.approx(np.tile(np.bincount(level, weights=values), (7, 1)))


def test_every_interval_is_of_the_number_in_its_table(study_dir: Path) -> None:
    tables = build_tables(load_logs([study_dir]), bootstrap=500)
    found = {tuple(row[:5]): row[5:8] for row in tables["intervals"].iter_rows()}
    assert {place[0] for place in found} == {"agreement", "agreement_all", "calibration", "coordinates"}
    names = {
        "agreement": lambda row: f"{row['run_a']} + {row['run_b']}",
        "agreement_all": lambda row: row["runs"],
        "calibration": lambda row: f"{row['run']}, {row['confidence_kind']}",
        "coordinates": lambda row: row["run"],
    }
    looked_at = 0
    for table, name in names.items():
        for row in tables[table].to_dicts():
            place = (table, row["task"], name(row), row.get("question_type") or "all")
            for measured in (key for key in row if (*place, key) in found):
                value, low, high = found[*place, measured]
                assert value == pytest.approx(row[measured], abs=1e-12), (place, measured)
                assert low <= value <= high or high - low < 0.05, (place, measured)
                looked_at += 1
    assert looked_at == len(found) > 100


def test_a_perturbed_subset_is_compared_with_the_same_documents(tmp_path: Path, make: SimpleNamespace) -> None:
    """A condition on a subset numbers its documents anew; the pairs go by document, not by number."""

    def rows(documents: range, scores: list[float], condition: str) -> list[dict[str, object]]:
        extras = [{"doc_key": f"key {doc}", "condition": condition} for doc in documents]
        return [
            make.row(at, "a", "a" if score else "b", score, token_counts=[{"reasoning_tokens": extra}])
            for at, (score, extra) in enumerate(zip(scores, extras, strict=True))
        ]

    folder = tmp_path / "RUN" / "logs"
    make.log(folder / "clean" / "m", rows(range(6), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0], "clean"))
    make.log(folder / "shift4" / "m", rows(range(2, 6), [0.0, 0.0, 1.0, 0.0], "shift4"))
    make.log(
        folder / "clean" / "m", rows(range(5, -1, -1), [0.0] * 6, "clean"), task="other"
    )  # nothing to pair it with
    table = scores(load_logs([tmp_path]), bootstrap=200).filter(task="vqa")
    assert table["metric"].to_list() == ["exact_match", "exact_match", "exact_match minus clean"]
    change = table.row(2, named=True)
    # documents 2 to 5: clean 1, 0, 1, 1 and perturbed 0, 0, 1, 0
    assert (change["value"], change["n"], change["n_missing"]) == (pytest.approx(-0.5), 4, 0)
    assert change["ci_low"] <= -0.5 <= change["ci_high"]
    assert change["note"].startswith("paired; clean on these documents: 0.75 [")
    assert change["condition"] == "shift4"


def test_interval_leaves_undefined_draws_out() -> None:
    assert interval(np.array([math.nan, 1.0, 2.0, 3.0])) == pytest.approx((1.05, 2.95))
    assert all(map(math.isnan, interval(np.array([math.nan, math.nan, 1.0]))))
