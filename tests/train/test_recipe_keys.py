"""The keys of the published recipes do in training what they say, on tiny parts."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from vlm_backbones._study_loading import load_recipe, shipped_recipes
from vlm_backbones.data.conversations import ImageSource, load_training_examples
from vlm_backbones.errors import ConfigError
from vlm_backbones.recipe import Recipe
from vlm_backbones.study import load_study
from vlm_backbones.train import finetune, quantization
from vlm_backbones.train.dataset import MicroBatches, StageData
from vlm_backbones.train.features import load_features
from vlm_backbones.vlm import load

PUBLISHED: dict[str, list[tuple[Any, ...]]] = {  # recipe -> per stage: examples a step and a forward pass, rates, lora
    "llava-1.5": [(256, 32, 1e-3, None, None), (128, 16, 2e-5, None, None)],
    "llava-1.5-lora": [(256, 32, 1e-3, None, None), (128, 16, 2e-4, 2e-5, 128)],
    "llava-1.5-qlora": [(256, 32, 1e-3, None, None), (128, 8, 2e-4, 2e-5, 128)],
    "vip-llava": [(256, 32, 1e-3, None, None), (128, 16, 2e-5, None, None), (128, 16, 2e-7, None, None)],
    "vip-llava-lora": [(256, 32, 1e-3, None, None), (128, 16, 2e-4, 2e-5, 128), (128, 16, 2e-6, 2e-7, 128)],
    "vip-llava-qlora": [(256, 32, 1e-3, None, None), (128, 8, 2e-4, 2e-5, 128), (128, 8, 2e-6, 2e-7, 128)],
}


def test_every_shipped_recipe_is_valid_and_has_the_published_numbers() -> None:
    assert set(shipped_recipes()) == {"pocket", "smollm", *PUBLISHED}
    for name, expected in PUBLISHED.items():
        recipe = Recipe.model_validate(load_recipe(name, Path()))
        assert recipe.name == name
        stages = list(recipe.stages.values())
        found = [
            (stage.batch_size, stage.micro_batch_size, stage.learning_rate, stage.projector_learning_rate,
             stage.lora.r if stage.lora else None)
            for stage in stages
        ]  # fmt: skip
        assert found == expected
        assert (stages[0].chat_format, stages[0].trainable, stages[0].image_aspect_ratio) == (
            "plain", ["projector"], "crop",
        )  # fmt: skip
        for stage in stages:
            assert (stage.epochs, stage.warmup_ratio, stage.weight_decay, stage.schedule) == (1, 0.03, 0, "cosine")
            assert (stage.max_length_tokens, stage.precision, stage.gradient_checkpointing) == (2048, "bf16", None)
        assert {stage.image_aspect_ratio for stage in stages[1:]} == {"pad"}
        assert stages[1].batch_grouping == ("modality" if name.startswith("llava") else "none")
        assert all(stage.quantization == ("nf4" if "qlora" in name else None) for stage in stages[1:])


@pytest.fixture(scope="module")
def train(tiny_parts: ModuleType, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Train the tiny study with changes of its finetune stage; return the run's folder."""

    def run(align: dict[str, Any] | None = None, standardize: bool = True, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("study")
        stage = tiny_parts.study_text(parts, steps=4)["recipe"]["finetune"]
        recipe: dict[str, Any] = {"finetune": {**stage, **changes}, "standardize_features": standardize}
        if align is not None:
            recipe["align"] = {**stage, "trainable": ["projector"], **align}
        text = tiny_parts.study_text(parts, recipe=recipe)
        (folder / "study.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
        arguments = ["--study", str(folder / "study.yaml"), "--backbone", str(parts / "backbone"), "--threads", "1"]
        assert finetune.main([*arguments, "--out", str(folder / "out")]) == 0
        return folder / "out" / "backbone"

    return run


@pytest.fixture(scope="module")
def plain_run(train: Any) -> Path:
    return Path(train())


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "finetune" / "trainable.safetensors"))


@pytest.mark.parametrize(
    "changes", [{"gradient_checkpointing": True}, {"micro_batch_size": 1}, {"micro_batch_size": 2}]
)
def test_memory_savers_change_nothing_else(train: Any, plain_run: Path, changes: dict[str, Any]) -> None:
    """The loss is the mean over a step's tokens, so neither recomputation nor accumulation can be seen in it."""
    run = train(**changes)
    assert losses(run) == pytest.approx(losses(plain_run), rel=1e-4)
    reference = weights(plain_run)
    assert all(torch.allclose(value, reference[name], atol=1e-3) for name, value in weights(run).items())
    assert json.loads((run / "run.json").read_text())["state"] == "finished"


