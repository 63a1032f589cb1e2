"""The leaderboard as one offline page: every value escaped, every script hashed, nothing loaded from elsewhere."""

from __future__ import annotations

__all__ = ["write_page"]

import base64
import hashlib
from datetime import date
from pathlib import Path
from typing import Any

from vlm_backbones.analysis.leaderboard import words
from vlm_backbones.analysis.leaderboard.boards import Board
from vlm_backbones.analysis.leaderboard.tables import Leaderboard
from vlm_backbones.analysis.report.leaderboard_charts import means_chart, scores_chart
from vlm_backbones.analysis.report.palette import RUN_COLORS, RunColors
from vlm_backbones.analysis.report.pictures import Picture, render_picture
from vlm_backbones.analysis.report.radar_chart import radar_chart
from vlm_backbones.analysis.report.templating import page_template
from vlm_backbones.cache import atomic_write_text

_HERE = Path(__file__).parent


def write_page(made: Leaderboard, out: Path) -> Path:
    """Write OUT/leaderboard.html with its pictures under OUT/charts; return the page's path."""
    script = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in ("page.js", "leaderboard.js"))
    page = page_template("leaderboard.html.j2", {"number": words.number, "ranged": words.ranged}).render(
        headline=words.headline(made),
        sentences=words.sentences(made),
        caveats=words.caveats(made),
        definitions=words.definitions(),
        boards=[_board(made, place, out) for place in range(len(made.boards))],
        architectures=sorted({entry.architecture for entry in made.standing.entries} - {""}),
        benchmarks=[benchmark.name for benchmark in made.standing.benchmarks],
        cells=_cells(made),
        style="".join((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "leaderboard.css")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        date=date.today().isoformat(),
    )
    path = out / "leaderboard.html"
    atomic_write_text(path, page)
    return path


def _board(made: Leaderboard, place: int, out: Path) -> dict[str, Any]:
    standing, board = made.standing, made.boards[place]
    by_questions, by_benchmarks = made.question_letters[place], made.benchmark_letters[place]
    colors = RunColors([standing.labels[row] for row in board.rows[: len(RUN_COLORS)]])
    rows = []
    for i, row in enumerate(board.rows):
        entry = standing.entries[row]
        rows.append(
            {
                "place": board.places[i],
                "label": standing.labels[row],
                "dot": colors.name(standing.labels[row]),
                "entry": entry,
                "rank": (board.mean_rank[i], board.rank_low[i], board.rank_high[i]),
                "score": (board.mean_score[i], board.score_low[i], board.score_high[i]),
                "questions": by_questions[row],
                "benchmarks": by_benchmarks[row],
                "values": [_value(made, board, row, j) for j in board.columns],
            }
        )
    return {
        "title": words.board_title(board),
        "interval": board.interval,
        "columns": [(j, standing.benchmarks[j]) for j in board.columns],
        "rows": rows,
        "several": len(board.rows) > 1,
        "scored": len(board.scored),
        "by_benchmarks": any(letters != "unknown" for letters in by_benchmarks.values()),
        "pictures": _pictures(made, place, colors, out),
    }


def _value(made: Leaderboard, board: Board, row: int, column: int) -> dict[str, Any]:
    oriented = made.standing.oriented
    letters = made.letters[row, column]
    return {
        "column": column,
        "cell": made.standing.cells[row, column],
        "best": len(board.rows) > 1 and oriented[row, column] == oriented[board.rows, column].max(),
        "letters": "" if letters == "unknown" else letters,
    }


def _cells(made: Leaderboard) -> list[dict[str, Any]]:
    """Every score in the order of benchmarks and entries, for the whole list."""
    standing = made.standing
    places = sorted(standing.cells, key=lambda place: (place[1], -standing.oriented[place]))
    return [
        {
            "label": standing.labels[row],
            "benchmark": standing.benchmarks[j],
            "cell": standing.cells[row, j],
            "letters": made.letters[row, j],
        }
        for row, j in places
    ]


def _pictures(made: Leaderboard, place: int, colors: RunColors, out: Path) -> dict[str, Picture | None]:
    """Means, scores and radar of a board; None where there is too little to draw."""
    standing, board = made.standing, made.boards[place]
    several = len(board.rows) > 1

    def draw(name: str, title: str, table: str, chart: Any) -> Picture:
        return render_picture(f"leaderboard_{place + 1}_{name}", "leaderboard", None, title, table, chart, out=out)

    means = means_chart(standing, board, colors) if several else None
    scores = scores_chart(standing, board, colors)
    radar = radar_chart(standing, board, colors) if several and len(board.columns) > 2 else None
    return {
        "means": draw("means", "Mean rank and mean score", "leaderboard", means) if means else None,
        "scores": draw("scores", "Every benchmark on its own scale", "leaderboard_scores", scores),
        "radar": draw("radar", "The same as a radar", "leaderboard_scores", radar) if radar else None,
    }
