"""Which study a bare `lmms-eval --model backbone_vlm` takes is said where it may not be the expected one."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_backbones.cache import read_last_study
from vlm_backbones.pipeline import _remember
from vlm_backbones.study import load_study


def test_a_shortened_study_and_one_in_place_of_another_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    full, short = tmp_path / "full", tmp_path / "short"

    def said(out: Path, *overrides: str) -> str:
        _remember(load_study("pocket", overrides), out)
        return capsys.readouterr().err

    assert said(full) == ""
    checkpoint = full / "pocket-llama-3" / "checkpoint"
    assert said(short, "evaluation.limit=5", "recipe.finetune.steps=2") == (
        f"note: `lmms-eval --model backbone_vlm` now takes pocket-llama-3 of {short} (not the shipped study pocket: "
        f"other recipe, evaluation); before: --model_args pretrained={checkpoint}\n"
    )
    last = read_last_study()
    assert last is not None
    assert last["note"] == "not the shipped study pocket: other recipe, evaluation"
    assert "before: " in said(full)
    assert said(full) == ""
    assert read_last_study() == {"study": str(full), "backbone": "pocket-llama-3", "checkpoint": str(checkpoint)}
