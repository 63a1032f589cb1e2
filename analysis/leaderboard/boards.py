"""Complete sets: rows and the benchmarks that all of them have, with mean rank and mean score over these."""

from __future__ import annotations

__all__ = ["FEWEST_BENCHMARKS", "Board", "build_boards", "complete_sets", "ranks_of"]

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from vlm_backbones.analysis.bootstrap import interval, pattern_bootstrap
from vlm_backbones.analysis.leaderboard.groups import rank_bounds
from vlm_backbones.analysis.leaderboard.significance import Pair
from vlm_backbones.analysis.leaderboard.standing import Standing

Floats = NDArray[np.float64]

FEWEST_BENCHMARKS = 5
_MOST_BOARDS = 4
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Board:
    """Rows of a complete set, the best mean rank first.

    `rows` are entries and `columns` benchmarks of the standing; `scored` are the columns whose scale has ends, over
    which the mean score goes. The arrays have one value a row, in the order of `rows`; `interval` says what
    the intervals are about.
    """

    rows: list[int]
    columns: list[int]
    scored: list[int]
    mean_rank: Floats
    rank_low: Floats
    rank_high: Floats
    mean_score: Floats
    score_low: Floats
    score_high: Floats
    interval: str

    @property
    def places(self) -> list[str]:
        """1, 2=, 2=, 4: place by mean rank; "=" where rows share it."""
        place = rankdata(np.round(self.mean_rank, 9), method="min").astype(int).tolist()
        return [f"{one}{'=' if place.count(one) > 1 else ''}" for one in place]


def ranks_of(oriented: Floats) -> Floats:
    """Ranks within each column, 1 = highest; ties share the mean of their places; NaN stays NaN.

    Examples
    --------
    >>> ranks_of(np.array([[50.0], [53.6], [50.0]]))
    array([[2.5],
           [1. ],
           [2.5]])
    """
    return np.asarray(rankdata(-np.round(oriented, 9), method="average", axis=0, nan_policy="omit"), dtype=float)


def complete_sets(present: NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Return (rows, columns) of the complete sets, the one with most scores first.

    A set is made for the benchmarks of each row, and for those that all rows share: it holds every row that has all of
    them. Sets of one row are left out where there are larger ones.

    Parameters
    ----------
    present : (rows, columns), whether the row has a score there.
    """
    wanted = [present.all(axis=0), *present]
    found: dict[tuple[int, ...], list[int]] = {}
    for columns in wanted:
        if columns.any():
            rows = np.flatnonzero(present[:, columns].all(axis=1)).tolist()
            found.setdefault(tuple(np.flatnonzero(columns).tolist()), rows)
    sets = sorted(found.items(), key=lambda item: (-len(item[0]) * len(item[1]), -len(item[1]), item[0]))
    several = [(rows, list(columns)) for columns, rows in sets if len(rows) > 1]
    return several or [(rows, list(columns)) for columns, rows in sets]


def build_boards(standing: Standing, pairs: list[Pair], *, bootstrap: int, seed: int) -> tuple[list[Board], int]:
    """Return the four largest boards, the largest first, and how many smaller complete sets there are.

    `pairs` are the comparisons on single benchmarks, for the intervals of boards with few benchmarks.
    """
    sets = complete_sets(~np.isnan(standing.value))
    boards = [_board(standing, rows, columns, pairs, bootstrap, seed) for rows, columns in sets[:_MOST_BOARDS]]
    return boards, max(0, len(sets) - _MOST_BOARDS)


def _board(
    standing: Standing, rows: list[int], columns: list[int], pairs: list[Pair], bootstrap: int, seed: int
) -> Board:
    """Means over the benchmarks, and intervals.

    From five benchmarks on, the intervals are percentile bootstraps over benchmarks: what another choice of benchmarks
    like these would do. Redrawing the highest level alone is enough, since the noise of the questions is already in how
    far benchmarks disagree (Davison & Hinkley 1997, section 3.8). What makes a benchmark hard or easy for all rows is
    taken out of the score's interval (Loftus & Masson 1994): it is that of the distance to the rows' average.

    Below five they are about other questions: for the mean score by its standard error, for the mean rank by the places
    that the tests leave open; unknown where the questions' noise is.
    """
    ranks = ranks_of(standing.oriented[np.ix_(rows, columns)])
    scored = [j for j in columns if not math.isnan(standing.benchmarks[j].step)]
    mean_rank = ranks.mean(axis=1)
    if len(rows) > 1 and len(columns) >= FEWEST_BENCHMARKS:
        rank_low, rank_high = _over_benchmarks(ranks, bootstrap, seed)
        said = f"what other benchmarks like these {len(columns)} would do"
    else:
        rank_low, rank_high = rank_bounds(rows, columns, pairs, standing)
        said = f"what other questions would do (fewer than {FEWEST_BENCHMARKS} benchmarks)"
    mean_score, score_low, score_high = _mean_scores(standing, rows, scored, bootstrap, seed)
    order = np.lexsort((-np.nan_to_num(mean_score), np.round(mean_rank, 9)))
    return Board(
        [rows[i] for i in order],
        columns,
        scored,
        mean_rank[order],
        rank_low[order],
        rank_high[order],
        mean_score[order],
        score_low[order],
        score_high[order],
        said,
    )


def _mean_scores(
    standing: Standing, rows: list[int], scored: list[int], bootstrap: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Mean normalised score of each row and the ends of its interval; NaN where no benchmark has a scale.

    The interval is cut at 0 and 100, where the scale ends.
    """
    if not scored:
        unknown = np.full(len(rows), math.nan)
        return unknown, unknown, unknown
    normalised = standing.normalised[np.ix_(rows, scored)]
    mean = normalised.mean(axis=1)
    if len(rows) > 1 and len(scored) >= FEWEST_BENCHMARKS:
        low, high = _over_benchmarks(normalised - normalised.mean(axis=0), bootstrap, seed)
        low, high = low + normalised.mean(), high + normalised.mean()
    else:
        steps = np.array([standing.benchmarks[j].step for j in scored])
        error = np.sqrt(((standing.error[np.ix_(rows, scored)] * steps) ** 2).sum(axis=1)) / len(scored)
        low, high = mean - _Z95 * error, mean + _Z95 * error
    # a table may state a value beyond the ends that it states
    return mean, np.maximum(low, np.minimum(mean, 0.0)), np.minimum(high, np.maximum(mean, 100.0))


def _over_benchmarks(values: Floats, bootstrap: int, seed: int) -> tuple[Floats, Floats]:
    """95 % percentile intervals of the row means of (rows, benchmarks), benchmarks redrawn."""
    drawn = pattern_bootstrap(np.ascontiguousarray(values.T), bootstrap, np.random.default_rng(seed))
    ends = [interval(column) for column in (drawn / values.shape[1]).T]
    low, high = np.array(ends).T
    return low, high
