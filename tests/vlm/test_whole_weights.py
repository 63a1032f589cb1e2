"""A backbone's weights are whole, or refused by name: in its files before training, and once they are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from vlm_backbones._config_facts import attention_window, dropouts
from vlm_backbones.backbones import Backbone, get_backbone
from vlm_backbones.errors import CheckpointError
from vlm_backbones.vlm import compose, whole_weights
from vlm_backbones.vlm.whole_weights import check_files

Tensors = Mapping[str, torch.Tensor]


def with_tensors(base: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    copy = Path(shutil.copytree(base, folder))
    tensors = change(load_file(copy / "model.safetensors"))
    save_file(dict(tensors), copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def looked_at(folder: Path) -> str:
    return check_files(get_backbone(folder), AutoConfig.from_pretrained(folder))


KINDS = ["llama", "gemma2", "gemma3_text", "gpt2", "mixtral", "olmo2", "phi3", "qwen3"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_backbone_of_any_kind_passes(tiny_parts: ModuleType, parts: Path, tmp_path: Path, kind: str) -> None:
    """Experts are stored one by one and held as one tensor, heads are tied: transformers itself matches the names."""
    assert looked_at(tiny_parts.build_backbone_like(tmp_path / kind, parts / "backbone", kind)) == ""


@pytest.mark.parametrize("backbone", ["pocket-llama-1", "pocket-llama-2", "pocket-llama-3"])
def test_pocket_backbones_are_whole(backbone: str) -> None:
    row = get_backbone(backbone)
    assert check_files(row, AutoConfig.from_pretrained(row.source)) == ""


def test_names_without_the_prefix_and_rotary_tables_are_no_difference(parts: Path, tmp_path: Path) -> None:
    def older(tensors: Tensors) -> Tensors:
        table = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        return {name.removeprefix("model."): weight for name, weight in tensors.items()} | table

    folder = with_tensors(parts / "backbone", tmp_path / "older", older)
    assert looked_at(folder) == ""
    compose(folder, parts / "tower")


def test_tensors_without_a_place_are_told_and_not_refused(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"vision.a": torch.ones(2), "vision.b": torch.ones(2)}
    folder = with_tensors(parts / "backbone", tmp_path / "more", lambda tensors: {**tensors, **more})
    assert looked_at(folder) == "2 tensors (vision.a, vision.b)"
    capsys.readouterr()
    compose(folder, parts / "tower")
    assert (
        "more: left out of its weights, having no place in the model: 2 tensors (vision.a, vis"
        in capsys.readouterr().out
    )


def test_a_shard_that_is_gone_is_named(parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts / "backbone", tmp_path / "shards"))
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert looked_at(folder) == ""
    gone = sorted(folder.glob("model-*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(CheckpointError, match=rf"cannot be opened from .*{gone.name}.*Is the folder whole"):
        looked_at(folder)


def test_nothing_is_seen_of_a_pickle_before_it_is_loaded(parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts / "backbone", tmp_path / "pickled"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = next(name for name in tensors if "q_proj" in name)
    tensors[name].view(-1)[0] = torch.inf
    torch.save(tensors, folder / "pytorch_model.bin")
    assert looked_at(folder) == ""
    with pytest.raises(CheckpointError, match=rf"pickled holds NaN or infinity in 1 tensor \({name}\)"):
        compose(folder, parts / "tower")
    del tensors[name]
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"pickled lacks weights that .* 1 tensor \({name}\)"):
        compose(folder, parts / "tower")


def test_what_is_not_here_is_not_looked_at() -> None:
    row = Backbone(id="b", family="llama", hub_repo="nobody/nothing")
    assert check_files(row, AutoConfig.for_model("llama")) == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_numbers_of_every_width_are_looked_at(dtype: torch.dtype) -> None:
    fine = torch.arange(4.0).to(dtype)
    assert whole_weights._fault(fine) == whole_weights._fault(fine.view(2, 2)) == whole_weights._fault(fine[:0]) == ""
    assert whole_weights._fault(torch.tensor([1.0, torch.nan]).to(dtype)) == "NaN or infinity"
    assert whole_weights._fault(torch.ones((2, 2), dtype=torch.int64)) == ""
    for value in (0.0, 0.5):
        constant = torch.full((4,), value).to(dtype)
        assert whole_weights._fault(constant) == whole_weights._fault(constant.view(1, 4, 1)) == ""  # a mask's token
        assert whole_weights._fault(constant.view(2, 2)) == "one value only"


def test_matrices_of_one_value_are_refused_as_a_torn_download_leaves_them(parts: Path, tmp_path: Path) -> None:
    def torn(tensors: Tensors) -> Tensors:
        return {name: weight * ("layers.1." not in name) for name, weight in tensors.items()}

    folder = with_tensors(parts / "backbone", tmp_path / "torn", torn)
    said = r"torn/model\.safetensors holds one value only in 7 tensors \(model\.layers\.1\.mlp\.down_proj\.weight, "
    for look in (lambda: looked_at(folder), lambda: compose(folder, parts / "tower")):
        with pytest.raises(CheckpointError, match=said):
            look()


def test_a_files_numbers_are_read_once(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vlm_backbones.hashes._AT_REST_NS", 0)
    read = list[Path]()
    look = whole_weights._spoilt_of

    def reading(path: Path) -> str:
        read.append(path)
        return look(path)

    monkeypatch.setattr(whole_weights, "_spoilt_of", reading)
    for _ in range(2):
        looked_at(parts / "backbone")
    assert read == [parts / "backbone" / "model.safetensors"]


def test_training_drops_nothing_at_random(parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parts / "backbone", tmp_path / "dropping"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    assert dropouts(AutoConfig.from_pretrained(folder)) == {"attention_dropout": 0.5}
    model, _ = compose(folder, parts / "tower")
    assert dropouts(model.config.text_config) == {}
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        assert torch.equal(model.train()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_shares_that_are_dropped_are_found_by_their_names() -> None:
    shares = {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "summary_first_dropout": 0.1}
    assert dropouts(AutoConfig.for_model("gpt2")) == shares
    assert dropouts(AutoConfig.for_model("llama", token_dropout=True)) == {}


def test_a_window_that_is_switched_off_is_none() -> None:
    assert attention_window(AutoConfig.for_model("mistral", sliding_window=8)) == 8
    assert attention_window(AutoConfig.for_model("qwen2", sliding_window=8, use_sliding_window=False)) is None
    assert attention_window(AutoConfig.for_model("llama")) is None
