"""What the pairwise tests leave open: rows that cannot be told apart, and ranks that a row may have."""

from __future__ import annotations

__all__ = ["rank_bounds", "row_letters"]

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vlm_backbones.analysis.compact_letters import compact_letters
from vlm_backbones.analysis.leaderboard.significance import Pair
from vlm_backbones.analysis.leaderboard.standing import Standing

Floats = NDArray[np.float64]


def row_letters(rows: Sequence[int], pairs: Iterable[Pair]) -> dict[int, str]:
    """Letters of the rows, given the best first; a row that was compared with none is "unknown".

    Where more letters would be needed than there are, each row is "too many groups".
    """
    pairs = [pair for pair in pairs if not math.isnan(pair.p_holm)]
    compared = {row for pair in pairs for row in (pair.first, pair.second)}
    known = [row for row in rows if row in compared]
    place = {row: i for i, row in enumerate(known)}
    different = np.zeros((len(known), len(known)), dtype=bool)
    for pair in pairs:
        if pair.different and pair.first in place and pair.second in place:
            i, j = place[pair.first], place[pair.second]
            different[i, j] = different[j, i] = True
    letters = dict(zip(known, compact_letters(different), strict=True))
    return {row: (letters[row] or "too many groups") if row in letters else "unknown" for row in rows}


def rank_bounds(
    rows: Sequence[int], columns: Sequence[int], pairs: Iterable[Pair], standing: Standing
) -> tuple[Floats, Floats]:
    """Lowest and highest mean rank that the tests on single benchmarks leave open, (rows,) each.

    On one benchmark a row's rank lies between 1 + the rows that are better beyond chance and the number of rows - those
    that are worse beyond chance (Mogstad, Romano, Shaikh & Wilhelm 2024). NaN for a row whose noise is unknown.
    """
    inside, wanted = set(rows), set(columns)
    better: dict[int, int] = dict.fromkeys(rows, 0)
    worse: dict[int, int] = dict.fromkeys(rows, 0)
    for pair in pairs:
        if pair.benchmark in wanted and pair.different and {pair.first, pair.second} <= inside:
            up = (pair.found.diff > 0) == standing.benchmarks[pair.benchmark].higher_is_better
            winner, loser = (pair.first, pair.second) if up else (pair.second, pair.first)
            better[loser] += 1
            worse[winner] += 1
    known = ~np.isnan(standing.error[np.ix_(rows, columns)]).any(axis=1)
    low = 1 + np.array([better[row] for row in rows]) / len(columns)
    high = len(rows) - np.array([worse[row] for row in rows]) / len(columns)
    return np.where(known, low, math.nan), np.where(known, high, math.nan)
