"""The leaderboard as Markdown and as LaTeX, names escaped in both."""

from __future__ import annotations

__all__ = ["render_markdown", "render_tex"]

import re
from collections.abc import Callable

from vlm_backbones.analysis.leaderboard.standing import Benchmark
from vlm_backbones.analysis.leaderboard.tables import Leaderboard
from vlm_backbones.analysis.leaderboard.words import (
    board_title,
    caveats,
    definitions,
    headline,
    number,
    ranged,
    sentences,
)

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u2212": "$-$", "\u2013": "--", "<": "$<$", ">": "$>$",
    "\u2193": r"$\downarrow$",
}  # fmt: skip


def render_markdown(made: Leaderboard) -> str:
    """One table a complete set, then the caveats and definitions."""
    lines = [f"# {_md(headline(made))}", "", _md(" ".join(sentences(made)))]
    for number_, board in enumerate(made.boards):
        header, rows = _cells(made, number_, _md, "**{}**", "{}<sup>{}</sup>")
        rule = ["---:" if i not in (1, 4, 5) else "---" for i in range(len(header))]
        lines += ["", f"## {_md(board_title(board))}", ""]
        lines += [f"| {' | '.join(line)} |" for line in (header, rule, *rows)]
    lines += ["", "## What to know", ""]
    lines += [f"- {_md(text)}" for text in (*caveats(made), *definitions())]
    return "\n".join(lines) + "\n"


def render_tex(made: Leaderboard) -> str:
    """One floating table a complete set; it needs the packages booktabs and graphicx."""
    blocks = ["% needs \\usepackage{booktabs,graphicx}"]
    for number_, board in enumerate(made.boards):
        header, rows = _cells(made, number_, _tex, r"\textbf{{{}}}", r"{}\textsuperscript{{{}}}")
        align = "".join("l" if i in (1, 4, 5) else "r" for i in range(len(header)))
        note = " ".join(caveats(made)[:1])
        caption = f"{board_title(board)}, best mean rank first, 95 \\% intervals in brackets. Rows that share a letter "
        caption += "cannot be told apart."
        blocks += [
            "\\begin{table*}",
            "\\centering",
            f"\\caption{{{caption} {_tex(note)}}}",
            "\\resizebox{\\textwidth}{!}{%",
            f"\\begin{{tabular}}{{{align}}}",
            "\\toprule",
            f"{' & '.join(header)} \\\\",
            "\\midrule",
            *(f"{' & '.join(row)} \\\\" for row in rows),
            "\\bottomrule",
            "\\end{tabular}}",
            "\\end{table*}",
        ]
    return "\n".join(blocks) + "\n"


def _cells(
    made: Leaderboard, place: int, escape: Callable[[str], str], bold: str, raised: str
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one board; the best value of each benchmark bold, its group raised."""
    standing, board = made.standing, made.boards[place]
    header = ["", "row", "mean rank", "mean score", "group: questions", "group: benchmarks"]
    header += [_column_title(standing.benchmarks[j]) for j in board.columns]
    rows = []
    for i, row in enumerate(board.rows):
        cells = [
            board.places[i],
            escape(standing.labels[row]),
            escape(f"{number(board.mean_rank[i], 2)} {ranged(board.rank_low[i], board.rank_high[i], 2)}"),
            escape(f"{number(board.mean_score[i])} {ranged(board.score_low[i], board.score_high[i])}"),
            made.question_letters[place][row],
            made.benchmark_letters[place][row],
        ]
        for j in board.columns:
            text = escape(number(standing.value[row, j]))
            if standing.oriented[row, j] == max(standing.oriented[board.rows, j]):
                text = bold.format(text)
            letters = made.letters[row, j]
            cells.append(text if letters == "unknown" else raised.format(text, letters))
        rows.append(cells)
    return [escape(title) for title in header], rows


def _column_title(benchmark: Benchmark) -> str:
    unit = "" if benchmark.unit == "percent" else f" ({benchmark.unit})"
    return benchmark.name + unit + ("" if benchmark.higher_is_better else " \u2193")


def _md(text: str) -> str:
    """Backslashes before everything that Markdown could read as markup; line breaks were made visible on reading."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", text.replace("&", "&amp;"))


def _tex(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
