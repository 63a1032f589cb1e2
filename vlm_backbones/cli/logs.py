"""`vlm-backbones analyze` and `leaderboard`: from logs of anybody to tables and pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_backbones._console import print_rows
from vlm_backbones.cache import check_writable
from vlm_backbones.cli._common import named_paths, new_group, tell
from vlm_backbones.errors import ConfigError

__all__ = ["group"]

group = new_group()


@group.command()
def analyze(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH...", help="Folders with lmms-eval logs.")] = None,
    run: Annotated[list[str] | None, typer.Option("--run", metavar="NAME=PATH", help="Name a run.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Gets tables/ and report.html.")] = Path("analysis-out"),
    cluster_key: Annotated[str | None, typer.Option("--cluster-key", help="What groups dependent samples.")] = None,
    score_key: Annotated[str | None, typer.Option("--score-key", help="The sample's score.")] = None,
    study_dir: Annotated[
        Path | None, typer.Option("--study-dir", help="Where certificate.json is, unless PATH is a study's folder.")
    ] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=100)] = 10_000,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    inline_images: Annotated[
        bool, typer.Option("--inline-images", help="Samples and images inside the page: one file to send.")
    ] = False,
) -> None:
    """Read any lmms-eval logs and write tables and one report; no model, no torch."""
    if not paths and not run:
        raise ConfigError("nothing to analyze: give folders with lmms-eval logs, or --run NAME=PATH.")
    named = named_paths(run)
    for path in [*(paths or []), *named.values()]:
        if not path.exists():
            raise ConfigError(f"no file or folder {path}.")
    check_writable(out)
    if study_dir is None and paths and len(paths) == 1 and (paths[0] / "certificate.json").is_file():
        study_dir = paths[0]
    if study_dir is not None and (study_dir / "study.yaml").is_file():
        from vlm_backbones.study import load_study
        from vlm_backbones.trained_runs import check_trained_runs

        check_trained_runs(load_study(study_dir), study_dir)
    from vlm_backbones import analysis
    from vlm_backbones._verdict_display import tell_verdict

    report = analysis.analyze(
        paths or [],
        out,
        runs=named or None,
        cluster_key=cluster_key,
        score_key=score_key,
        study_dir=study_dir,
        bootstrap=bootstrap,
        seed=seed,
        inline_images=inline_images,
        tell=tell,
    )
    tell_verdict(report)


@group.command()
def leaderboard(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Folders or files of lmms-eval outputs, published tables (CSV), or a shipped one: vip-llava-study.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Gets leaderboard.html and tables.")] = Path("leaderboard-out"),
    run: Annotated[list[str] | None, typer.Option("--run", metavar="NAME=PATH", help="Name a run.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="NAME=TASK[:METRIC]", help="Put a task's metric into the column NAME."),
    ] = None,
    cluster_key: Annotated[str | None, typer.Option("--cluster-key", help="What groups dependent samples.")] = None,
    score_key: Annotated[str | None, typer.Option("--score-key", help="The sample's score.")] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=100)] = 10_000,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Put runs and published tables side by side, with ranks, intervals and what cannot be told apart."""
    if not paths and not run:
        raise ConfigError("nothing to rank: give runs, published tables (CSV) or the shipped table vip-llava-study.")
    named = named_paths(run)
    check_writable(out)
    tell(f"reading {', '.join([*(paths or []), *(run or [])])}")
    from vlm_backbones.analysis.leaderboard.write import write_leaderboard

    page = write_leaderboard(
        paths or [],
        out,
        runs=named,
        benchmarks=benchmark or [],
        cluster_key=cluster_key,
        score_key=score_key,
        bootstrap=bootstrap,
        seed=seed,
    )
    _print_beside_published(out / "published.parquet")
    typer.echo(page)


def _print_beside_published(table: Path) -> None:
    """Show runs beside a shipped table, what is missing marked."""
    if table.is_file():
        import polars as pl

        from vlm_backbones.analysis.leaderboard.beside import differences, render_beside

        beside = pl.read_parquet(table)
        print_rows(render_beside(beside))
        typer.echo("What our numbers differ in from the published ones:")
        for line in differences(beside):
            typer.echo(f"  {line}")
