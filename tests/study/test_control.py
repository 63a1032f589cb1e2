"""The certificate says what is equal, and an unfair comparison is refused before training."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from transformers.integrations import integration_utils

from vlm_backbones._backbone_facts import BackboneFacts, BackboneView, StageFacts
from vlm_backbones._check_display import duration_of, render_check
from vlm_backbones._confounds import find_confounds
from vlm_backbones._label_facts import LostText
from vlm_backbones._reporters import _CHECKED_AS
from vlm_backbones.control import VERSION, check_study
from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import load_training_examples
from vlm_backbones.errors import ConfigError, DataError, VlmBackbonesError
from vlm_backbones.hashes import read_sealed_json
from vlm_backbones.study import load_study


@pytest.fixture(scope="module")
def certificate(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("check")
    check_study(load_study(tiny_study), out)
    found = read_sealed_json(out / "certificate.json")
    assert found is not None
    return found


def test_a_fair_study_has_no_confound(certificate: dict[str, Any]) -> None:
    assert certificate["confounds"] == []
    assert list(certificate["backbones"]) == ["tiny-1", "tiny-2"]
    # 32 scene questions on 16 pictures and 32 events; captions for both kinds
    assert certificate["equal"]["examples"] == {"align": 48, "finetune": 48}
    assert certificate["equal"]["image_tokens"] == 17  # (112 / 28)^2 patches and CLS


def test_the_certificate_is_whole(tiny_study: Path, certificate: dict[str, Any]) -> None:
    assert list(certificate) == [
        *("version", "study", "equal", "data", "backbones", "supervised_text", "varies", "deviations", "unpinned"),
        "confounds",
    ]
    assert list(certificate["equal"]) == [
        *("vision_tower", "examples_in_order", "examples", "images", "recipe", "prompts", "code", "image_tokens"),
        *("image_preprocessing", "batches_grouped_by"),
    ]
    assert certificate["version"] == VERSION
    assert certificate["study"] == "tiny"
    assert certificate["deviations"] == {}
    assert certificate["unpinned"] == []  # folders
    assert certificate["data"].keys() == certificate["equal"]["examples"].keys() == {"align", "finetune"}
    assert certificate["varies"] == {
        "files": "each backbone's own weights",
        "digits": "each backbone's own tokenizer",
        "trained_parameters": "each backbone's own size",
        "supervised_tokens": "each backbone's own tokenizer",
    }
    recipe = json.dumps(load_study(tiny_study).recipe.model_dump(mode="json"), sort_keys=True)
    assert certificate["equal"]["recipe"] == hashlib.sha256(recipe.encode()).hexdigest()
    # every picture once, in the order of the first stage's examples
    stages = load_training_examples(load_study(tiny_study).data, load_study(tiny_study).recipe.stages, BadRows())
    digests = dict.fromkeys(example.image.digest() for example in stages["align"] if example.image)
    assert certificate["equal"]["images"] == hashlib.sha256(b"".join(digests)).hexdigest()


def test_tokens_that_must_differ_are_listed(certificate: dict[str, Any]) -> None:
    first, second = certificate["backbones"].values()
    assert first["digits"]["36.12"] == ["3", "6", ".", "1", "2"]
    assert second["digits"]["36.12"] != first["digits"]["36.12"]
    assert "digits" in certificate["varies"]


def test_steps_examples_and_image_tokens_are_counted(certificate: dict[str, Any]) -> None:
    for row in certificate["backbones"].values():
        stage = row["stages"]["finetune"]
        assert (stage["optimizer_steps"], stage["examples_seen"]) == (5, 20)
        assert stage["image_tokens_seen"] == 20 * 17
        assert stage["dropped_examples"] == stage["truncated_answers"] == 0
        answers = certificate["data"]["finetune"]["turns"]
        assert stage["tokens_an_answer"] == pytest.approx(stage["supervised_tokens"] / answers, abs=5e-4)
        assert 2 < stage["tokens_an_answer"] < stage["tokens_an_example"]
        # projector: 32 -> 32 -> 32 with biases
        assert row["trained_parameters"]["align"] == 32 * 32 + 32 + 32 * 32 + 32


def test_the_certificate_is_the_same_twice(tiny_study: Path, tmp_path: Path, certificate: dict[str, Any]) -> None:
    again = check_study(load_study(tiny_study), tmp_path)
    assert json.loads(json.dumps(again)) == certificate


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("all-linear", 2 * 4 * (4 * (32 + 32) + 3 * (32 + 64))),  # attention's four, the MLP's three; not the head
        ("[q_proj, down_proj]", 2 * 4 * ((32 + 32) + (32 + 64))),
    ],
)
def test_adapters_are_counted(tiny_study: Path, tmp_path: Path, target: str, expected: int) -> None:
    lora = f"recipe.finetune.lora={{r: 4, target: {target}}}"
    study = load_study(tiny_study, [lora, "recipe.finetune.trainable=[llm]", "recipe.align=null"])
    for row in check_study(study, tmp_path)["backbones"].values():
        assert row["trained_parameters"] == {"finetune": expected}


def test_a_projector_of_several_layers_has_a_norm(tiny_study: Path, tmp_path: Path) -> None:
    tower = shutil.copytree(tiny_study.parent / "eye", tmp_path / "eye")
    (tower / "vision_tower.yaml").write_text("feature_layer: [-2, -1]\nselect_strategy: default\n")
    certificate = check_study(load_study(tiny_study, [f"vision_tower={tower}"]), tmp_path / "out")
    for row in certificate["backbones"].values():
        assert row["trained_parameters"]["align"] == 2 * 64 + 64 * 32 + 32 + 32 * 32 + 32


def test_a_conversation_is_checked_as_one_and_is_no_caption(tiny_study: Path, tmp_path: Path) -> None:
    said = [("human", "<image>\nWhat colour is it?"), ("gpt", "red"), ("human", "Is it blue?"), ("gpt", "no")]
    talk = [{"from": who, "value": what} for who, what in said]
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"id": 0, "image": "red.png", "conversations": talk}]))
    Image.new("RGB", (112, 112), "red").save(tmp_path / "red.png")
    changes = [f"data.finetune=[{rows}]"]
    study = load_study(tiny_study, [*changes, "recipe.align=null"])
    certificate = check_study(study, tmp_path / "out")
    assert certificate["confounds"] == []
    (shown,) = certificate["supervised_text"]["tiny-1"]["finetune"]
    assert shown == (
        "<s>[Q] <image>\\nWhat colour is it? [A]\\n\u27e6red</s>\u27e7[Q] Is it blue? [A]\\n\u27e6no</s>\u27e7"
    )
    with pytest.raises(DataError, match="row 0: 2 turns, but the chat_format plain of align takes one picture"):
        check_study(load_study(tiny_study, [*changes, "recipe.align.chat_format=plain"]), tmp_path / "plain")


def test_a_feature_layer_that_the_tower_lacks_is_refused_before_any_row_is_read(
    tiny_study: Path, tmp_path: Path
) -> None:
    tower = shutil.copytree(tiny_study.parent / "eye", tmp_path / "eye")
    (tower / "vision_tower.yaml").write_text("feature_layer: 9\n")
    study = load_study(tiny_study, [f"vision_tower={tower}", "data.finetune=[/nowhere/rows.json]"])
    with pytest.raises(ConfigError, match=r"vision tower eye: no feature layer 9; it has \d hidden states"):
        check_study(study, tmp_path / "out")


def test_truncation_that_differs_is_a_confound(tiny_study: Path, tmp_path: Path) -> None:
    """Single digits make the coordinates' answer longer, so one length cuts it for one backbone only."""
    longest = {
        name: row["stages"]["finetune"]["longest_tokens"]
        for name, row in check_study(load_study(tiny_study), tmp_path)["backbones"].items()
    }
    assert longest["tiny-1"] != longest["tiny-2"]
    cut = [f"recipe.{stage}.max_length_tokens={min(longest.values())}" for stage in ("align", "finetune")]
    (confound,) = check_study(load_study(tiny_study, cut), tmp_path)["confounds"]
    assert "not the same ones" in confound
    leave_out = f"data.leave_out={tmp_path / 'leave_out.txt'}"
    assert confound.endswith(f"--set {leave_out}")
    fair = check_study(load_study(tiny_study, [*cut, leave_out]), tmp_path)
    assert fair["confounds"] == []
    # 32 questions, 32 descriptions with a short question each, and none of the 32 coordinates
    assert fair["data"]["finetune"]["turns"] == 32 + 2 * 32


