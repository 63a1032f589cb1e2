"""The leaderboard's tidy tables: one line a row and board, a score, a compared pair."""

from __future__ import annotations

__all__ = ["COLUMNS", "Leaderboard", "build_leaderboard", "build_tables"]

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis.leaderboard.boards import Board, build_boards, ranks_of
from vlm_backbones.analysis.leaderboard.groups import row_letters
from vlm_backbones.analysis.leaderboard.significance import (
    Pair,
    benchmark_pairs,
    over_benchmarks,
    over_questions,
)
from vlm_backbones.analysis.leaderboard.standing import Standing

_S, _F, _I = pl.String, pl.Float64, pl.Int64

COLUMNS: dict[str, dict[str, Any]] = {
    "leaderboard": {
        "board": _I, "place": _S, "entry": _S, "architecture": _S, "backbone": _S, "checkpoint": _S, "kind": _S,
        "n_benchmarks": _I, "mean_rank": _F, "mean_rank_low": _F, "mean_rank_high": _F, "n_scored": _I,
        "mean_score": _F, "mean_score_low": _F, "mean_score_high": _F, "interval_over": _S,
        "group_questions": _S, "group_benchmarks": _S,
    },
    "leaderboard_scores": {
        "entry": _S, "architecture": _S, "backbone": _S, "checkpoint": _S, "kind": _S, "benchmark": _S, "metric": _S,
        "unit": _S, "higher_is_better": pl.Boolean, "value": _F, "ci_low": _F, "ci_high": _F, "basis": _S, "n": _I,
        "n_missing": _I, "normalised": _F, "rank": _F, "ranked": _I, "group": _S, "source": _S,
    },
    "leaderboard_pairs": {
        "board": _I, "benchmark": _S, "question": _S, "entry_a": _S, "entry_b": _S, "diff": _F, "diff_low": _F,
        "diff_high": _F, "test": _S, "p": _F, "p_holm": _F, "different": pl.Boolean, "n": _I, "n_missing": _I,
    },
}  # fmt: skip
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Leaderboard:
    """The standing with everything computed from it.

    `pairs` are on single benchmarks; `letters` maps (entry, benchmark) to its group there; per board, in the order of
    `boards`: pairs and letters over questions and over benchmarks.
    """

    standing: Standing
    boards: list[Board]
    smaller: int
    pairs: list[Pair]
    letters: dict[tuple[int, int], str]
    question_pairs: list[list[Pair]]
    question_letters: list[dict[int, str]]
    benchmark_pairs: list[list[Pair]]
    benchmark_letters: list[dict[int, str]]


def build_leaderboard(standing: Standing, *, bootstrap: int, seed: int) -> Leaderboard:
    """Compare all entries on every benchmark, and over every complete set."""
    rng = np.random.default_rng(seed)
    pairs: list[Pair] = []
    letters: dict[tuple[int, int], str] = {}
    for j in range(len(standing.benchmarks)):
        own = benchmark_pairs(standing, j, rng)
        pairs += own
        present = np.flatnonzero(~np.isnan(standing.value[:, j]))
        best_first = present[np.argsort(-standing.oriented[present, j], kind="stable")].tolist()
        letters |= {(row, j): name for row, name in row_letters(best_first, own).items()}
    boards, smaller = build_boards(standing, pairs, bootstrap=bootstrap, seed=seed)
    questions = [over_questions(standing, board.rows, board.scored, pairs, seed) for board in boards]
    benchmarks = [over_benchmarks(standing, board.rows, board.scored) for board in boards]
    by_score = [[board.rows[i] for i in np.argsort(-board.mean_score, kind="stable")] for board in boards]
    return Leaderboard(
        standing,
        boards,
        smaller,
        pairs,
        letters,
        questions,
        [row_letters(order, found) for order, found in zip(by_score, questions, strict=True)],
        benchmarks,
        [row_letters(board.rows, found) for board, found in zip(boards, benchmarks, strict=True)],
    )


