"""Original checkpoints: the same pixels, features, ids and logits as the original computation, and clear refusals."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaForConditionalGeneration,
    Phi3Config,
    VipLlavaForConditionalGeneration,
)

from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.vlm import checkpoint_fingerprint, convert, load
from vlm_backbones.vlm.original import load_original

KINDS = ["vicuna", "vip", "llama-3", "llama-3-new", "phi-3", "linear"]
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


def picture(width: int = 90, height: int = 61) -> Image.Image:
    noise = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module")
def built(originals: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each kind's original and its conversion."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        original = originals.build(folder / "checkpoint", kind)
        convert(original.folder, folder / "converted", vision_tower=original.tower_folder)
        found[kind] = (original, folder / "converted")
    return found


def plain(folder: Path) -> tuple[Any, Any]:
    return (
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder, backend="pil"),
    )


def inputs_of(processor: Any, image: Image.Image) -> Any:
    """Return what transformers makes of a chat, by its own documented call."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_original_computation(built: dict[str, Any], kind: str) -> None:
    original, converted = built[kind]
    model, processor = plain(converted)
    with torch.inference_mode():
        found = model(**inputs_of(processor, picture())).logits[0]
    wanted = original.logits(picture())
    assert found.shape[0] == wanted.shape[0]
    assert torch.allclose(found[:, : wanted.shape[1]], wanted, atol=1e-4)
    assert float(wanted.std()) > 0.5  # they differ enough to tell a wrong layer or token
    assert int(found[-1].argmax()) < wanted.shape[1]  # rows of added tokens never win


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_ids_equal_the_originals(built: dict[str, Any], kind: str) -> None:
    original, converted = built[kind]
    _, processor = plain(converted)
    ids = inputs_of(processor, picture())["input_ids"][0].tolist()
    wanted: list[int] = []
    for token in original.prompt_ids():
        wanted += [processor.image_token_id] * 16 if token == -200 else [token]
    assert ids == wanted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(90, 61), (40, 77), (56, 56), (13, 200)])
def test_pixels_equal_the_originals(built: dict[str, Any], kind: str, size: tuple[int, int]) -> None:
    original, converted = built[kind]
    if not original.pads and size == (13, 200):
        size = (26, 200)  # 13 -> 56 scales by a fraction whose rounding differs between the two
    _, processor = load(converted)
    found = processor.image_processor(images=[picture(*size)], return_tensors="pt")["pixel_values"]
    assert torch.allclose(torch.as_tensor(found), original.pixels(picture(*size)), atol=1e-6)


def test_the_image_features_come_from_the_right_layers(built: dict[str, Any]) -> None:
    for kind, expected in (("vicuna", LlavaForConditionalGeneration), ("vip", VipLlavaForConditionalGeneration)):
        original, converted = built[kind]
        model, _ = plain(converted)
        assert type(model) is expected
        pixels = original.pixels(picture())
        with torch.inference_mode():
            found = model.get_image_features(pixels).pooler_output[0]
        assert torch.allclose(found, original.features(pixels), atol=1e-5)
    assert list(model.config.vision_feature_layer) == [-2, -5, -8, -11, 6]


def test_what_each_kind_says_and_stops_at(built: dict[str, Any], originals: ModuleType) -> None:
    stops = {"vicuna": ["</s>"], "vip": ["</s>"], "llama-3": ["<|end_of_text|>", "<|eot_id|>"],
             "phi-3": ["<|endoftext|>", "<|end|>"], "linear": ["</s>"]}  # fmt: skip
    for kind, expected in stops.items():
        original, converted = built[kind]
        model, processor = plain(converted)
        text = processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
        bos = processor.tokenizer.bos_token
        assert text.removeprefix(bos).replace("<image>\n", "<image>") == (
            original.prompt.removeprefix(bos).replace("<image>\n", "<image>")
        )
        eos = model.generation_config.eos_token_id
        found = processor.tokenizer.convert_ids_to_tokens([eos] if isinstance(eos, int) else eos)
        assert sorted(found) == sorted(expected)
        assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<image>")
        assert model.config.image_token_id >= original.llm.config.vocab_size or kind == "phi-3"
        assert model.get_input_embeddings().weight.shape[0] >= len(processor.tokenizer)
        assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id is not None


def test_phi_3_stays_fused_and_llama_3_keeps_its_rotary_base(built: dict[str, Any]) -> None:
    model, _ = plain(built["phi-3"][1])
    assert isinstance(model.config.text_config, Phi3Config)
    assert model.config.text_config.sliding_window == 255
    wanted = built["phi-3"][0].llm.model.layers[0].self_attn.qkv_proj.weight
    assert torch.equal(model.model.language_model.layers[0].self_attn.qkv_proj.weight, wanted)
    model, _ = plain(built["llama-3"][1])
    assert model.config.text_config.rope_parameters["rope_theta"] == 500000.0
    assert model.config.text_config.num_key_value_heads == 2


def test_an_original_is_read_directly_and_known_by_its_content(
    built: dict[str, Any], originals: ModuleType, tmp_path: Path
) -> None:
    """Neither the folder's name nor `model_type` counts."""
    original, converted = built["llama-3"]
    folder = shutil.copytree(original.folder, tmp_path / "phi-3-vip-by-name-only")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    model, processor = load(folder)
    after, _ = load(converted)
    inputs = inputs_of(processor, picture())
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, after(**inputs).logits)
    assert len(checkpoint_fingerprint(original.folder)) == 64
    assert len(checkpoint_fingerprint(built["vip"][0].folder)) == 64  # pickled shards count as weights


