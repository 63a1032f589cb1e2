"""Runs of one study that were not trained alike are refused: each way is trained for real, two steps long."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from vlm_backbones._trained_runs import check_trained_runs
from vlm_backbones.control import check_study
from vlm_backbones.data.conversations import Example
from vlm_backbones.errors import ConfigError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.study import Study, load_study
from vlm_backbones.train import dataset, finetune


@pytest.fixture(scope="module")
def study_file(tiny_parts: ModuleType, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two backbones and two seeds, its certificate in `out/`, the first backbone's first run trained."""
    folder = tmp_path_factory.mktemp("alike")
    tiny_parts.build_backbone(folder / "other", seed=1)
    content = tiny_parts.study_text(parts, steps=2) | {"seeds": [0, 1]}
    content["backbones"] = [str(parts / "backbone"), str(folder / "other")]
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    check_study(load_study(path), folder / "out")
    train(path, parts / "backbone", folder / "out")
    return path


@pytest.fixture
def out(study_file: Path, tmp_path: Path) -> Path:
    """A copy of the study's folder for one test to add a run to."""
    return Path(shutil.copytree(study_file.parent / "out", tmp_path / "out"))


def train(study: Path, backbone: Path, out: Path) -> None:
    arguments = ["--study", str(study), "--backbone", str(backbone), "--out", str(out), "--threads", "1"]
    assert finetune.main(arguments) == 0


def changed(study_file: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = yaml.safe_load(study_file.read_text(encoding="utf-8"))
    change(content["recipe"]["finetune"])
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def problems(study_file: Path, out: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_trained_runs(load_study(study_file), out)
    first, *lines = str(caught.value).splitlines()
    assert "cannot be compared, not only their backbones differ" in first
    return [line.removeprefix("- ") for line in lines]


def test_runs_that_are_trained_alike_pass(study_file: Path, out: Path) -> None:
    train(study_file, study_file.parent / "other", out)
    assert {json.loads(path.read_text())["state"] for path in out.glob("*/run.json")} == {"finished"}
    check_trained_runs(load_study(study_file), out)


def test_a_seed_that_was_not_passed_on(study_file: Path, out: Path) -> None:
    """A script that forgot `--seed` trains the first seed again, under the second one's name."""
    shutil.copytree(out / "backbone", out / "backbone-seed1")
    found = problems(study_file, out)
    assert found[0].startswith("backbone-seed1 was trained with seed 0, the study says 1.")
    assert found[1].startswith("backbone-seed1 has the same weights as backbone: the seed was not passed on")
    record = json.loads((out / "backbone-seed1" / "run.json").read_text())
    (out / "backbone-seed1" / "run.json").write_text(json.dumps({**record, "seed": 1}))
    (found_weights,) = problems(study_file, out)  # a record that says otherwise does not help
    assert "the same weights" in found_weights


def test_an_order_that_follows_the_tokenizers_lengths(
    study_file: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(study_file.parent / "other")

    def by_tokens(examples: Sequence[Example], recipe: StageRecipe) -> list[list[int]]:
        sizes = [len(tokenizer(turn.question + turn.answer)["input_ids"]) for ex in examples for turn in ex.turns[:1]]
        longest = sorted(range(len(examples)), key=lambda index: -sizes[index])
        return [longest[4 * step : 4 * step + 4] for step in range(recipe.steps or 0)]

    monkeypatch.setattr(dataset, "order_examples", by_tokens)
    train(study_file, study_file.parent / "other", out)
    found = problems(study_file, out)
    assert found[0].startswith("other, align: the steps did not see the examples in the certificate's order")
    assert any(problem.startswith("the order of the examples differs: backbone: align") for problem in found)


def test_a_smaller_batch_for_one_backbone(study_file: Path, out: Path, tmp_path: Path) -> None:
    """What a user does by hand whose memory was not enough for one of the backbones."""
    path = changed(study_file, tmp_path, lambda stage: stage.update(batch_size=2))
    train(path, study_file.parent / "other", out)
    found = problems(study_file, out)
    assert any(
        problem.startswith("the examples an optimizer step (the effective batch) differ")
        and "backbone: align 4, finetune 4; other: align 4, finetune 2" in problem
        for problem in found
    )


def test_pictures_prepared_in_another_way(study_file: Path, out: Path, tmp_path: Path) -> None:
    path = changed(study_file, tmp_path, lambda stage: stage.update(image_aspect_ratio="pad"))
    train(path, study_file.parent / "other", out)
    (found,) = problems(study_file, out)
    assert found.startswith("pictures are not prepared alike: backbone: align")


def test_a_loss_of_other_kernels(study_file: Path, out: Path) -> None:
    train(study_file, study_file.parent / "other", out)
    path = out / "other" / "run.json"
    record = json.loads(path.read_text())
    record["stages"]["finetune"]["fused_loss"] = True  # there is no GPU here
    path.write_text(json.dumps(record))
    (found,) = problems(study_file, out)
    assert found.startswith("the loss is computed by liger-kernel in some runs only: backbone: align False")


def test_code_of_another_version(study_file: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = finetune.VERSION
    monkeypatch.setattr(finetune, "VERSION", before + 1)
    train(study_file, study_file.parent / "other", out)
    (found,) = problems(study_file, out)
    shown = f"backbone by version {before}, other by version {before + 1}"
    assert found == f"the training code changed between the runs: {shown}. Train every run again in another --out."


def test_a_declared_deviation_is_no_confound(study_file: Path, out: Path, tmp_path: Path) -> None:
    path = changed(study_file, tmp_path, lambda stage: stage.update(batch_size=2))
    train(path, study_file.parent / "other", out)
    study = load_study(study_file)
    declared = {study.backbones[1]: {"finetune.batch_size": 2, "reason": "its memory"}}
    check_trained_runs(Study.model_validate({**study.model_dump(), "deviations": declared}), out)
