"""Large logs keep each distinct text once and say the same as small ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from vlm_backbones.analysis import _log_lines, _sample_frame, pairing, task_runs
from vlm_backbones.analysis.columns import TABLES
from vlm_backbones.analysis.pairing import Paired
from vlm_backbones.analysis.pipeline import analyze
from vlm_backbones.analysis.samples import SAMPLE_SCHEMA, load_logs


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with text where it has categories."""
    return frame.cast({name: SAMPLE_SCHEMA.get(name, pl.String) for name in frame.columns if name != "value"})


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every log counts as large."""
    monkeypatch.setattr(_sample_frame, "_LARGE_BYTES", 0)


def test_size_decides_and_compressed_logs_count_five_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sample_frame, "_LARGE_BYTES", 100)
    for name, size, found in (("a.jsonl", 100, False), ("b.jsonl", 101, True), ("c.jsonl.gz", 21, True)):
        (tmp_path / name).write_bytes(b"x" * size)
        assert _sample_frame.is_large([tmp_path / name]) == found


def test_samples_and_metrics_are_the_same(study_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_logs([study_dir])
    monkeypatch.setattr(_sample_frame, "_LARGE_BYTES", 0)
    large = load_logs([study_dir])
    assert large.samples.schema["question"] == pl.Categorical()
    assert_frame_equal(as_text(large.samples), small.samples)
    assert_frame_equal(as_text(large.metrics), small.metrics)
    assert (large.headline, large.notes) == (small.headline, small.notes)


@pytest.mark.parametrize("rows", [1, 7])
def test_the_size_of_a_batch_does_not_matter(study_dir: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    whole = load_logs([study_dir / "pocket-llama-1"])
    monkeypatch.setattr(_log_lines, "_BATCH", rows)
    parts = load_logs([study_dir / "pocket-llama-1"])
    assert_frame_equal(parts.samples, whole.samples)
    assert_frame_equal(parts.metrics, whole.metrics)


@pytest.mark.usefixtures("large")
def test_tables_are_the_same(study_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyze([study_dir], tmp_path / "large", bootstrap=100)
    monkeypatch.setattr(_sample_frame, "_LARGE_BYTES", 2**60)
    analyze([study_dir], tmp_path / "small", bootstrap=100)
    for name in TABLES:
        large, small = (pl.read_parquet(tmp_path / size / "tables" / f"{name}.parquet") for size in ("large", "small"))
        assert_frame_equal(large, small)


@pytest.mark.usefixtures("large")
def test_logs_of_other_models_pair_by_their_text(tmp_path: Path, make: SimpleNamespace) -> None:
    for run, prompt in (("a", "{}? Answer."), ("b", "Question: {}")):
        rows = [make.row(i, "a", "a", float(i % 2), input=prompt.format(f"Is {i} even")) for i in range(60)]
        make.log(tmp_path / "in" / run, rows)
    analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100)
    row = pl.read_parquet(tmp_path / "out" / "tables" / "agreement.parquet").row(0, named=True)
    assert (row["n"], row["n11"], row["n00"], row["n_missing"]) == (60, 30, 30, 0)


def test_a_task_is_paired_once_for_all_tables_and_the_report(
    tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairing by text takes most of the memory of a large analysis."""
    paired: list[int] = []

    def pair_runs(samples: pl.DataFrame, runs: list[str]) -> Paired:
        paired.append(samples.height)
        return pairing.pair_runs(samples, runs)

    monkeypatch.setattr(task_runs, "pair_runs", pair_runs)
    for run, prompt in (("a", "{}"), ("b", "Q: {}"), ("c", "{}")):
        rows = [make.row(i, "a", "a", float(i % 2), input=prompt.format(f"Is {i} even")) for i in range(60)]
        make.log(tmp_path / "in" / run, rows)
    analyze([tmp_path / "in"], tmp_path / "out", bootstrap=100)
    assert paired == [180]
