"""What a leaderboard says in words: its first sentences, and what must be said beside the numbers."""

from __future__ import annotations

__all__ = ["board_title", "caveats", "definitions", "headline", "number", "ranged", "sentences"]

import math

from vlm_backbones.analysis.leaderboard.boards import FEWEST_BENCHMARKS, Board
from vlm_backbones.analysis.leaderboard.significance import ALPHA
from vlm_backbones.analysis.leaderboard.tables import Leaderboard

_MOST_NAMED = 8
_MINUS, _NONE = "\u2212", "\u2013"


def number(value: float | None, digits: int = 1) -> str:
    """A number with a true minus sign, a dash where there is none."""
    if value is None or math.isnan(value):
        return _NONE
    return f"{value:,.{digits}f}".replace("-", _MINUS)


def ranged(low: float, high: float, digits: int = 1) -> str:
    """[low, high], or "interval unknown"."""
    if math.isnan(low) or math.isnan(high):
        return "[interval unknown]"
    return f"[{number(low, digits)}, {number(high, digits)}]"


def board_title(board: Board) -> str:
    """12 benchmarks that 8 rows share."""
    rows = "one row has" if len(board.rows) == 1 else f"{len(board.rows)} rows share"
    return f"{_count(len(board.columns), 'benchmark')} that {rows}"


def headline(made: Leaderboard) -> str:
    """Who stands first on the largest complete set."""
    board, labels = made.boards[0], made.standing.labels
    over = _count(len(board.columns), "benchmark")
    if len(board.rows) == 1:
        return f"{labels[board.rows[0]]} on {over}"
    first = [labels[row] for row, place in zip(board.rows, board.places, strict=True) if place.rstrip("=") == "1"]
    if len(first) > 1:
        return f"{_joined(first)} share the first place on {over}"
    return f"{first[0]} has the best mean rank on {over}"


def sentences(made: Leaderboard) -> list[str]:
    """The numbers of the row that stands first, and which rows cannot be told apart from it."""
    board, labels = made.boards[0], made.standing.labels
    if len(board.rows) == 1:
        return ["There is one row only: a rank needs a second one with the same benchmarks."]
    first = board.rows[0]
    lead = (
        f"{labels[first]}: mean rank {number(board.mean_rank[0])} {ranged(board.rank_low[0], board.rank_high[0])} of "
        f"{len(board.rows)}"
    )
    if board.scored:
        lead += (
            f", mean score {number(board.mean_score[0])} {ranged(board.score_low[0], board.score_high[0])} of 100 over "
            f"{_count(len(board.scored), 'benchmark')}"
        )
    out = [f"{lead}."]
    for what, pairs in (
        ("other questions", made.question_pairs[0]),
        ("other benchmarks like these", made.benchmark_pairs[0]),
    ):
        own = [pair for pair in pairs if first in (pair.first, pair.second)]
        alike = {row for pair in own if not pair.different for row in (pair.first, pair.second)} - {first}
        if alike:
            shown = [labels[row] for row in board.rows if row in alike]
            out.append(
                f"Had {what} been asked, it might not lead: the difference from {_joined(shown)} could be chance (they "
                f"cannot be told apart at {100 * ALPHA:g} %)."
            )
        elif own:
            out.append(
                f"Had {what} been asked, it would still differ from {'every' if len(own) > 1 else 'the'} other row: "
                f"the differences are beyond chance at {100 * ALPHA:g} %."
            )
    if not made.question_pairs[0]:
        out.append("Whether other questions of the same benchmarks would change the order is unknown.")
    return out


def caveats(made: Leaderboard) -> list[str]:
    """What the reader must know before comparing rows."""
    standing = made.standing
    out = _published(sum(entry.kind == "published" for entry in standing.entries), len(standing.entries))
    missing = len(standing.entries) * len(standing.benchmarks) - len(standing.cells)
    if missing:
        out.append(
            f"{_count(missing, 'score')} of {len(standing.entries)} rows on {len(standing.benchmarks)} benchmarks "
            f"{'is' if missing == 1 else 'are'} missing. None counts as 0: means go over complete sets only."
        )
    if made.smaller:
        out.append(f"Without a table of their own: {_count(made.smaller, 'smaller complete set')}.")
    short = [
        f"{standing.labels[row]} on {standing.benchmarks[j].name} ({cell.n_missing} beside n = {cell.n})"
        for (row, j), cell in standing.cells.items()
        if cell.n_missing
    ]
    if short:
        out.append(f"Questions that other runs answered are missing for {_joined(short)}.")
    return out + standing.notes


def _published(published: int, entries: int) -> list[str]:
    if not published:
        return []
    who = f"{published} of {entries} rows are" if published < entries else "All rows are"
    return [
        f"{who} published numbers, of which no samples exist. They answered the same "
        "questions, yet nobody can pair them: where the number of questions is known, two rows are compared as if each "
        "had questions of its own and no two questions shared an image; where it is not, whether they differ is "
        "unknown.",
        "Published numbers differ in more than the model: split, prompt, answer parser and judge. Compare runs and "
        "tables only where these agree.",
    ]


def definitions() -> list[str]:
    """How every number of the page is computed."""
    return [
        "Rank: 1 is best on a benchmark; equal scores share the mean of their places; where lower is better, the "
        "lowest score is first.",
        "Score: 100 (value \u2212 worst) / (best \u2212 worst) of the scale, so that sums such as MME and percentages "
        "add up; a benchmark in points whose scale has no known ends counts for ranks only.",
        f"Intervals (95 %): from {FEWEST_BENCHMARKS} benchmarks on, what other benchmarks like these would do "
        "(bootstrap over benchmarks; what makes one hard for all rows is taken out); below that, what other questions "
        "would do.",
        f"Groups: rows that share a letter cannot be told apart at {100 * ALPHA:g} % after Holm's correction. On one "
        "benchmark by paired samples (McNemar, or sign flips over images), else by standard errors of unpaired shares; "
        "over questions by the mean score; over benchmarks by Wilcoxon's signed-rank test, which needs at least six.",
    ]


def _count(amount: int, noun: str) -> str:
    return f"{amount} {noun}{'s' * (amount != 1)}"


def _joined(parts: list[str]) -> str:
    """a, b and c; of many the first ones."""
    if len(parts) > _MOST_NAMED:
        parts = [*parts[: _MOST_NAMED - 1], f"{len(parts) - _MOST_NAMED + 1} more"]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
