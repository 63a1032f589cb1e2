"""Ranks, means, intervals and groups of the leaderboard, on numbers derived by hand or from another library."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon
from statsmodels.stats.contingency_tables import mcnemar

from vlm_backbones.analysis.leaderboard.boards import complete_sets, ranks_of
from vlm_backbones.analysis.leaderboard.claimed import Claim, Entry
from vlm_backbones.analysis.leaderboard.compare import (
    binomial_error,
    compare_independent,
    compare_paired,
    flip_p,
)
from vlm_backbones.analysis.leaderboard.settle import settle
from vlm_backbones.analysis.leaderboard.significance import over_benchmarks
from vlm_backbones.analysis.leaderboard.standing import Standing
from vlm_backbones.analysis.leaderboard.tables import Leaderboard, build_leaderboard, build_tables
from vlm_backbones.analysis.pairing import Paired


def entry(name: str, kind: str = "published") -> Entry:
    return Entry(name, "arch", name, "", "run" if kind == "run" else "published")


def table(rows: dict[str, dict[str, float]], **more: object) -> list[Claim]:
    """Claims of a published table: row -> benchmark -> value."""
    claim = Claim(entry("x"), "x", "", 0.0, "table", "a table")
    return [
        replace(claim, entry=entry(name), benchmark=benchmark, value=value, **more)  # type: ignore[arg-type]
        for name, scores in rows.items()
        for benchmark, value in scores.items()
    ]


def rank(claims: list[Claim], paired: dict[str, Paired] | None = None) -> Leaderboard:
    return build_leaderboard(settle(claims, paired or {}), bootstrap=2000, seed=0)


def test_ties_share_the_mean_of_their_places() -> None:
    # 57.4 is first, 53.6 second, the two 50.0 share places 3 and 4: 3.5 each
    assert ranks_of(np.array([[50.0], [53.6], [50.0], [57.4]]))[:, 0].tolist() == [3.5, 2.0, 3.5, 1.0]


def test_means_by_hand() -> None:
    made = rank(table({"a": {"X": 60, "Y": 40, "Z": 50}, "b": {"X": 50, "Y": 40, "Z": 70}}))
    (board,) = made.boards
    # ranks a: 1, 1.5, 2; b: 2, 1.5, 1: both 1.5, so the higher mean score, 160/3 of b, goes first
    assert [made.standing.labels[row] for row in board.rows] == ["b", "a"]
    assert board.mean_rank.tolist() == [1.5, 1.5]
    assert board.places == ["1=", "1="]
    assert board.mean_score.tolist() == pytest.approx([160 / 3, 50])
    assert np.isnan(board.score_low).all()
    assert np.isnan(board.rank_low).all()


def test_few_benchmarks_give_the_mean_the_interval_of_their_questions() -> None:
    scores = {"a": {"X": 80.0, "Y": 60.0}, "b": {"X": 50.0, "Y": 40.0}}
    (board,) = rank(table(scores, unit="percent", n=400, is_mean=True)).boards
    assert board.mean_score.tolist() == pytest.approx([70, 45])
    # Agresti and Caffo's error of each share of 400, in points, over two benchmarks
    errors = [100 * math.sqrt((s := (share * 400 + 1) / 402) * (1 - s) / 402) for share in (0.8, 0.6)]
    half = 1.959964 * math.hypot(*errors) / 2
    assert (board.score_low[0], board.score_high[0]) == pytest.approx((70 - half, 70 + half), rel=1e-6)


def test_intervals_end_where_the_scale_ends() -> None:
    scores = {"a": {"X": 0.0, "Y": 5.0}, "b": {"X": 100.0, "Y": 100.0}}
    made = rank(table(scores, unit="percent", n=5, is_mean=True))
    (board,) = made.boards
    assert (board.score_low[1], board.score_high[0]) == (0.0, 100.0)
    assert 0 < board.score_high[1] < board.score_low[0] < 100
    pairs = build_tables(made)["leaderboard_pairs"]
    assert pairs["diff_low"][:2].to_list() == [-100.0, -100.0]  # a - b on each benchmark
    assert pairs["diff_high"][2] == 100.0  # b - a of the means


def test_sums_and_percentages_add_up_on_their_scales() -> None:
    claims = table({"a": {"MMB": 70.0}, "b": {"MMB": 60.0}})
    claims += table({"a": {"MME": 1500.0}, "b": {"MME": 1600.0}}, unit="points", worst=0.0, best=2000.0)
    (board,) = rank(claims).boards
    # a: (70 + 75) / 2; b: (60 + 80) / 2
    assert sorted(board.mean_score.tolist()) == pytest.approx([70.0, 72.5])


def test_points_without_ends_count_for_ranks_and_not_for_the_score() -> None:
    made = rank(table({"a": {"MMB": 70.0, "CIDEr": 110.0}, "b": {"MMB": 60.0, "CIDEr": 105.0}}))
    (board,) = made.boards
    assert board.mean_score.tolist() == [70.0, 60.0]
    assert len(board.columns) == 2
    assert len(board.scored) == 1
    assert "CIDEr" in made.standing.notes[0]


def test_lower_is_better_is_turned_around() -> None:
    made = rank(table({"a": {"WER": 10.0}, "b": {"WER": 30.0}}, unit="percent", higher_is_better=False))
    (board,) = made.boards
    assert [made.standing.labels[row] for row in board.rows] == ["a", "b"]
    assert board.mean_score.tolist() == [90.0, 70.0]


def test_a_missing_score_is_no_zero() -> None:
    made = rank(table({"a": {"X": 60, "Y": 40}, "b": {"X": 50, "Y": 45}, "c": {"X": 99}}))
    names = [[made.standing.labels[row] for row in board.rows] for board in made.boards]
    # two benchmarks by two rows hold 4 scores, one benchmark by three rows holds 3
    assert [sorted(rows) for rows in names] == [["a", "b"], ["a", "b", "c"]]
    assert names[1][0] == "c"
    scores = build_tables(made)["leaderboard_scores"]
    assert scores.filter(entry="c", benchmark="Y").height == 0
    assert scores.filter(entry="c", benchmark="X")["ranked"].to_list() == [3]


def test_complete_sets_are_closed_and_the_largest_comes_first() -> None:
    present = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1]], dtype=bool)
    # rows 0 and 1 share two columns (4 scores), all three share column 1 (3 scores); row 2 alone is left out
    assert complete_sets(present) == [([0, 1], [0, 1]), ([0, 1, 2], [1])]


def test_rows_without_a_common_benchmark_each_have_a_set_of_their_own() -> None:
    assert complete_sets(np.eye(2, dtype=bool)) == [([0], [0]), ([1], [1])]


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_every_row_of_a_complete_set_has_all_its_benchmarks(rows: list[list[bool]]) -> None:
    present = np.array(rows, dtype=bool)
    for members, columns in complete_sets(present):
        assert present[np.ix_(members, columns)].all()
        others = np.setdiff1d(np.arange(len(rows)), members)
        assert not present[np.ix_(others, columns)].all(axis=1).any()


def test_the_intervals_over_benchmarks_hold_the_mean() -> None:
    rng = np.random.default_rng(1)
    hardness = rng.uniform(20, 80, 12)
    values = {
        name: {f"b{j}": hardness[j] + lead + rng.normal() for j in range(12)} for name, lead in (("a", 3), ("b", 0))
    }
    (board,) = rank(table(values)).boards
    assert board.interval == "what other benchmarks like these 12 would do"
    assert (board.score_low <= board.mean_score).all()
    assert (board.score_high >= board.mean_score).all()
    # how hard a benchmark is varies by 60 points and is taken out; what is left is the noise of one point
    assert (board.score_high - board.score_low < 3).all()
    assert board.rank_low[0] == 1.0


def test_agresti_and_caffo_by_hand() -> None:
    # 8 of 10 right: (8 + 1) / 12 = 0.75, sqrt(0.75 * 0.25 / 12) = 0.125
    assert binomial_error(0.8, 10) == pytest.approx(0.125)
    assert binomial_error(1.0, 10) > 0


def test_published_shares_are_compared_by_z() -> None:
    found = compare_independent(75.0, 3.0, 65.0, 4.0)
    assert (found.diff, found.error) == (10.0, 5.0)
    assert found.p == pytest.approx(0.04550026)  # two-sided normal tail of z = 2


def paired(first: list[float], second: list[float], cluster: list[int] | None = None) -> Paired:
    n = len(first)
    rows = np.tile(np.arange(n), (2, 1))
    return Paired(["a", "b"], rows, np.array([first, second]), np.array(cluster or range(n), dtype=np.int64))


def test_paired_samples_give_mcnemar() -> None:
    first, second = [1.0] * 12 + [0.0] * 8, [1.0] * 3 + [0.0] * 15 + [1.0] * 2
    found = compare_paired(paired(first, second), 0, 1, np.random.default_rng(0))
    # 9 only with a, 2 only with b
    assert found.test == "McNemar"
    assert found.p == pytest.approx(mcnemar([[3, 9], [2, 6]], exact=True).pvalue)
    assert found.diff == pytest.approx(7 / 20)


def test_questions_of_one_image_flip_together() -> None:
    # each image's two questions change together: four images, three up and one down
    first, second = [1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]
    found = compare_paired(paired(first, second, [0, 0, 1, 1, 2, 2, 3, 3]), 0, 1, np.random.default_rng(0))
    # of 16 sign patterns, sums of at least 4 in size: 2 with all alike and 8 with one against three
    assert found.test == "sign flips"
    assert found.p == pytest.approx(10 / 16)
    # changes of 1, six times, and of -1, twice: mean .5; clusters' sums less their mean: 1, 1, 1 and -3
    assert (found.diff, found.error) == pytest.approx((0.5, math.sqrt(12) / 8))


def test_missing_answers_are_counted_beside_the_pairs() -> None:
    found = compare_paired(paired([1.0, math.nan, 0.0], [0.0, 1.0, 0.0]), 0, 1, np.random.default_rng(0))
    assert (found.n, found.n_missing) == (2, 1)


def test_small_p_values_are_finer_than_the_flips() -> None:
    p = flip_p(np.ones(200), np.random.default_rng(0))
    assert 0 < p < 1e-30
    assert flip_p(np.zeros(5), np.random.default_rng(0)) == 1.0


def test_wilcoxon_over_benchmarks_agrees_with_scipy() -> None:
    first = [61.0, 72.5, 43.2, 80.2, 55.5, 66.4, 71.9, 39.0]
    second = [60.2, 70.0, 43.9, 77.0, 54.0, 62.1, 72.3, 37.1]
    values = {"a": dict(zip("stuvwxyz", first, strict=True)), "b": dict(zip("stuvwxyz", second, strict=True))}
    standing = settle(table(values), {})
    (pair,) = over_benchmarks(standing, [0, 1], list(range(8)))
    expected = wilcoxon(first, second, method="exact").pvalue
    assert pair.found.p == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_with_ties_and_zeros_by_hand() -> None:
    # differences 0, 1, 1, 1, -1, 2, 3: ranks 2.5 (four times), 5 and 6; the positive ones sum to 18.5 of 21.
    # Of 64 sign patterns the negative ranks sum to 0 once and to 2.5 four times: 2 (1 + 4) / 64.
    values = {"a": dict(zip("tuvwxyz", [5, 6, 7, 8, 8, 11, 13], strict=True))}
    values["b"] = dict(zip("tuvwxyz", [5, 5, 6, 7, 9, 9, 10], strict=True))
    standing = settle(table(values), {})
    (pair,) = over_benchmarks(standing, [0, 1], list(range(7)))
    assert pair.found.p == pytest.approx(10 / 64)


def test_five_benchmarks_cannot_tell_rows_apart() -> None:
    values = {name: {str(j): value for j in range(5)} for name, value in (("a", 90.0), ("b", 10.0))}
    made = rank(table(values))
    assert made.benchmark_pairs == [[]]
    assert set(made.benchmark_letters[0].values()) == {"unknown"}


def test_groups_come_from_the_number_of_questions_where_it_is_known() -> None:
    claims = table({"a": {"X": 90.0}, "b": {"X": 88.0}, "c": {"X": 50.0}}, unit="percent", n=200, is_mean=True)
    claims += table({"d": {"X": 99.0}}, unit="percent")
    made = rank(claims)
    letters = {made.standing.labels[row]: text for (row, _), text in made.letters.items()}
    assert letters == {"a": "a", "b": "a", "c": "b", "d": "unknown"}
    (board,) = made.boards
    by_name = {made.standing.labels[row]: i for i, row in enumerate(board.rows)}
    # c is worse than a and b beyond chance, and d is not known: c may be third or fourth
    assert (board.rank_low[by_name["c"]], board.rank_high[by_name["c"]]) == (3.0, 4.0)
    assert math.isnan(board.rank_low[by_name["d"]])


def samples(values: dict[str, list[float]]) -> tuple[list[Claim], dict[str, Paired]]:
    """Runs with 0/1 scores on one benchmark of independent questions."""
    claims = [
        Claim(
            entry(name, "run"), "T", "acc", float(np.mean(score)), "samples", "logs", unit="fraction", n=len(score),
            error=binomial_error(float(np.mean(score)), len(score)),
        )
        for name, score in values.items()
    ]  # fmt: skip
    score = np.array(list(values.values()))
    rows = np.tile(np.arange(score.shape[1]), (len(values), 1))
    return claims, {"T": Paired(list(values), rows, score, np.arange(score.shape[1], dtype=np.int64))}


def test_paired_samples_tell_apart_what_unpaired_ones_cannot() -> None:
    # b solves what a solves and 12 questions more: paired p = 2 / 2^12, unpaired z is 1.2
    logs = {"a": [1.0] * 100 + [0.0] * 100, "b": [1.0] * 112 + [0.0] * 88}
    made = rank(*samples(logs))
    assert {made.standing.labels[row]: text for row, text in made.question_letters[0].items()} == {"b": "a", "a": "b"}
    published = table({"a": {"T": 50.0}, "b": {"T": 56.0}}, unit="percent", n=200, is_mean=True)
    assert set(rank(published).question_letters[0].values()) == {"a"}


def test_a_run_and_a_table_are_compared_without_pairing() -> None:
    claims, logs = samples({"a": [1.0] * 50 + [0.0] * 50})
    claims += table({"p": {"T": 90.0}}, unit="percent", n=100, is_mean=True)
    (pair,) = rank(claims, logs).pairs
    assert pair.found.test == "z, unpaired"
    assert pair.different


def test_two_equal_runs_share_everything() -> None:
    made = rank(*samples({"a": [1.0, 0.0] * 20, "b": [1.0, 0.0] * 20}))
    (board,) = made.boards
    assert board.places == ["1=", "1="]
    assert set(made.question_letters[0].values()) == {"a"}
    assert made.pairs[0].found.p == 1.0


@given(st.permutations(list("abcd")))
def test_the_order_of_the_rows_changes_no_number(order: list[str]) -> None:
    values = {
        "a": {"X": 60.0, "Y": 40.0},
        "b": {"X": 55.0, "Y": 45.0},
        "c": {"X": 60.0, "Y": 10.0},
        "d": {"X": 1.0, "Y": 2.0},
    }
    standing: Standing = settle(table({name: values[name] for name in order}), {})
    (board,) = build_leaderboard(standing, bootstrap=100, seed=0).boards
    found = {standing.labels[row]: rank_ for row, rank_ in zip(board.rows, board.mean_rank, strict=True)}
    # X: a and c share 1 and 2, b 3, d 4; Y: b 1, a 2, c 3, d 4
    assert found == {"a": 1.75, "b": 2.0, "c": 2.25, "d": 4.0}
