"""The entry point, the tasks that lmms-eval finds through it, and its response cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from lmms_eval import models, utils
from lmms_eval.caching.response_cache import ResponseCache
from lmms_eval.tasks import TaskManager

from vlm_backbones.cache import scratch_dir
from vlm_backbones.model_wrappers import _task_index, manifest
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM


def test_the_model_resolves_to_the_simple_class_through_the_entry_point() -> None:
    resolved = models.MODEL_REGISTRY_V2.resolve("backbone_vlm")
    assert (resolved.model_type, resolved.class_name) == ("simple", "BackboneVLM")
    assert models.get_model("backbone_vlm") is BackboneVLM


def test_importing_the_manifest_loads_no_torch() -> None:
    loaded = "{'torch', 'lmms_eval'} & set(sys.modules)"
    code = f"import sys, vlm_backbones.model_wrappers.manifest; sys.exit(bool({loaded}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_our_tasks_and_those_of_the_environment_join_the_include_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("task: my_own_task\ndataset_path: x\n")
    monkeypatch.setenv("VLM_BACKBONES_TASKS", str(tmp_path))
    manager = TaskManager("ERROR", include_defaults=False)
    assert {"vqa_scene", "seismic_description", "seismic_coords", "my_own_task"} <= set(manager.all_subtasks)
    assert manager.all_groups == ["backbone_study", "backbone_study_image", "backbone_study_region"]
    manifest.register()  # a second time changes nothing
    assert len(TaskManager("ERROR", include_defaults=False).all_tasks) == len(manager.all_tasks)


def test_the_index_of_stock_tasks_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "stock"
    folder.mkdir()
    (folder / "one.yaml").write_text("task: one\ntag: both\n")
    (folder / "two.yaml").write_text("include: _template\n")
    (folder / "_template").write_text("task: two\ntag: both\n")
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_task_index, "own_folder", lambda: folder)
    manager = TaskManager("ERROR", include_defaults=False)
    plain = dict(TaskManager._get_task_and_group.__wrapped__(manager, str(folder)))
    read: list[str] = []
    load = utils.load_yaml_config

    def counted(yaml_path: Any = None, **named: Any) -> Any:
        read.append(yaml_path)
        return load(yaml_path, **named)

    monkeypatch.setattr(utils, "load_yaml_config", counted)
    assert manager._get_task_and_group(str(folder)) == plain
    assert sorted(plain) == ["both", "one", "two"]
    assert len(read) == 3  # one of them includes a third
    assert manager._get_task_and_group(str(folder)) == plain
    assert len(read) == 3  # from the cache
    (folder / "_template").write_text("task: renamed\n")
    assert sorted(manager._get_task_and_group(str(folder))) == ["both", "one", "renamed"]
    next((tmp_path / "cache").glob("task-index-*.json")).write_text("{broken")
    assert sorted(manager._get_task_and_group(str(folder))) == ["both", "one", "renamed"]


def test_the_c_parser_reads_stock_task_files_as_the_slow_one_does() -> None:
    if not hasattr(yaml, "CFullLoader"):
        pytest.skip("PyYAML has no C parser here")
    assert utils.yaml is not yaml
    folder = Path(utils.__file__).parent / "tasks"
    files = [folder / name for name in ("mme/mme.yaml", "pope/pope.yaml", "scienceqa/scienceqa_img.yaml")]
    assert all(file.is_file() for file in files)
    for file in files:
        fast = utils.load_yaml_config(str(file), mode="full")
        with file.open("rb") as stream:
            slow = yaml.full_load(stream)
        assert repr(comparable(fast)) == repr(comparable(slow))
        assert callable(fast["process_results"])


def comparable(value: Any) -> Any:
    """Replace functions by their names: each load makes new ones."""
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [comparable(entry) for entry in value]
    return getattr(value, "__name__", value)


def test_response_cache_keys_on_checkpoint_and_condition(checkpoint: Path, tmp_path: Path) -> None:
    def key(model: Any) -> str:
        return str(ResponseCache.create(str(tmp_path), model=model, model_args="pretrained=x")._model_fingerprint_hash)

    clean = BackboneVLM(pretrained=str(checkpoint), device="cpu")
    by_name, by_instance = key("backbone_vlm"), key(clean)
    assert by_name == by_instance
    assert key(BackboneVLM(pretrained=str(checkpoint), device="cpu", batch_size=4)) == by_instance
    for given in ({"condition": "jpeg40"}, {"compile": True}):
        assert key(BackboneVLM(pretrained=str(checkpoint), device="cpu", **given)) != by_instance
    own = clean.identity
    for changed in ("checkpoint", "version"):
        clean.identity = {**own, changed: "another"}
        assert key(clean) != by_instance
    assert key("another_model") != by_instance


def test_lmms_eval_caches_datasets_elsewhere_where_the_home_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home, is_moved in ((tmp_path, False), (tmp_path / "file", True)):
        with mock.patch.dict(os.environ, HF_HOME=str(home)):
            for name in ("HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE"):
                os.environ.pop(name, None)
            TaskManager("ERROR", include_defaults=False)
            found = os.environ.get("LMMS_EVAL_DATASETS_CACHE")
        assert found == (str(scratch_dir() / "datasets") if is_moved else None)
