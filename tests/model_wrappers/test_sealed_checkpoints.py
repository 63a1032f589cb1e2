"""A checkpoint is evaluated as it was trained, or not at all: its seal tells damage and every later change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vlm_backbones._seals import SEAL, write_seal
from vlm_backbones.model_wrappers import evaluate
from vlm_backbones.prompts import wording_fingerprint


@pytest.fixture
def sealed(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint as training leaves it."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "sealed"))
    write_seal(folder, {"prompts": wording_fingerprint()})
    return folder


def run(checkpoint: Path, out: Path) -> int:
    options = ["--tasks", "vqa_scene", "--limit", "2", "--device", "cpu", "--out", str(out)]
    return evaluate.main([str(checkpoint), *options])


def rewritten(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("file", "meaning"),
    [
        ("chat_template.jinja", "in another chat format than the model was trained with"),
        ("processor_config.json", "pictures would be prepared in another way than in training"),
        ("generation_config.json", "stop elsewhere than at the end of turn that the model was trained with"),
        ("model.safetensors", "it is damaged, or was changed"),
    ],
)
def test_a_changed_file_is_refused_by_name(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, meaning: str
) -> None:
    path = sealed / file
    if file == "model.safetensors":
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    elif file == "chat_template.jinja":
        path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    else:
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**content, "eos_token_id": 5, "image_mean": [0.5]}), encoding="utf-8")
    assert run(sealed, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"error: {path} is not the file that was written after training" in error
    assert meaning in error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("environment")
def test_questions_in_another_wording_than_in_training_are_refused(
    sealed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sealed, tmp_path / "out") == 0
    write_seal(sealed, {"prompts": "of an earlier version"})
    capsys.readouterr()
    assert run(sealed, tmp_path / "later") == 2
    assert "was trained with another wording of the questions of vqa_scene" in capsys.readouterr().err


@pytest.mark.usefixtures("environment")
def test_a_change_that_is_meant_makes_another_model(sealed: Path, tmp_path: Path) -> None:
    rewritten(sealed / "config.json", '"architectures"', ' "architectures"')
    (sealed / SEAL).unlink()
    assert run(sealed, tmp_path / "out") == 0


@pytest.mark.usefixtures("environment")
def test_a_model_card_is_no_part_of_the_model(sealed: Path, tmp_path: Path) -> None:
    (sealed / "README.md").write_text("scores", encoding="utf-8")
    assert run(sealed, tmp_path / "out") == 0
