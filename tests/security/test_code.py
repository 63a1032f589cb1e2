"""What can run code of somebody else: refused, or said before it does."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vlm_backbones import trust
from vlm_backbones._backbone_facts import open_tokenizer
from vlm_backbones.backbones import get_backbone
from vlm_backbones.errors import CheckpointError, VlmBackbonesError
from vlm_backbones.study import load_study
from vlm_backbones.vlm.checkpoint import load
from vlm_backbones.vlm.composition import compose
from vlm_backbones.vlm.original import load_original
from vlm_backbones.vlm.original.lora import read_lora


class Evil:
    """A pickle of this writes a file when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> Any:
        return exec, (f"open({self.target!r}, 'w').write('code ran')",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def write_evil(path: Path, canary: Path, tensors: dict[str, Any] | None = None) -> None:
    torch.save({**(tensors or {}), "evil": Evil(canary)}, path)


def test_the_pickle_is_evil(canary: Path, tmp_path: Path) -> None:
    """Opened as it must not be, it does what the others test against."""
    write_evil(tmp_path / "x.bin", canary)
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert canary.read_text() == "code ran"


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "mm_projector.bin"])
def test_original_checkpoints_run_nothing(
    originals: ModuleType, tmp_path: Path, canary: Path, name: str, form: str
) -> None:
    folder = originals.build(tmp_path / "original", "phi-3").folder
    if name == "pytorch_model.bin":
        for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
            file.unlink()
    else:
        from safetensors.torch import load_file, save_file

        for file in folder.glob("*.safetensors"):  # the projector is looked for where the weights lack it
            save_file({key: value for key, value in load_file(file).items() if "mm_projector" not in key}, file)
    if form == "bare":
        (folder / name).write_bytes(pickle.dumps({"evil": Evil(canary)}))
    else:
        torch.save({"evil": Evil(canary)}, folder / name, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"more than tensors .* Ask for safetensors") as caught:
        load_original(folder)
    assert name in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "non_lora_trainables.bin"])
