"""The registries: exact ids, nearest names, local folders, and no torch at import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlm_backbones._registry import PACKAGE_DIR
from vlm_backbones.backbones import BACKBONES, Backbone, get_backbone, list_backbones
from vlm_backbones.data import chat_format
from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.vision import VISION_TOWERS, get_vision_tower


def test_the_shipped_rows_are_found_and_valid() -> None:
    assert {"pocket-llama-1", "llama-1-7b", "vicuna-1.5-13b", "phi-3-mini"} <= set(BACKBONES)
    assert set(VISION_TOWERS) == {
        "clip-vit-l-224", "clip-vit-l-336", "clip-vit-l-336-vip", "dinov2-l", "pocket-vision", "siglip-so400m-384",
        "siglip2-so400m-384",
    }  # fmt: skip
    assert len(list_backbones()) == len(BACKBONES) == 38
    assert all(row.parameters and row.licence and row.gated is not None for row in list_backbones())
    others = [row for row in list_backbones() if not row.package_path]
    assert all((row.hub_repo or row.gguf) and row.released and row.stop_tokens for row in others)
    formats = {path.stem for path in (Path(chat_format.__file__).parent / "chat_formats").glob("*.jinja")}
    assert {row.chat_format for row in list_backbones()} - {None, "native"} <= formats


def test_every_row_says_what_it_knows_of_its_licence() -> None:
    """A key that is there and null was looked for: CLIP's page states none."""
    files = [*(PACKAGE_DIR / "backbones" / "rows").glob("*.yaml"), *(PACKAGE_DIR / "vision" / "rows").glob("*.yaml")]
    assert len(files) == len(BACKBONES) + len(VISION_TOWERS)
    silent = [path.stem for path in files if "licence" not in yaml.safe_load(path.read_text())]
    assert silent == []


def test_image_tokens_follow_from_size_patch_and_strategy() -> None:
    assert get_vision_tower("pocket-vision").image_tokens == 17  # 4 x 4 patches and CLS
    assert get_vision_tower("clip-vit-l-336").image_tokens == 576  # 24 x 24, CLS dropped
    assert get_vision_tower("clip-vit-l-224").image_tokens == 256  # 16 x 16
    assert get_vision_tower("siglip-so400m-384").image_tokens == 729  # 27 x 27, no CLS
    assert get_vision_tower("siglip2-so400m-384").image_tokens == 729
    assert get_vision_tower("dinov2-l").image_tokens == 576  # 24 x 24, CLS dropped


def test_an_unknown_id_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown backbone 'pocket-lama-1'\. Did you mean 'pocket-llama-1'\?"):
        get_backbone("pocket-lama-1")
    with pytest.raises(ConfigError, match="Did you mean 'pocket-vision'"):
        get_vision_tower("pocket-visoin")


def test_a_revision_stands_behind_the_id_and_belongs_to_a_repository() -> None:
    row = get_backbone("llama-2-7b@0123abc")
    assert (row.id, row.source, row.revision) == ("llama-2-7b", "meta-llama/Llama-2-7b-hf", "0123abc")
    assert get_backbone("llama-2-7b").revision is None
    assert get_vision_tower("clip-vit-l-336@main").revision == "main"
    with pytest.raises(ConfigError, match=r"unknown backbone 'llama-2-7c'\. Did you mean 'llama-2-7b'"):
        get_backbone("llama-2-7c@0123abc")
    with pytest.raises(ConfigError, match="is in no repository and has no revisions"):
        get_backbone("pocket-llama-1@main")


def test_a_local_folder_is_a_backbone_and_a_tower(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert get_backbone(tmp_path).source == str(tmp_path)
    with pytest.raises(CheckpointError, match="or DINOv2 vision tower, found 'llama'"):
        get_vision_tower(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        get_backbone(tmp_path)


def test_a_backbone_without_public_repository_asks_for_a_folder() -> None:
    with pytest.raises(ConfigError, match="give the path of a local folder"):
        _ = Backbone(id="unreleased", family="llama").source


def test_the_registries_load_no_torch() -> None:
    code = "import sys, vlm_backbones.backbones, vlm_backbones.vision; list(vlm_backbones.vision.VISION_TOWERS); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
