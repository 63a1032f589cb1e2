"""Parsed samples -> the frames that the tables read: every column there, and repeated text kept once in large logs."""

from __future__ import annotations

__all__ = [
    "SAMPLE_SCHEMA",
    "finish_batch",
    "in_slices",
    "is_large",
    "last_of_each_document",
    "metric_rows",
    "split_by",
    "where",
    "with_all_columns",
]

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from vlm_backbones.analysis.record import METRIC

# The last four stand beyond the documented columns: what the tables need of each sample.
SAMPLE_SCHEMA: dict[str, Any] = {
    "run": pl.String,
    "task": pl.String,
    "condition": pl.String,
    "doc_id": pl.String,
    "doc_key": pl.String,
    "cluster": pl.String,
    "question": pl.String,
    "target": pl.String,
    "answer": pl.String,
    "parsed": pl.String,
    "score": pl.Float64,
    "correct": pl.Boolean,
    "confidence": pl.Float64,
    "confidence_kind": pl.String,
    "option_logprobs": pl.List(pl.Struct({"option": pl.String, "logprob": pl.Float64})),
    "image_key": pl.String,
    "question_type": pl.String,
    "frame": pl.String,
    "targets": pl.String,
    "backbone": pl.String,
    "seed": pl.Int64,
    "sequence_confidence": pl.Float64,
    "per_token_confidence": pl.Float64,
}
_LARGE_BYTES = 256 * 2**20
_GZIP_RATIO = 5
_ROWS_AT_ONCE = 2**18
_MOST_PIECES = 1000
# Two bytes a sample where the values are few, four elsewhere.
_TEXT = pl.Categorical()
_NAME = pl.Categorical(pl.Categories("vlm_backbones.analysis", physical=pl.UInt16))
_NAMES = ("run", "task", "condition", "confidence_kind", "backbone", "headline")
_TEXT_ONCE: dict[str, Any] = {
    **{name: _TEXT for name, kind in SAMPLE_SCHEMA.items() if kind == pl.String},
    **dict.fromkeys(_NAMES, _NAME),
    "option_logprobs": pl.List(pl.Struct({"option": _TEXT, "logprob": pl.Float32})),  # models compute no finer
}


def is_large(paths: Sequence[Path]) -> bool:
    """Whether logs hold more than 256 MB: then text is kept as categories, each distinct text once."""
    sizes = (path.stat().st_size * (_GZIP_RATIO if path.suffix == ".gz" else 1) for path in paths)
    return sum(sizes) > _LARGE_BYTES


def finish_batch(parsed: pl.DataFrame, condition: str, large: bool) -> pl.DataFrame:
    """Fill in what the samples leave out: condition, cluster (the document's key, else the document), correctness."""
    columns = parsed.columns
    conditions = [pl.col("condition").replace("", None)] if "condition" in columns else []
    clusters = [pl.col(name).replace("", None) for name in ("cluster", "doc_key") if name in columns]
    # where no sample names a cluster, one copy of the documents' numbers serves both
    document = pl.format("doc {}", "doc_id") if clusters else pl.col("doc_id")
    finished = parsed.with_columns(
        pl.coalesce(*conditions, pl.lit(condition)).alias("condition"),
        pl.coalesce(*clusters, document).alias("cluster"),
        pl.col("question", "target").fill_null(""),
        (pl.col("score") >= 0.5).alias("correct"),
    )
    if not large:
        return finished
    return finished.cast(pl.Schema({name: _TEXT_ONCE[name] for name in finished.columns if name in _TEXT_ONCE}))


def last_of_each_document(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep a document's last sample, at the place of its first."""
    if frame["doc_id"].n_unique() == frame.height:
        return frame
    rows = frame.select("doc_id", row=pl.int_range(pl.len())).group_by("doc_id", maintain_order=True).last()
    return frame[rows["row"]]


def with_all_columns(frame: pl.DataFrame, constants: Mapping[str, Any], large: bool) -> pl.DataFrame:
    """Add what all samples of a file share, and null columns for what none of them has."""
    kinds = SAMPLE_SCHEMA | (_TEXT_ONCE if large else {})
    absent = dict.fromkeys(name for name in SAMPLE_SCHEMA if name not in frame.columns)
    added = [pl.lit(value, dtype=kinds[name]).alias(name) for name, value in (absent | dict(constants)).items()]
    if frame["parsed"].equals(frame["answer"]):
        added.append(pl.col("answer").alias("parsed"))  # one copy serves both
    return frame.with_columns(added)


def metric_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """One row a sample and metric: run, task, condition, doc_id, cluster, metric, value."""
    shared = ["run", "task", "condition", "doc_id", "cluster"]
    kind = frame.schema["run"]
    nothing = frame.head(0).select(*shared)
    parts = [nothing.with_columns(pl.lit(None, kind).alias("metric"), pl.lit(None, pl.Float64).alias("value"))]
    for column in (name for name in frame.columns if name.startswith(METRIC)):
        known = frame if frame[column].null_count() == 0 else frame.filter(pl.col(column).is_not_null())
        name = pl.lit(column.removeprefix(METRIC), kind)
        # Where the metric is the score, one copy of the numbers serves both.
        values = "score" if known[column].equals(known["score"]) else column
        parts.append(known.select(*shared, name.alias("metric"), pl.col(values).alias("value")))
    return pl.concat(parts)


def in_slices(frame: pl.DataFrame, work: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """Return one below the other what a step makes of some rows at a time.

    A query over millions of rows that came from many files first brings all their columns in line, a copy of the frame.
    """
    return pl.concat([work(part) for part in frame.iter_slices(_ROWS_AT_ONCE)] or [work(frame)])


def where(frame: pl.DataFrame, **values: str) -> pl.DataFrame:
    """The rows that have these values; not copied where they stand together, as a file's do."""
    return _taken(frame, _pieces(frame, *values), values)


def split_by(frame: pl.DataFrame, *columns: str) -> Iterator[tuple[tuple[str, ...], pl.DataFrame]]:
    """The rows by their values in some columns, in order of appearance, as `where` gives them."""
    pieces = _pieces(frame, *columns)
    for key in pieces.select(columns).unique(maintain_order=True).iter_rows():
        yield key, _taken(frame, pieces, dict(zip(columns, key, strict=True)))


def _pieces(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The values of rows that stand together and agree in some columns, with their first row and their number."""
    alike = frame.select(pl.struct(columns).rle().alias("alike")).unnest("alike")
    start = (pl.col("len").cum_sum() - pl.col("len")).alias("start")
    return alike.select(start, "len", "value").unnest("value")


def _taken(frame: pl.DataFrame, pieces: pl.DataFrame, values: Mapping[str, str]) -> pl.DataFrame:
    places = pieces.filter(**values).select("start", "len")
    if places.height > _MOST_PIECES:
        return frame.filter(**values)
    return pl.concat([frame.slice(start, count) for start, count in places.iter_rows()] or [frame.clear()])