def build_tables(made: Leaderboard) -> dict[str, pl.DataFrame]:
    """Name -> frame with exactly the columns of `COLUMNS`; what is unknown is null."""
    rows = {"leaderboard": _board_rows(made), "leaderboard_scores": _score_rows(made), "leaderboard_pairs": []}
    rows["leaderboard_pairs"] = [_pair_row(made, None, "this benchmark", pair) for pair in made.pairs]
    for number in range(len(made.boards)):
        both = ("other questions", made.question_pairs), ("other benchmarks", made.benchmark_pairs)
        rows["leaderboard_pairs"] += [
            _pair_row(made, number + 1, name, pair) for name, found in both for pair in found[number]
        ]
    tables = {name: pl.DataFrame(found, schema=COLUMNS[name], strict=False) for name, found in rows.items()}
    return {name: table.with_columns(pl.col(_F).fill_nan(None)) for name, table in tables.items()}


def _entry_row(standing: Standing, row: int) -> dict[str, Any]:
    entry = standing.entries[row]
    return {
        "entry": standing.labels[row], "architecture": entry.architecture, "backbone": entry.backbone,
        "checkpoint": entry.checkpoint, "kind": entry.kind,
    }  # fmt: skip


def _board_rows(made: Leaderboard) -> list[dict[str, Any]]:
    out = []
    for number, board in enumerate(made.boards):
        for i, row in enumerate(board.rows):
            out.append(
                {"board": number + 1, "place": board.places[i]}
                | _entry_row(made.standing, row)
                | {
                    "n_benchmarks": len(board.columns),
                    "mean_rank": board.mean_rank[i],
                    "mean_rank_low": board.rank_low[i],
                    "mean_rank_high": board.rank_high[i],
                    "n_scored": len(board.scored),
                    "mean_score": board.mean_score[i],
                    "mean_score_low": board.score_low[i],
                    "mean_score_high": board.score_high[i],
                    "interval_over": board.interval,
                    "group_questions": made.question_letters[number][row],
                    "group_benchmarks": made.benchmark_letters[number][row],
                }
            )
    return out


def _score_rows(made: Leaderboard) -> list[dict[str, Any]]:
    standing = made.standing
    ranks, ranked = ranks_of(standing.oriented), (~np.isnan(standing.value)).sum(axis=0)
    out = []
    for (row, j), claim in standing.cells.items():
        benchmark = standing.benchmarks[j]
        out.append(
            _entry_row(standing, row)
            | {
                name: getattr(claim, name)
                for name in ("metric", "value", "ci_low", "ci_high", "basis", "n", "n_missing")
            }
            | {
                "benchmark": benchmark.name,
                "unit": benchmark.unit,
                "higher_is_better": benchmark.higher_is_better,
                "normalised": standing.normalised[row, j],
                "rank": ranks[row, j],
                "ranked": int(ranked[j]),
                "group": made.letters[row, j],
                "source": claim.source,
            }
        )
    return out


def _pair_row(made: Leaderboard, board: int | None, question: str, pair: Pair) -> dict[str, Any]:
    standing, found = made.standing, pair.found
    largest = 100.0 if pair.benchmark is None else standing.benchmarks[pair.benchmark].width
    largest = max(largest, abs(found.diff))  # a table may state a value beyond the ends that it states
    return {
        "board": board,
        "benchmark": None if pair.benchmark is None else standing.benchmarks[pair.benchmark].name,
        "question": question,
        "entry_a": standing.labels[pair.first],
        "entry_b": standing.labels[pair.second],
        "diff": found.diff,
        "diff_low": max(found.diff - _Z95 * found.error, -largest),
        "diff_high": min(found.diff + _Z95 * found.error, largest),
        "test": found.test,
        "p": found.p,
        "p_holm": pair.p_holm,
        "different": pair.different,
        "n": found.n,
        "n_missing": found.n_missing,
    }