def test_micro_batches_that_devices_cannot_share_are_refused(tiny_parts: ModuleType, parts: Path) -> None:
    stage = {**tiny_parts.study_text(parts)["recipe"]["finetune"], "batch_size": 12, "micro_batch_size": 4}
    recipe = Recipe.model_validate({"finetune": stage}).finetune_stages[0]
    data, features = StageData({}, {}, [], {}), Any
    assert MicroBatches(data, features, recipe, world_size=3).parts == 3  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"3 parts of micro_batch_size 4.* by 2 devices: lower .* to 6"):
        MicroBatches(data, features, recipe, world_size=2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size 12 cannot be divided over 5 devices"):
        MicroBatches(data, features, recipe, world_size=5)  # type: ignore[arg-type]


def test_the_projector_learns_at_its_own_rate(train: Any) -> None:
    still = weights(train(projector_learning_rate=1e-30, learning_rate=1e-30))
    for name, value in weights(train(projector_learning_rate=1e-30)).items():
        assert torch.allclose(value, still[name], atol=1e-20) == ("multi_modal_projector" in name)


def test_align_in_plain_supervises_captions_and_the_checkpoint_keeps_the_finetune_format(
    train: Any, tiny_parts: ModuleType, parts: Path
) -> None:
    run = train(align={"chat_format": "plain", "batch_size": 14, "steps": 1})
    model, processor = load(run / "checkpoint")
    assert processor.chat_template == tiny_parts.TEMPLATE
    stages = json.loads((run / "run.json").read_text())["stages"]
    study = load_study(run.parent.parent / "study.yaml")
    examples = load_training_examples(study.data, ["align"])["align"]
    assert len(examples) == 14  # so that the one step sees every caption once
    captions = [example.turns[0].answer + "\n" for example in examples]
    ids = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in captions]
    assert stages["align"]["supervised_tokens"] == sum(map(len, ids))
    # <s>, the picture's 17 tokens and the caption: no question
    assert stages["align"]["tokens"] == sum(len(row) + 1 + 17 for row in ids)
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


def test_features_that_are_not_standardised_leave_the_projector_as_trained(train: Any) -> None:
    run = train(standardize=False)
    trained = load_file(run / "finetune" / "trainable.safetensors")
    model, _ = load(run / "checkpoint")
    name = "model.multi_modal_projector.linear_1.weight"
    assert torch.equal(model.model.multi_modal_projector.linear_1.weight, trained[name])


def test_each_stage_makes_pictures_square_in_its_own_way(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    stage = tiny_parts.study_text(parts)["recipe"]["finetune"]
    recipe = {
        "align": {**stage, "trainable": ["projector"], "image_aspect_ratio": "crop"},
        "finetune": {**stage, "image_aspect_ratio": "pad"},
    }
    # the tower's own processor crops, as CLIP's does
    tower = tiny_parts.build_tower(tmp_path / "tower")
    config = json.loads((tower / "preprocessor_config.json").read_text())
    config |= {"do_resize": True, "do_center_crop": True, "size": {"shortest_edge": 112}}
    (tower / "preprocessor_config.json").write_text(json.dumps(config))
    text = tiny_parts.study_text(parts, recipe=recipe, vision_tower=str(tower))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(text))
    study = load_study(tmp_path / "study.yaml")
    features = load_features(study, tmp_path / "out", load_training_examples(study.data, study.recipe.stages))
    assert torch.equal(features["align"].mean, features["finetune"].mean)
    wide = Image.new("RGB", (224, 112), "black")
    wide.paste("white", (56, 0, 168, 112))
    stream = io.BytesIO()
    wide.save(stream, "PNG")
    picture = [ImageSource("wide", data=stream.getvalue())]
    crop, pad = (features[name].spec.image_processor for name in ("align", "finetune"))
    pixels = [processor(images=picture[0].open(), return_tensors="pt")["pixel_values"] for processor in (crop, pad)]
    assert float(pixels[0].std(dim=(-1, -2)).max()) < 1e-4  # the white centre fills the crop
    assert float(pixels[1].std(dim=(-1, -2)).min()) > 0.5  # padded: white, black and mean colour


def test_qlora_trains_over_four_bits_and_keeps_the_full_weights(train: Any, parts: Path) -> None:
    pytest.importorskip("bitsandbytes")
    run = train(lora={"r": 2, "alpha": 4, "dropout": 0.0}, quantization="nf4")
    start = load_file(parts / "backbone" / "model.safetensors")
    model, _ = load(run / "checkpoint")
    after = model.model.language_model.state_dict()
    assert after["layers.0.mlp.up_proj.weight"].dtype == torch.float32
    change = after["layers.0.mlp.up_proj.weight"] - start["model.layers.0.mlp.up_proj.weight"]
    assert float(change.abs().max()) > 0
    # what was added has the adapters' rank, so nothing of the 4-bit copy's rounding is left in the weights
    assert int(torch.linalg.matrix_rank(change.double(), atol=1e-6)) <= 2
    assert torch.equal(after["embed_tokens.weight"], start["model.embed_tokens.weight"])
    full = train(lora={"r": 2, "alpha": 4, "dropout": 0.0})
    assert losses(run) == pytest.approx(losses(full), rel=0.1)
    assert losses(run) != losses(full)


def test_without_bitsandbytes_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"pip install 'vlm-backbones\[qlora\]'"):
        quantization.quantize_layers(torch.nn.Sequential(torch.nn.Linear(64, 64)), torch.float32)