def test_without_architectures_the_tensors_tell_the_llm(originals: ModuleType, tmp_path: Path) -> None:
    original = originals.build(tmp_path / "checkpoint", "phi-3", architectures=None)
    model, _ = load_original(original.folder)
    assert isinstance(model.config.text_config, Phi3Config)


def test_the_stored_type_is_kept(originals: ModuleType, tmp_path: Path) -> None:
    original = originals.build(tmp_path / "checkpoint", "vip", dtype=torch.bfloat16)
    convert(original.folder, tmp_path / "out")
    model, processor = load(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    wide, _ = load(tmp_path / "out", dtype=torch.float32)
    with torch.inference_mode():
        found = wide(**inputs_of(processor, picture())).logits[0]
    assert torch.allclose(found[:, : original.llm.config.vocab_size], original.logits(picture()), atol=1e-4)


def test_llama_2_chat_is_said_by_the_user(built: dict[str, Any]) -> None:
    original, _ = built["vicuna"]
    _, processor = load_original(original.folder, vision_tower=original.tower_folder, chat_format="llava_llama_2")
    text = processor.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<s>[INST] <<SYS>>\n")
    with pytest.raises(ConfigError, match="Did you mean 'llava_llama_2'"):
        load_original(original.folder, vision_tower=original.tower_folder, chat_format="lava_llama_2")


def test_a_projector_file_of_its_own_counts(originals: ModuleType, tmp_path: Path) -> None:
    original = originals.build(tmp_path / "checkpoint", "vicuna")
    projector = {f"model.mm_projector.{name}": value for name, value in original.projector.items()}
    state = {**original.llm.state_dict(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    for path in original.folder.glob("pytorch_model*"):
        path.unlink()
    torch.save(state, original.folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"missing: model\.multi_modal_projector\.linear_1\.bias"):
        load_original(original.folder, vision_tower=original.tower_folder)
    torch.save(projector, original.folder / "mm_projector.bin")
    model, _ = load_original(original.folder, vision_tower=original.tower_folder)
    assert torch.equal(model.model.multi_modal_projector.linear_1.weight, original.projector["0.weight"])


def test_missing_extra_and_misshapen_tensors_are_listed(originals: ModuleType, tmp_path: Path) -> None:
    original = originals.build(tmp_path / "checkpoint", "vip")
    state: dict[str, Any] = {}
    for path in sorted(original.folder.glob("*.bin")):
        state |= torch.load(path, weights_only=True)
    del state["model.mm_projector.clip_layernorm.bias"]
    state["model.mm_projector.final_linear.4.weight"] = torch.ones(2)
    state["model.norm.weight"] = torch.ones(7)
    originals.write_weights(original.folder, state, pickled=True)
    with pytest.raises(CheckpointError) as error:
        convert(original.folder, tmp_path / "out")
    assert "missing: model.multi_modal_projector.projector_layernorm.bias;" in str(error.value)
    assert "not expected: model.mm_projector.final_linear.4.weight;" in str(error.value)
    assert "of another shape: model.language_model.norm.weight (7,), expected (32,)" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_damaged_folders_say_what_to_mend(
    originals: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for a hub
    original = originals.build(tmp_path / "checkpoint", "vicuna")
    with pytest.raises(CheckpointError, match=r"openai/clip-vit-large-patch14-336.*--vision-tower DIR"):
        load_original(original.folder)
    with pytest.raises(ConfigError, match="is no folder"):
        load_original(original.folder, vision_tower=tmp_path / "nowhere")
    shard = original.folder / "pytorch_model-00002-of-00002.bin"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin cannot be read"):
        load_original(original.folder)
    several_disks = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + b"PK\5\6" + b"\0" * 18
    for odd in (several_disks, b"\x80\x02a."):  # a zip of two disks, a pickle that takes what is not there
        shard.write_bytes(odd)
        with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin cannot be read"):
            load_original(original.folder)
    torch.save({"weights": object()}, shard)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load_original(original.folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00002\.bin named by .* missing"):
        load_original(original.folder)
    index = original.folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "\u8d0a" * 200}}))  # 600 bytes: no file can have such a name
    with pytest.raises(CheckpointError, match="are missing"):
        load_original(original.folder)
    index.unlink()
    (original.folder / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load_original(original.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type: Input should be 'linear' or 'mlp2x_gelu'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio: Input should be 'pad' or 'square'"),
        ({"architectures": ["LlavaMptForCausalLM"]}, "architecture LlavaMptForCausalLM is not known"),
        ({"mm_use_im_start_end": True}, "the tokenizer has no '<im_start>'"),
        ({"mm_vision_select_layer": -7}, "no feature layer -7; it has 4 hidden states"),
        ({"mm_vision_tower": "some/tower"}, "'some/tower', which is neither known nor a folder"),
        ({"mm_vision_tower": None}, "mm_vision_tower: Input should be a valid string"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    originals: ModuleType, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    original = originals.build(tmp_path / "checkpoint", "vicuna", **changes)
    tower = None if "tower" in str(changes) else original.tower_folder
    with pytest.raises((CheckpointError, ConfigError)) as error:
        load_original(original.folder, vision_tower=tower)
    assert message in str(error.value)


def test_the_command_converts(built: dict[str, Any], tmp_path: Path) -> None:
    original, converted = built["linear"]
    command = [sys.executable, "-m", "vlm_backbones.cli", "convert", str(original.folder), str(tmp_path / "out")]
    command += ["--vision-tower", str(original.tower_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(tmp_path / "out"))
    assert checkpoint_fingerprint(tmp_path / "out") == checkpoint_fingerprint(converted)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is no empty folder" in again.stderr


def test_transformers_own_format_needs_no_conversion(built: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="needs no conversion"):
        convert(built["vip"][1], tmp_path / "out")
