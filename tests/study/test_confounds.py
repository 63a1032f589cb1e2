"""The gallery of docs/certificate.md: what would make a comparison unfair, made for real, and where it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlm_backbones._study_loading import package_folder
from vlm_backbones.control import check_study
from vlm_backbones.errors import DataError
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.study import load_study


def variant(tiny_study: Path, folder: Path, change: Callable[[str], str]) -> str:
    """Copy tiny-2 with another chat template, and return the override that puts it into the study."""
    copy = folder / "variant"
    shutil.copytree(tiny_study.parent / "tiny-2", copy)
    template = copy / "chat_template.jinja"
    changed = change(template.read_text(encoding="utf-8"))
    assert changed != template.read_text(encoding="utf-8")
    template.write_text(changed, encoding="utf-8")
    return f"backbones=[{tiny_study.parent / 'tiny-1'},{copy}]"


def confounds(study: Path, out: Path, *overrides: str) -> list[str]:
    return [str(problem) for problem in check_study(load_study(study, overrides), out)["confounds"]]


def test_a_mask_that_leaks_the_question(tiny_study: Path, tmp_path: Path) -> None:
    """The generation mark opens before the question, which would be learnt as if it were an answer."""

    def leak(template: str) -> str:
        return template.replace("[Q] {% for", "[Q] {% generation %}{% for").replace(
            "{% endfor %} [A]", "{% endfor %}{% endgeneration %} [A]"
        )

    with pytest.raises(DataError) as caught:
        confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, leak))
    assert "the labels of variant decode to '" in str(caught.value)
    assert "What colour is it 0?" in str(caught.value)
    assert "does not mark answers rightly" in str(caught.value)


def test_a_prompt_that_holds_its_answer(tiny_study: Path, tmp_path: Path) -> None:
    """Training would read the answer off the question; an evaluation has none to show."""

    def leak(template: str) -> str:
        return template.replace("[A]", "({{ messages[1]['content'][0]['text'] if messages | length > 1 }}) [A]")

    (found,) = confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, leak))
    assert "variant is trained with the prompt '<s>[Q] <image>\\nWhat is shown? (A star.) [A]" in found
    assert "and evaluated with '<s>[Q] <image>\\nWhat is shown? () [A]" in found


def test_another_prompt_in_evaluation_than_in_training(tiny_study: Path, tmp_path: Path) -> None:
    def hint(template: str) -> str:
        return template + "{% if add_generation_prompt %} Think first.{% endif %}"

    (found,) = confounds(tiny_study, tmp_path / "out", variant(tiny_study, tmp_path, hint))
    assert "and evaluated with" in found
    assert "Think first." in found


def test_a_start_token_is_written_by_the_chat_format_alone(tiny_study: Path, tmp_path: Path) -> None:
    """The template writes none, so training has none; the composed tokenizer adds none in evaluation either."""
    override = variant(tiny_study, tmp_path, lambda template: template.replace("{{ bos_token }}", ""))
    file = tmp_path / "variant" / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": pair,
        "special_tokens": special,
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    assert confounds(tiny_study, tmp_path / "out", override) == []


def test_a_last_stage_in_another_format_than_the_checkpoint_keeps(tiny_study: Path, tmp_path: Path) -> None:
    format_of_stage = ["recipe.finetune.chat_format=vicuna_v1", "recipe.finetune.max_length_tokens=400"]
    found = confounds(tiny_study, tmp_path, "chat_format=shared", *format_of_stage)
    found = [problem for problem in found if "context" not in problem]  # of these tiny backbones
    assert len(found) == 2  # each backbone
    assert "the last stage's chat_format is 'vicuna_v1', and the checkpoint keeps the study's" in found[0]


def test_a_picture_that_is_gone(tiny_study: Path, tmp_path: Path) -> None:
    """A loader that skips what it cannot read would leave the row out for whoever trains after it went."""
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
    rows = [{"id": index, "image": f"{index}.png", "conversations": talk} for index in range(2)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"rows\.json row 1.*1\.png"):
        confounds(tiny_study, tmp_path / "out", f"data.finetune=[{tmp_path / 'rows.json'}]", "recipe.align=null")


def test_a_row_of_the_embedding_that_nobody_trained(tiny_study: Path, tmp_path: Path) -> None:
    """A pretrained backbone whose vocabulary was enlarged by transformers' random rows, to end its turns with them."""
    source, resized = package_folder("vlm_backbones.pocket") / "assets" / "pocket-llama-2", tmp_path / "resized"
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    tokenizer.add_tokens(["<|turn|>"], special_tokens=True)
    template = (tiny_study.parent / "tiny-2" / "chat_template.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = template.replace("{{ eos_token }}", "<|turn|>")
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(resized)
    tokenizer.save_pretrained(resized)
    backbones = f"backbones=[{tiny_study.parent / 'tiny-1'},{resized}]"
    (found,) = confounds(tiny_study, tmp_path / "out", backbones)
    assert "resized was never trained on the token '<|turn|>' of its training text (its row is random)" in found
    assert "Use chat_format: shared" in found
    assert confounds(tiny_study, tmp_path / "out", backbones, "chat_format=shared") == []


def test_a_token_that_the_weights_have_no_row_for(tiny_study: Path, tmp_path: Path) -> None:
    override = variant(tiny_study, tmp_path, lambda template: template.replace("{{ eos_token }}", "<|turn|>"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "variant")
    tokenizer.add_tokens(["<|turn|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "variant")
    (found,) = confounds(tiny_study, tmp_path / "out", override)
    assert "'<|turn|>' of its training text (not among the backbone's own: its row starts at the mean)" in found


@pytest.mark.parametrize("backbone", ["pocket-llama-1", "pocket-llama-2", "pocket-llama-3"])
def test_no_token_of_a_pretrained_backbone_is_suspected(tiny_study: Path, tmp_path: Path, backbone: str) -> None:
    certificate = check_study(load_study(tiny_study, [f"backbones=[{backbone}]"]), tmp_path)
    assert certificate["backbones"][backbone]["untrained_tokens"] == {}


def test_the_certificate_says_what_groups_batches_and_prepares_pictures(tiny_study: Path, tmp_path: Path) -> None:
    study = load_study(tiny_study, ["recipe.align.image_aspect_ratio=crop", "recipe.finetune.image_aspect_ratio=pad"])
    equal: dict[str, Any] = check_study(study, tmp_path)["equal"]
    assert equal["image_preprocessing"]["align"] != equal["image_preprocessing"]["finetune"]
    assert "no tokenizer's lengths" in equal["batches_grouped_by"]["finetune"]


@pytest.mark.parametrize("grouping", get_args(StageRecipe.model_fields["batch_grouping"].annotation))
def test_every_way_to_group_batches_is_named(tiny_study: Path, tmp_path: Path, grouping: str) -> None:
    study = load_study(tiny_study, [f"recipe.align.batch_grouping={grouping}"])
    said = check_study(study, tmp_path)["equal"]["batches_grouped_by"]
    words = {"length": "characters of question and answer", "modality": "with or without image", "none": "nothing"}
    assert said["align"].startswith(words[grouping])
    assert said["finetune"].startswith(words["length"])
