"""Questions of two runs meet by content, and are never guessed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vlm_backbones.analysis.pairing import pair_runs
from vlm_backbones.analysis.samples import read_samples
from vlm_backbones.errors import LogError


def rows(make: SimpleNamespace, scores: list[float], prompt: str = "{}") -> list[dict[str, object]]:
    return [make.row(i, "yes", "yes", s, input=prompt.format(f"Is {i} even")) for i, s in enumerate(scores)]


def test_prompts_worded_differently_pair_by_what_remains(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1], "USER: {}?\nASSISTANT:"))
    make.log(tmp_path / "b", rows(make, [0, 0, 1], "{}? Answer briefly."))
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert paired.score.tolist() == [[1, 0, 1], [0, 0, 1]]


def test_order_of_rows_does_not_matter(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1]))
    make.log(tmp_path / "b", rows(make, [0, 0, 1])[::-1])
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert paired.score.tolist() == [[1, 0, 1], [0, 0, 1]]


def test_a_limited_run_leaves_missing_questions(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1, 1]))
    make.log(tmp_path / "b", rows(make, [0, 0]))
    paired = pair_runs(read_samples([tmp_path]), ["a", "b"])
    assert np.isnan(paired.score[1]).sum() == 2


def test_other_targets_for_one_document_are_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0]))
    make.log(tmp_path / "b", [make.row(0, "no", "no", 1.0, input="Is 0 even")])
    with pytest.raises(LogError, match="doc_id 0 has different targets"):
        pair_runs(read_samples([tmp_path]), ["a", "b"])


def test_other_questions_under_the_same_numbers_do_not_pair(tmp_path: Path, make: SimpleNamespace) -> None:
    make.log(tmp_path / "a", rows(make, [1, 0, 1]))
    other = [make.row(i, "yes", "yes", 1.0, input=f"Was {9 - i} odd") for i in range(3)]
    make.log(tmp_path / "b", other)
    with pytest.raises(LogError, match="no question in common"):
        pair_runs(read_samples([tmp_path]), ["a", "b"])


def test_doc_keys_pair_whatever_the_numbers_are(study_dir: Path) -> None:
    frame = read_samples([study_dir]).filter(task="seismic_coords", condition="clean")
    paired = pair_runs(frame, ["pocket-llama-1", "pocket-llama-3"])
    assert paired.rows.shape == (2, 120)
    assert (paired.rows >= 0).all()
    assert paired.singletons