def test_adapters_run_nothing(tmp_path: Path, canary: Path, name: str) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1, "lora_alpha": 1}))
    torch.save({}, tmp_path / "adapter_model.bin")
    write_evil(tmp_path / name, canary)
    with pytest.raises(CheckpointError, match="Ask for safetensors"):
        read_lora(tmp_path, tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize("part", ["backbone", "tower"])
def test_pretrained_parts_run_nothing(tiny_parts: ModuleType, tmp_path: Path, canary: Path, part: str) -> None:
    tiny_parts.build_backbone(tmp_path / "backbone")
    tiny_parts.build_tower(tmp_path / "tower")
    (tmp_path / part / "model.safetensors").unlink()
    write_evil(tmp_path / part / "pytorch_model.bin", canary)
    with pytest.raises(CheckpointError, match=r"cannot be opened .* Ask for safetensors"):
        compose(tmp_path / "backbone", tmp_path / "tower")
    assert not canary.exists()


def test_a_checkpoint_of_ours_is_never_a_pickle(parts: Path, tmp_path: Path, canary: Path) -> None:
    from vlm_backbones.vlm.checkpoint import save

    model, processor = compose(parts / "backbone", parts / "tower")
    save(model, processor, tmp_path / "ours")
    (tmp_path / "ours" / "model.safetensors").unlink()
    write_evil(tmp_path / "ours" / "pytorch_model.bin", canary)
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        load(tmp_path / "ours")
    assert not canary.exists()


# --- code in a model's folder -----------------------------------------------------------------------------------------


def with_code(folder: Path, canary: Path) -> None:
    """Let a model's folder bring its own configuration class, which writes a file when it is imported."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(
        "from transformers import PretrainedConfig\n"
        f"open({str(canary)!r}, 'w').write('code ran')\n"
        "class EvilConfig(PretrainedConfig):\n    model_type = 'evil'\n"
    )


def test_a_backbones_own_code_needs_the_studys_word(
    tiny_parts: ModuleType, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("transformers asked whether to run it"))
    folder = tiny_parts.build_backbone(tmp_path / "backbone")
    with_code(folder, canary)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_tokenizer(str(folder), "shared")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        compose(folder, tiny_parts.build_tower(tmp_path / "tower"))
    assert not canary.exists()


def test_trusted_code_is_named_with_repository_and_revision(capsys: pytest.CaptureFixture[str]) -> None:
    row = get_backbone("llama-3-8b")
    trust.tell_of_remote_code(row)
    said = capsys.readouterr().err
    assert str(row.hub_repo) in said
    assert str(row.revision or "main") in said
    trust.tell_of_remote_code(get_backbone("llama-3-8b@abc123"))
    assert "revision abc123" in capsys.readouterr().err


def test_a_study_says_which_backbones_it_trusts(tmp_path: Path, tiny_parts: ModuleType, parts: Path) -> None:
    import yaml

    for trusted in (False, True):
        text = tiny_parts.study_text(parts, trust_remote_code=trusted)
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(text))
        said: list[str] = []
        trust.tell_of_study(load_study(tmp_path / "s.yaml"), said.append)
        assert len(said) == trusted
        assert all(str(parts / "backbone") in line for line in said)


# --- task folders and YAML --------------------------------------------------------------------------------------------


def test_a_new_task_folder_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tasks").mkdir()
    said: list[str] = []
    for _ in range(2):
        trust.tell_of_task_folders([tmp_path / "tasks", tmp_path / "tasks" / ".." / "tasks"], said.append)
    assert len(said) == 1
    assert str(tmp_path / "tasks") in said[0]
    assert "!function" in said[0]
    assert "docs/security.md" in said[0]
    (tmp_path / "others").mkdir()
    trust.tell_of_task_folders([tmp_path / "others"], said.append)
    assert len(said) == 2


def test_it_is_told_every_time_where_nothing_can_be_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    trust.tell_of_task_folders([tmp_path], said.append)
    trust.tell_of_task_folders([tmp_path], said.append)
    assert len(said) == 2


def test_lmms_eval_tells_before_it_loads_a_folder(tmp_path: Path) -> None:
    """The notice stands before what the folder's own code writes."""
    import subprocess

    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text("task: mine\ndataset_path: !function utils.PATH\ntest_split: test\n")
    (folder / "utils.py").write_text("import sys\nprint('CODE OF THE FOLDER', file=sys.stderr)\nPATH = 'x'\n")
    code = "from lmms_eval.tasks import TaskManager; import lmms_eval.models; TaskManager(include_defaults=False)"
    environment = {**os.environ, "VLM_BACKBONES_TASKS": str(folder), "VLM_BACKBONES_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert f"the tasks in {folder} run Python" in done.stderr
    before, _, _ = done.stderr.partition("CODE OF THE FOLDER")
    assert "run Python" in before


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.system ['touch CANARY']",
        "name: !function os.system",
        "- !!python/name:os.system",
    ],
)
def test_a_studys_yaml_is_data(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(VlmBackbonesError, match="not valid YAML"):
        load_study(tmp_path / "s.yaml")
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize(
    "name", ["${oc.env:SECRET_TOKEN}", "${${x}:SECRET_TOKEN}", "${oc.decode:${oc.env:SECRET_TOKEN}}"]
)
def test_a_study_reads_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hf_secret")
    (tmp_path / "s.yaml").write_text(f"name: '{name}'\nx: oc.env\n")
    with pytest.raises(VlmBackbonesError) as caught:
        load_study(tmp_path / "s.yaml")
    assert "hf_secret" not in str(caught.value)
    from omegaconf import OmegaConf

    assert OmegaConf.create({"a": "${oc.env:SECRET_TOKEN}"}).a == "hf_secret"  # others in this process keep it
