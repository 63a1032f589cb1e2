"""The report's first words on the terminal, as the analysis wrote them."""

from __future__ import annotations

__all__ = ["tell_verdict"]

from pathlib import Path

import typer


def tell_verdict(report: Path) -> None:
    """Print the verdict that lies beside a report, and the report's path last."""
    typer.echo((report.parent / "verdict.txt").read_text(encoding="utf-8"))
    typer.echo(report)
