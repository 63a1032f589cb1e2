"""A study is strict: it says everything that is wrong, once, and names what was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm_backbones.errors import ConfigError
from vlm_backbones.run import Run
from vlm_backbones.study import Study, load_study

STAGE = {"steps": 10, "batch_size": 8, "learning_rate": 1e-3}
STUDY: dict[str, Any] = {
    "name": "mine",
    "backbones": ["pocket-llama-1", "pocket-llama-3"],
    "vision_tower": "pocket-vision",
    "recipe": {"align": STAGE | {"trainable": ["projector"]}, "finetune": STAGE},
    "tasks": ["vqa_scene", "seismic_coords"],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes), encoding="utf-8")
    return path


def problem(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    return str(caught.value)


def test_every_shipped_study_is_valid() -> None:
    from vlm_backbones._study_loading import STUDIES

    files = sorted(STUDIES.glob("*.yaml"))
    assert {file.stem for file in files} == {"pocket", "pocket-seeds", "smollm", "barn", "llava-1.5", "vip-llava"}
    for file in files:
        assert load_study(file.stem).name == file.stem


def test_a_resolved_study_reads_back_equal(tmp_path: Path) -> None:
    study = load_study(write(tmp_path), ["seeds=[0,2]"])
    (tmp_path / "study.yaml").write_text(study.model_dump_yaml(), encoding="utf-8")
    assert load_study(tmp_path) == study


def test_overrides_reach_inside_a_recipe_given_by_name() -> None:
    study = load_study("pocket", ["recipe.finetune.steps=5", "recipe.finetune.learning_rate=1e-4"])
    stage = study.recipe.finetune_stages[0]
    assert (stage.steps, stage.learning_rate) == (5, 1e-4)
    assert study.recipe.name == "pocket"


def test_all_problems_come_at_once_with_the_nearest_known_word(tmp_path: Path) -> None:
    path = write(tmp_path, analyis={}, tasks=["vqa_sceen"], backbones=["pocket-lama-1"], vision_tower="./nowhere")
    message = problem(path, "recipe.finetune.setps=3")
    assert str(path) in message
    assert "unknown key 'analyis'. Did you mean 'analysis'?" in message
    assert "unknown key 'recipe.finetune.setps'. Did you mean 'steps'?" in message
    assert "unknown task 'vqa_sceen'. Did you mean 'vqa_scene'?" in message
    assert "unknown id 'pocket-lama-1'. Did you mean 'pocket-llama-1'?" in message
    assert "no folder" in message
    assert message.startswith(f"{path}: 5 problems")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("recipe.finetune.steps=-3", "recipe.finetune.steps: Input should be greater than or equal to 1"),
        ("recipe.finetune.epochs=1", "exactly one of 'steps' and 'epochs'"),
        ("recipe=pockets", "unknown recipe 'pockets'. Did you mean 'pocket'?"),
        ("recipe.finetune.lora={r: 8, aplha: 2}", "unknown key 'recipe.finetune.lora.aplha'. Did you mean 'alpha'?"),
        ("backbones=[pocket-llama-1,pocket-llama-1]", "names 'pocket-llama-1' twice"),
        ("analysis.conditions=[swop]", "analysis.conditions.0"),
        ("deviations={pocket-llama-1: {finetune.learning_rate: 1e-4}}", "needs a 'reason'"),
        ("deviations={pocket-llama-1: {finetune.lr: 1e-4, reason: why}}", "does not fit the recipe (no key 'lr')"),
        ("deviations={pocket-llama-1: {align: null, reason: why}}", "leaves out or adds a stage"),
        ("deviations={pocket-llama-2: {finetune.steps: 4, reason: why}}", "is not one of 'backbones'"),
        ("chat_format=vicuna", "unknown chat format 'vicuna'. Did you mean 'vicuna_v1'?"),
        ("chat_format=plain", "give it to the recipe's align stage"),
        ("chat_format={pocket-llama-2: shared}", "'chat_format' names 'pocket-llama-2', which is not one of"),
        (
            "recipe.align.chat_format=plane",
            "align.chat_format: unknown chat format 'plane'. Did you mean 'plain'?",
        ),
        ("recipe.finetune.chat_format=plain", "the last stage cannot use chat_format 'plain'"),
        ("recipe.finetune.quantization=nf4", "'quantization' freezes the llm in 4 bits: add 'lora'"),
        ("recipe.finetune.micro_batch_size=3", "'micro_batch_size' 3 does not divide 'batch_size'"),
        ("recipe.align.image_aspect_ratio=square", "image_aspect_ratio: Input should be 'pad' or 'crop'"),
        (
            "recipe.finetune={trainable: [llm], projector_learning_rate: 1, steps: 1, batch_size: 1, learning_rate: 1}",
            "'trainable' does not name the projector",
        ),
        ("data.stages={finetune-2: [a]}", "'data' names the stage 'finetune-2'. Did you mean 'finetune'?"),
        ("steps", "is not key=value"),
        ("name=a/b", "name: String should match pattern"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in problem(write(tmp_path), override)


def test_a_problem_of_an_override_names_the_override_and_not_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert problem(path, "analyis.bootstrap=100") == (
        "--set analyis.bootstrap=100: unknown key 'analyis'. Did you mean 'analysis'?"
    )
    message = problem(write(tmp_path, tasks=["vqa_sceen"]), "evaluation.limt=3", "evaluation.batch_size=4")
    assert message.splitlines() == [
        f"{path}: 2 problems",
        "  - --set evaluation.limt=3: unknown key 'evaluation.limt'. Did you mean 'limit'?",
        "  - tasks: unknown task 'vqa_sceen'. Did you mean 'vqa_scene'?",
    ]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, "'"])
def test_a_value_of_set_that_no_reader_takes_is_a_problem(tmp_path: Path, value: str) -> None:
    for key in ("recipe", "seeds"):
        assert "is not valid YAML" in problem(write(tmp_path), f"{key}={value}")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"task_paths": ["a\0b"]}, "no file can have a NUL"),
        ({"data": {"stages": {"finetune": ["a\0b"]}}}, "no file can have a NUL"),
        ({"recipe": "[" * 5000}, "recipe"),
        ({"recipe": "~nobody-here/x"}, "recipe"),
        ({"vision_tower": "a/" * 3000}, "vision_tower: no folder"),
        ({"backbones": ["~nobody-here/x"]}, "backbones: no folder"),
        ({"task_paths": ["a/" * 3000], "tasks": ["mine"]}, "unknown task 'mine'"),
    ],
)
def test_a_path_that_no_file_can_have_is_a_problem_like_others(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    assert expected in problem(write(tmp_path, **change))


def test_malformed_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nbackbones: [a\n", encoding="utf-8")
    message = problem(path)
    assert str(path) in message
    assert "line" in message


def test_a_file_that_is_no_recipe_is_named_and_not_quoted(tmp_path: Path) -> None:
    secrets = {
        "passwd": "root:x:0:0:hidden:/root:/bin/bash\ndaemon:x:1:1:hidden:/:/bin/sh\n",
        "netrc": "machine localhost: password: hidden\n",
        "token": "hidden\n",
        "key.yaml": "hidden: hidden\n",
        "list.yaml": "- hidden\n",
        "two": "a: hidden\n---\nb: hidden\n",
    }
    for name, content in secrets.items():
        (tmp_path / name).write_text(content)
        for message in (problem(write(tmp_path, recipe=str(tmp_path / name))), problem(write(tmp_path, recipe=name))):
            assert str(tmp_path / name) in message
            assert "hidden" not in message
    assert "Expected a YAML file with the key finetune" in problem(write(tmp_path, recipe="key.yaml"))


@pytest.mark.parametrize("name", ["charts", "report_data", "tables", "Sweep", "features", ".stages", "runs", "logs"])
def test_a_backbone_named_as_a_folder_of_the_study_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    message = problem(write(tmp_path, backbones=[f"./{name}"]))
    assert "a folder or file of the study's own: rename the backbone's folder" in message
    assert str(tmp_path / name) in message
    (tmp_path / f"{name}-7b").mkdir()
    load_study(write(tmp_path, backbones=[f"./{name}-7b"]))


def test_a_study_that_does_not_exist_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'pocket'\? Shipped studies: .*pocket-seeds"):
        load_study("pockt")
    with pytest.raises(ConfigError, match=r"Did you mean 'pocket'\?"):
        load_study("pocket.yaml")
    with pytest.raises(ConfigError, match=r"no study 'nope\.yaml': .* Shipped studies: barn, "):
        load_study("nope.yaml")


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "my-llm").mkdir()
    study = load_study(write(tmp_path, backbones=["./my-llm"], data={"finetune": "rows.json"}))
    assert study.backbones == [str(tmp_path / "my-llm")]
    assert study.data.finetune == [tmp_path / "rows.json"]
    assert Run(study.backbones[0], 2).name == "my-llm-seed2"


def test_two_revisions_of_one_backbone_are_two_runs(tmp_path: Path) -> None:
    commit = "01ab" * 10
    study = load_study(write(tmp_path, backbones=["olmo-2-1b@stage1-step1000", f"olmo-2-1b@{commit}"]))
    assert [run.name for run in study.runs()] == ["olmo-2-1b-stage1-step1000", "olmo-2-1b-01ab01a"]
    assert "unknown id 'olmo-1b@x'. Did you mean 'olmo-2-1b'" in problem(write(tmp_path, backbones=["olmo-1b@x"]))


def test_two_folders_with_one_name_are_refused(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "llm").mkdir(parents=True)
    assert "share the name 'llm'" in problem(write(tmp_path, backbones=["./a/llm", "./b/llm"]))


def test_a_deviation_changes_one_backbone_only(tmp_path: Path) -> None:
    changes = {"pocket-llama-3": {"finetune.learning_rate": 5e-4, "reason": "diverges"}}
    study = load_study(write(tmp_path, deviations=changes))
    rates = [study.recipe_for(name).finetune_stages[0].learning_rate for name in study.backbones]
    assert rates == [1e-3, 5e-4]


def test_runs_and_conditions_have_a_fixed_order(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, seeds=[0, 1], analysis={"conditions": ["swap", "clean"]}))
    names = [run.name for run in study.runs()]
    assert names == ["pocket-llama-1", "pocket-llama-3", "pocket-llama-1-seed1", "pocket-llama-3-seed1"]
    assert study.conditions() == ["clean", "swap"]


def test_stock_tasks_of_lmms_eval_are_known(tmp_path: Path) -> None:
    assert isinstance(load_study(write(tmp_path, tasks=["pope", "mme"])), Study)


def test_a_chat_format_may_be_named_for_one_backbone(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, chat_format={"pocket-llama-3": "vicuna_v1"}))
    assert [study.chat_format_for(name) for name in study.backbones] == ["native", "vicuna_v1"]
    (tmp_path / "llm").mkdir()
    study = load_study(write(tmp_path, backbones=["./llm"], chat_format={"./llm": "vicuna_v1"}))
    assert study.chat_format_for(str(tmp_path / "llm")) == "vicuna_v1"


def test_a_stage_may_have_files_of_its_own_and_shipped_studies_look_where_they_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_study("barn").data
    assert data.files_for("align") == [tmp_path / "playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json"]
    stages = {
        "recipe": {"finetune": [STAGE, STAGE]},
        "data": {"finetune": "a.json", "stages": {"finetune-2": "b.json"}},
    }
    data = load_study(write(tmp_path, **stages)).data
    assert [data.files_for(name) for name in ("finetune", "finetune-2")] == [
        [tmp_path / "a.json"],
        [tmp_path / "b.json"],
    ]
    assert data.training_files == [tmp_path / "a.json", tmp_path / "b.json"]
