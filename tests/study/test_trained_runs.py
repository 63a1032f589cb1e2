"""Runs of one study that were not trained alike are refused: each way is trained for real, two steps long."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from vlm_backbones.control import check_study
from vlm_backbones.data.conversations import Example
from vlm_backbones.errors import ConfigError
from vlm_backbones.hashes import sealed_json
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.study import Study, load_study
from vlm_backbones.train import dataset, finetune
from vlm_backbones.trained_runs import check_trained_runs, training_notes


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
    (out / "backbone-seed1" / "run.json").write_text(sealed_json({**record, "seed": 1}))
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
    assert any(problem.startswith("align: the order of the examples differs: backbone ") for problem in found)


def test_a_smaller_batch_for_one_backbone(study_file: Path, out: Path, tmp_path: Path) -> None:
    """What a user does by hand whose memory was not enough for one of the backbones."""
    path = changed(study_file, tmp_path, lambda stage: stage.update(batch_size=2))
    train(path, study_file.parent / "other", out)
    found = problems(study_file, out)
    said = "finetune: the examples an optimizer step (the effective batch) differ: backbone 4; other 2."
    assert any(problem.startswith(said) for problem in found)
    assert any("other was not trained by the study's recipe: finetune.batch_size is 2, not 4." in row for row in found)


def test_pictures_prepared_in_another_way(study_file: Path, out: Path, tmp_path: Path) -> None:
    path = changed(study_file, tmp_path, lambda stage: stage.update(image_aspect_ratio="pad"))
    train(path, study_file.parent / "other", out)
    by_recipe, by_pictures = problems(study_file, out)
    assert "finetune.image_aspect_ratio is pad, not None." in by_recipe
    assert by_pictures.startswith("finetune: pictures are not prepared alike: backbone ")


def test_a_loss_of_other_kernels(study_file: Path, out: Path) -> None:
    train(study_file, study_file.parent / "other", out)
    path = out / "other" / "run.json"
    record = json.loads(path.read_text())
    record["stages"]["finetune"]["fused_loss"] = True  # there is no GPU here
    path.write_text(sealed_json(record))
    (found,) = problems(study_file, out)
    assert found.startswith(
        "finetune: the loss is computed by liger-kernel in some runs only: backbone False; other True"
    )


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
    deviating = Study.model_validate({**study.model_dump(), "deviations": declared})
    check_trained_runs(deviating, out)

    # what was not declared is compared all the same
    record = out / "other" / "run.json"
    content = json.loads(record.read_text())
    content["stages"]["align"]["batch_size"] = 2
    content["stages"]["finetune"]["image_processor"] = "another"
    record.write_text(sealed_json(content))
    with pytest.raises(ConfigError) as caught:
        check_trained_runs(deviating, out)
    assert [line.partition(": backbone")[0] for line in str(caught.value).splitlines()[1:]] == [
        "- align: the examples an optimizer step (the effective batch) differ",
        "- finetune: pictures are not prepared alike",
    ]


SETTINGS: dict[str, Any] = {
    "learning_rate": 0.5,
    "weight_decay": 0.25,
    "schedule": "constant",
    "max_grad_norm": 0.125,
    "trainable": ["projector"],
    "max_length_tokens": 99,
    "answer_weighting": "inverse_sqrt_length",
    "precision": "bf16",
    "data_seed": 3,
}


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_of_the_recipe_that_only_one_run_has(study_file: Path, out: Path, tmp_path: Path, key: str) -> None:
    """As of a folder that was copied from a study of other values; what has no effect on the weights is none."""
    path = changed(study_file, tmp_path, lambda stage: stage.update({key: SETTINGS[key], "micro_batch_size": 1}))
    record = out / "backbone" / "run.json"
    content = json.loads(record.read_text())
    content["facts"]["recipe"] = load_study(path).recipe.model_dump(mode="json")
    record.write_text(sealed_json(content))
    before = getattr(load_study(study_file).recipe.finetune_stages[0], key)
    (found,) = problems(study_file, out)
    said = f"finetune.{key} is {SETTINGS[key]}, not {before}."
    assert found == f"backbone was not trained by the study's recipe: {said}"


def test_a_run_of_another_backbone_chat_format_or_recipe_format(study_file: Path, out: Path) -> None:
    record = out / "backbone" / "run.json"
    content = json.loads(record.read_text())
    content["facts"]["chat_format"] = ["vicuna_v1", None]
    content["facts"]["recipe"] = {"a newer": "one"}
    record.write_text(sealed_json({**content, "backbone": "gpt"}))
    assert problems(study_file, out) == [
        f"backbone was trained from gpt, the study says {load_study(study_file).backbones[0]}.",
        "backbone was not trained by the study's recipe: its run.json holds none that this version reads.",
        "backbone was trained in the chat format 'vicuna_v1', the study says 'native'.",
    ]


def test_a_backbone_that_changed_between_two_seeds(study_file: Path, out: Path) -> None:
    train(study_file, study_file.parent / "other", out)
    for folder, seed, source in (("backbone-seed1", 1, "changed"), ("other-seed1", 1, None)):
        shutil.copytree(out / folder.removesuffix("-seed1"), out / folder)
        record = json.loads((out / folder / "run.json").read_text())
        record["seed"] = seed
        record["facts"]["backbone"] = source or record["facts"]["backbone"]
        (out / folder / "run.json").write_text(sealed_json(record))
    found = [problem for problem in problems(study_file, out) if "start from" in problem]
    backbone = load_study(study_file).backbones[0]
    assert len(found) == 1
    assert found[0].startswith(f"backbone-seed1 and backbone did not start from the same files of {backbone}.")


@pytest.mark.parametrize("spoilt", [None, [], "x", {"a": 1}, {"a": None}])
def test_records_that_anybody_wrote_are_no_traceback(study_file: Path, out: Path, tmp_path: Path, spoilt: Any) -> None:
    for key in ("facts", "stages", "versions", "hardware", "version"):
        shutil.copytree(out / "backbone", tmp_path / key)
        record = json.loads((tmp_path / key / "run.json").read_text())
        (tmp_path / key / "run.json").write_text(sealed_json({**record, key: spoilt}))
    assert all(
        isinstance(note, str) for note in training_notes({key: tmp_path / key for key in record}, is_study=False)
    )
    (out / "certificate.json").write_text(sealed_json({"equal": spoilt}))
    (out / "backbone" / "run.json").write_text(sealed_json({**record, "facts": spoilt}))
    with pytest.raises(ConfigError, match="holds none that this version reads"):
        check_trained_runs(load_study(study_file), out)


def test_what_runs_of_no_study_differ_in_is_said(study_file: Path, out: Path, tmp_path: Path) -> None:
    folders = {"one": out / "backbone", "two": tmp_path / "two"}
    shutil.copytree(folders["one"], folders["two"])
    assert training_notes(folders, is_study=False) == []
    record = json.loads((folders["two"] / "run.json").read_text())
    record["facts"]["recipe"]["finetune"]["learning_rate"] = 0.5
    record["stages"]["finetune"]["steps"] = 3
    record["versions"]["torch"] = "1.0"
    record["hardware"]["device"] = "an abacus"
    record["backbone"] = "the same under another name"
    (folders["two"] / "run.json").write_text(sealed_json(record))
    same, where, steps, recipe = training_notes(folders, is_study=False)
    assert same.startswith("one and two started from the same LLM files")
    assert f"torch {version('torch')} (one), 1.0 (two); on " in where
    assert "an abacus (two). The last digits" in where
    assert steps.startswith("finetune: the optimizer steps differ: one 2; two 3.")
    assert "two was not trained by the recipe of one: finetune.learning_rate is 0.5, not 0.01." in recipe
    assert training_notes(folders, is_study=True) == [same, where]
