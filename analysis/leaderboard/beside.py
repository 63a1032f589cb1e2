"""Runs beside a published table: every column of the table, what is missing said to be missing."""

from __future__ import annotations

__all__ = ["MISSING", "beside_table", "differences", "render_beside"]

from collections.abc import Sequence

import polars as pl

from vlm_backbones.analysis.leaderboard.published_columns import PublishedColumn
from vlm_backbones.analysis.leaderboard.standing import Standing
from vlm_backbones.analysis.leaderboard.words import number

MISSING = "missing"

_SCHEMA = {
    "benchmark": pl.String, "entry": pl.String, "kind": pl.String, "value": pl.Float64, "unit": pl.String,
    "status": pl.String, "n": pl.Int64, "n_missing": pl.Int64, "comparable": pl.Boolean, "differs": pl.String,
}  # fmt: skip


def beside_table(standing: Standing, columns: Sequence[PublishedColumn]) -> pl.DataFrame:
    """Return one line a benchmark and entry, in the order of the columns.

    `status` is `published`, `measured` or `missing`; a missing value is null. `comparable` and `differs` say what of
    lmms-eval's task is not as it was published; `comparable` is false for the columns of another split or question.
    """
    facts = {row.column: row for row in columns}
    place = {benchmark.name: j for j, benchmark in enumerate(standing.benchmarks)}
    own = [
        row.column for row in columns if row.comparable or row.column in place
    ]  # another split or question only if measured
    ordered = [name for row in columns for name in (row.beside, row.column) if name in own or name == row.beside]
    published = [benchmark.name for j, benchmark in enumerate(standing.benchmarks) if _is_published(standing, j)]
    names = [name for name in dict.fromkeys([*ordered, *published]) if name is not None]
    rows = []
    for name in names:
        j, fact = place.get(name), facts.get(name)
        for i, entry in enumerate(standing.entries):
            cell = standing.cells.get((i, j)) if j is not None else None
            status = MISSING if cell is None else "published" if entry.kind == "published" else "measured"
            rows.append((
                name, standing.labels[i], entry.kind, cell.value if cell else None,
                standing.benchmarks[j].unit if j is not None else None, status, cell.n if cell else None,
                cell.n_missing if cell else None, fact.comparable if fact else None, fact.differs if fact else None,
            ))  # fmt: skip
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")


def _is_published(standing: Standing, benchmark: int) -> bool:
    return any(
        entry.kind == "published" and (i, benchmark) in standing.cells for i, entry in enumerate(standing.entries)
    )


def render_beside(table: pl.DataFrame) -> list[dict[str, str]]:
    """Return one row of text a benchmark, one column an entry; what nobody measured or graded is marked."""
    rows: dict[str, dict[str, str]] = {}
    for line in table.iter_rows(named=True):
        row = rows.setdefault(line["benchmark"], {"benchmark": line["benchmark"]})
        without = f" ({line['n_missing']} {MISSING})" if line["n_missing"] else ""
        row[line["entry"]] = MISSING if line["value"] is None else number(line["value"]) + without
    return list(rows.values())


def differences(table: pl.DataFrame) -> list[str]:
    """Return one line for each benchmark that a run was measured on: what of its task is not as it was published."""
    measured = table.filter((pl.col("status") == "measured") & pl.col("differs").is_not_null())
    rows = measured.unique("benchmark", maintain_order=True)
    return [
        f"{row['benchmark']}: {'' if row['comparable'] else 'not comparable, '}{row['differs']}"
        for row in rows.iter_rows(named=True)
    ]
