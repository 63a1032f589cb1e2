"""Numbers inside the charts' spoken labels: a value and its interval, or that there is none."""

from __future__ import annotations

__all__ = ["ranged"]

import polars as pl


def ranged(value: str, low: str, high: str, *, digits: int, percent: bool = False, absolute: bool = False) -> pl.Expr:
    """Text of three columns: "0.31 [0.28, 0.35]"; what is undefined is said to be, never written as NaN."""
    ends = [_shown(name, digits, percent, absolute) for name in (value, low, high)]
    unit = " %" if percent else ""
    no_range = pl.lit("(interval not defined)")
    between = pl.when(_known(low) & _known(high)).then(pl.format("[{}, {}]", *ends[1:])).otherwise(no_range)
    whole = pl.when(_known(value)).then(pl.format("{}" + unit + " {}", ends[0], between))
    return whole.otherwise(pl.lit("not defined"))


def _known(name: str) -> pl.Expr:
    number = pl.col(name).cast(pl.Float64)
    return number.is_not_null() & number.is_not_nan()


def _shown(name: str, digits: int, percent: bool, absolute: bool) -> pl.Expr:
    number = pl.col(name).cast(pl.Float64) * (100 if percent else 1)
    return (number.abs() if absolute else number).round(digits)
