"""Paths in, a leaderboard out: the one call behind `vlm-backbones leaderboard`."""

from __future__ import annotations

__all__ = ["write_leaderboard"]

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlm_backbones.analysis.columns import write_tables
from vlm_backbones.analysis.leaderboard.beside import beside_table, differences
from vlm_backbones.analysis.leaderboard.logged import parse_wanted
from vlm_backbones.analysis.leaderboard.sources import read_standing, shipped_columns
from vlm_backbones.analysis.leaderboard.tables import build_leaderboard, build_tables
from vlm_backbones.analysis.leaderboard.text import render_markdown, render_tex
from vlm_backbones.analysis.report.leaderboard_page import write_page
from vlm_backbones.cache import atomic_write_text


def write_leaderboard(
    paths: Sequence[str],
    out: Path,
    *,
    runs: Mapping[str, Path] | None = None,
    benchmarks: Sequence[str] = (),
    cluster_key: str | None = None,
    score_key: str | None = None,
    bootstrap: int = 10_000,
    seed: int = 0,
) -> Path:
    """Write OUT/leaderboard.html, .md, .tex, three tables (CSV and parquet) and OUT/charts; return the page's path.

    Where runs stand beside a shipped table, OUT/published.csv has every column of it for every row.

    Parameters
    ----------
    paths : shipped table names, published tables (.csv), results files, logs of samples, or folders of both.
    out : the folder to write.
    runs : name -> path, for logs whose folder does not name the run.
    benchmarks : NAME=TASK or NAME=TASK:METRIC, which puts a task's metric into the column NAME.
    cluster_key, score_key : as of `vlm_backbones.analysis.analyze`.
    bootstrap : draws of each interval; `seed` makes them repeatable.

    Raises
    ------
    ConfigError, DataError, LogError
        If an option or a source is malformed, or sources contradict each other.
    """
    standing = read_standing(
        paths,
        runs=runs,
        wanted=[parse_wanted(text) for text in benchmarks],
        cluster_key=cluster_key,
        score_key=score_key,
        bootstrap=bootstrap,
        seed=seed,
    )
    columns = shipped_columns(paths)
    beside = None
    if columns and any(entry.kind == "run" for entry in standing.entries):
        beside = beside_table(standing, columns)
        differing = [f"Not as published: {line}." for line in differences(beside)]
        standing = replace(standing, notes=[*standing.notes, *differing])
    made = build_leaderboard(standing, bootstrap=bootstrap, seed=seed)
    tables = build_tables(made)
    if beside is not None:
        tables["published"] = beside
    else:
        for stale in out.glob("published.*"):
            stale.unlink()
    write_tables(tables, out)
    atomic_write_text(out / "leaderboard.md", render_markdown(made))
    atomic_write_text(out / "leaderboard.tex", render_tex(made))
    return write_page(made, out)