def test_each_part_of_the_check_is_said_before_it_begins(tiny_study: Path, tmp_path: Path) -> None:
    study, said = load_study(tiny_study, ["recipe.align=null"]), list[str]()
    check_study(study, tmp_path, said.append)
    assert said == [
        f"opening {', '.join(study.backbones)}, and looking at their weights",
        f"reading the training examples of {study.data.finetune[0]}",
        "opening the pictures of all examples (finetune 48), and the test splits",
        f"rendering every label for {', '.join(study.backbones)}",
    ]


def test_a_question_that_leaves_no_room_for_its_answer_is_a_bad_row(tiny_study: Path, tmp_path: Path) -> None:
    short = ["recipe.align=null", "recipe.finetune.max_length_tokens=42"]
    with pytest.raises(DataError, match=r"^\d+ bad rows:\n.* row 0: the question takes 42 tokens and leaves no room"):
        check_study(load_study(tiny_study, short), tmp_path)


def test_a_list_of_rows_that_belongs_to_other_data_is_refused(tiny_study: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("elsewhere.json row 7\n")
    with pytest.raises(DataError, match=r"1 of its rows are not in the training data.*'elsewhere.json row 7'"):
        check_study(load_study(tiny_study, [f"data.leave_out={tmp_path / 'rows.txt'}"]), tmp_path)
    with pytest.raises(DataError, match=r"data\.leave_out: .* cannot be read"):
        check_study(load_study(tiny_study, [f"data.leave_out={tmp_path / 'none.txt'}"]), tmp_path)


def test_the_supervised_text_of_three_examples_is_shown(
    certificate: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = certificate["supervised_text"]["tiny-1"]
    assert {name: len(texts) for name, texts in shown.items()} == {"align": 3, "finetune": 3}
    assert shown["finetune"][0].startswith("<s>[Q] <image>\\nWhat colour is it 0?")
    assert "[A]\\n\u27e6red</s>\u27e7" in shown["finetune"][0]
    render_check(certificate)
    printed = capsys.readouterr().out
    assert all(text in printed for stages in certificate["supervised_text"].values() for text in stages["finetune"])
    assert "tiny-2, finetune" in printed
    assert "characters of question and answer, 64 an image" in printed  # no sentence is cut, only a hash is
    assert certificate["equal"]["images"][:12] in printed
    assert certificate["equal"]["images"] not in printed
    assert "note:" not in printed


def test_two_names_for_one_backbone_are_said(certificate: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = certificate["backbones"]
    facts = {**certificate["backbones"], second: {**certificate["backbones"][second]}}
    facts[second]["files"] = facts[first]["files"]
    render_check({**certificate, "backbones": facts})
    assert f"note: {first} and {second} are the same LLM: what will differ" in capsys.readouterr().out


def test_every_bad_row_and_image_is_named(tiny_study: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_study.parent / "data", data)
    folder = data / "seismic_coords" / "train"
    rows = datasets.load_from_disk(str(folder)).cast_column("image", datasets.Image(decode=False))
    broken = {3, 5}
    corrupt = {"bytes": b"no picture", "path": None}
    spoilt = [{**row, "image": corrupt} if index in broken else row for index, row in enumerate(rows)]
    spoilt[8]["latitude"] = None
    spoilt[9]["image"] = None
    for name in ("seismic_coords", "seismic_description", "vqa_scene"):
        shutil.rmtree(data / name)
    datasets.Dataset.from_list(spoilt, features=rows.features).save_to_disk(folder)
    study = load_study(tiny_study, [f"data.finetune=[{data}]", "recipe.align=null"])
    with pytest.raises(DataError) as caught:
        check_study(study, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("4 bad rows:\n")
    assert [line.split("seismic_coords/train ")[1].split(" (")[0] for line in message.splitlines()[1:-1]] == [
        "row 8: latitude is None, which is no number. Mend or drop the row.",
        "row 9: the image is missing.",
        "row 3: the image is corrupt or no picture",
        "row 5: the image is corrupt or no picture",
    ]
    listed = tmp_path / "out" / "leave_out.txt"
    assert [path.name for path in listed.parent.iterdir()] == [listed.name]
    assert message.splitlines()[-1].endswith(f"--set data.leave_out={listed}")
    # without them the study is whole: 32 events less four
    overrides = [f"data.finetune=[{data}]", "recipe.align=null", f"data.leave_out={listed}"]
    certificate = check_study(load_study(tiny_study, overrides), tmp_path / "out")
    assert certificate["equal"]["examples"] == {"finetune": 28}
    assert certificate["confounds"] == []


def test_an_order_that_another_seed_makes_has_another_hash(
    tiny_study: Path, tmp_path: Path, certificate: dict[str, Any]
) -> None:
    other = check_study(load_study(tiny_study, ["recipe.finetune.data_seed=1"]), tmp_path)
    assert other["equal"]["examples_in_order"]["align"] == certificate["equal"]["examples_in_order"]["align"]
    assert other["equal"]["examples_in_order"]["finetune"] != certificate["equal"]["examples_in_order"]["finetune"]


def test_the_test_splits_are_read_before_training(tiny_study: Path, tmp_path: Path) -> None:
    """A bad row of a test split comes with those of training, and a task's missing split too."""
    data = tmp_path / "data"
    shutil.copytree(tiny_study.parent / "data", data)
    folder = data / "seismic_coords" / "test"
    rows = datasets.load_from_disk(str(folder)).cast_column("image", datasets.Image(decode=False))
    spoilt = list(rows)
    spoilt[2]["latitude"] = float("nan")
    spoilt[4]["image"] = {"bytes": b"no picture", "path": None}
    shutil.rmtree(folder)
    features = datasets.Features({**rows.features, "image": datasets.Image()})
    datasets.Dataset.from_list(spoilt, features=features).save_to_disk(folder)
    shutil.rmtree(data / "vqa_scene" / "test")
    (tmp_path / "rows.json").write_text("[{}]")
    changes = [f"data.eval={data}", f"data.finetune=[{tmp_path / 'rows.json'}]", "recipe.align=null"]
    with pytest.raises(DataError) as caught:
        check_study(load_study(tiny_study, changes), tmp_path / "out")
    *found, remedy = str(caught.value).splitlines()
    assert len(found) == 5
    expected = ("rows.json row 0", "no dataset of task 'vqa_scene'", "test row 2: latitude is nan", "test row 4: the ")
    assert all(text in line for text, line in zip(expected, found[1:], strict=True)), found
    # a row of training can be left out, one that the study is scored on cannot
    assert remedy.endswith("leave_out.txt")
    assert (tmp_path / "out" / "leave_out.txt").read_text() == f"{tmp_path / 'rows.json'} row 0\n"


def test_only_the_tasks_of_the_study_need_a_test_split(tiny_study: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_study.parent / "data" / "vqa_scene", tmp_path / "data" / "vqa_scene")
    changes = [f"data.eval={tmp_path / 'data'}", "tasks=[vqa_scene]"]
    assert check_study(load_study(tiny_study, changes), tmp_path / "out")["confounds"] == []


def test_a_sweep_needs_the_validation_splits_too(tiny_study: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_study.parent / "data", tmp_path / "data"))
    shutil.rmtree(data / "seismic_coords" / "validation")
    changes = [f"data.eval={data}"]
    check_study(load_study(tiny_study, changes), tmp_path / "out")
    with pytest.raises(DataError, match="no dataset of task 'seismic_coords'"):
        check_study(load_study(tiny_study, [*changes, "sweep={learning_rate: [1e-3, 1e-2]}"]), tmp_path / "out")


def test_a_reporter_that_cannot_report_is_named(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
    with pytest.raises(ConfigError) as caught:
        check_study(load_study(tiny_study, ["report_to=[tensorbord,wandb,none]"]), tmp_path)
    assert str(caught.value) == (
        "report_to: unknown reporter 'tensorbord'. Did you mean 'tensorboard'? "
        "wandb is not installed. Install it, or take it out."
    )
    for name in integration_utils.INTEGRATION_TO_CALLBACK:
        assert callable(getattr(integration_utils, f"is_{_CHECKED_AS.get(name, name)}_available"))


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [("tokenizer.json", "{}", "cannot be opened from"), ("chat_template.jinja", "{% generation %}{{", "be rendered")],
)
def test_a_damaged_backbone_is_an_error_of_ours(
    tiny_study: Path, tmp_path: Path, file: str, content: str, found: str
) -> None:
    copy = tmp_path / "tiny-1"
    shutil.copytree(tiny_study.parent / "tiny-1", copy)
    (copy / file).write_text(content)
    with pytest.raises(VlmBackbonesError, match=found):
        check_study(load_study(tiny_study, [f"backbones=[{copy}]"]), tmp_path / "out")


def test_hashes_are_named_and_texts_stay_whole(certificate: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    render_check(certificate)
    printed = capsys.readouterr().out
    assert f"sha256 {certificate['equal']['recipe'][:12]}" in printed
    assert certificate["equal"]["batches_grouped_by"]["align"] in printed
    assert "The questions of one image share its first part" in printed


@pytest.mark.parametrize(("hours", "shown"), [(2.54, "2.5 h"), (0.2, "12 min"), (0.001, "under 1 min")])
def test_short_times_are_minutes(hours: float, shown: str) -> None:
    assert duration_of(hours) == shown


STAGE = StageFacts(
    optimizer_steps=5,
    examples_seen=20,
    supervised_tokens=0,
    supervised_tokens_seen=0,
    tokens_an_answer=0.0,
    tokens_an_example=0.0,
    image_tokens_seen=0,
    truncated_answers=0,
    truncated_rows="none",
    dropped_examples=0,
    longest_tokens=256,
)


def view(places: tuple[str, ...] = (), problems: tuple[str, ...] = (), **changes: Any) -> BackboneView:
    """What one backbone makes of a stage `finetune`, in a context of 256 tokens."""
    stages = {"finetune": replace(STAGE, **changes)}
    facts = BackboneFacts("", 256, {}, {}, "", [], {}, None, {}, "", "0 of 0", {}, {}, stages)
    kept = LostText(0, {})
    return BackboneView(facts, {}, {"finetune": frozenset(places)}, {}, {}, kept, kept, problems)


def test_every_confound_of_every_backbone_is_told(tiny_study: Path, tmp_path: Path) -> None:
    study = load_study(tiny_study)
    assert find_confounds(study, {"a": view(), "b": view(), "c": view()}, tmp_path) == []
    cut = {"places": ("x row 2", "x row 1"), "truncated_answers": 2, "truncated_rows": "two"}
    views = {
        "a": view(places=("x row 3",), truncated_answers=1, truncated_rows="one"),
        "b": view(**cut, longest_tokens=257),
        "c": view(problems=("c is asked otherwise.",), truncated_answers=1, truncated_rows="one", optimizer_steps=4),
        "d": view(truncated_answers=1, truncated_rows="one", examples_seen=19),
    }
    assert find_confounds(study, views, tmp_path) == [
        "finetune: a turn of 257 tokens does not fit the context of b (256 tokens): "
        "lower max_length_tokens or shorten it.",
        "c is asked otherwise.",
        "finetune: optimizer_steps of c and a differ.",
        "finetune: examples_seen of d and a differ.",
        "finetune: b cuts 2 answers, a cuts 1, not the same ones: raise max_length_tokens. "
        f"To train every backbone without these rows: --set data.leave_out={tmp_path / 'leave_out.txt'}",
    ]
    assert (tmp_path / "leave_out.txt").read_text() == "x row 1\nx row 2\nx row 3\n"


def test_declared_deviations_are_shown(tiny_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = f"deviations={{{tiny_study.parent}/tiny-2: {{finetune.learning_rate: 2e-3, reason: '[its] size'}}}}"
    render_check(check_study(load_study(tiny_study, [changes]), tmp_path))
    assert "declared deviation: tiny-2, finetune.learning_rate 0.002 ([its] size)" in capsys.readouterr().out


def test_what_a_deviation_declares_is_no_confound(tiny_study: Path, tmp_path: Path) -> None:
    """Whether it stands at the first backbone or at another."""
    study = load_study(tiny_study)
    backbone = next(name for name in study.backbones if name.endswith("tiny-1"))
    changes = {backbone: {"finetune.batch_size": 1, "reason": "its memory"}}
    study = study.model_copy(update={"deviations": changes})
    steps = view(optimizer_steps=4, examples_seen=8)
    assert find_confounds(study, {"tiny-1": view(), "tiny-2": steps}, tmp_path) == []
    assert find_confounds(study, {"tiny-2": view(), "tiny-1": steps}, tmp_path) == []
    assert len(find_confounds(study, {"tiny-2": view(), "tiny-3": steps}, tmp_path)) == 2
