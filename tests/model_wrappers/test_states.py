"""The sidecar of hidden states: the model's own states, whatever the batch, and the control of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from safetensors import safe_open

from vlm_backbones.done_files import damaged_files
from vlm_backbones.errors import ConfigError, DataError
from vlm_backbones.model_wrappers import evaluate
from vlm_backbones.model_wrappers._random_weights import random_weights
from vlm_backbones.model_wrappers._states import (
    TOKEN_TYPES,
    DocumentStates,
    StateFolder,
    StatePlan,
    count_documents,
    spread,
)
from vlm_backbones.vlm import load

pytestmark = pytest.mark.usefixtures("environment")
ALL = "+".join(TOKEN_TYPES)


def record(checkpoint: Path, out: Path, *flags: str) -> int:
    return evaluate.main([str(checkpoint), "--tasks", "vqa_scene", "--out", str(out), "--device", "cpu", *flags])


def answered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return doc_key -> logged sample."""
    (file,) = folder.rglob("*_samples_vqa_scene.jsonl")
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {row["token_counts"][0]["reasoning_tokens"]["doc_key"]: row for row in rows}


def read(folder: Path, task: str) -> dict[str, np.ndarray]:
    """Return doc_key -> (layers, token_types, hidden) of one task."""
    found = {}
    for path in sorted(folder.glob(f"{task}-rank*.safetensors")):
        with safe_open(path, framework="numpy") as shard:
            vectors = shard.get_tensor("states").astype(np.float32) * shard.get_tensor("scales")[..., None]
            keys = [row.tobytes().hex() for row in shard.get_tensor("doc_key")]
        found |= dict(zip(keys, vectors, strict=True))
    return found


@pytest.fixture(scope="module")
def recorded(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLM_BACKBONES_DATA", str(data))
        patch.setenv("VLM_BACKBONES_CACHE", str(out / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(out / "hf"))
        flags = ["--conditions", "clean,noise05", "--states", ALL, "--layers", "all", "--subset", "6", "--limit", "18"]
        assert record(checkpoint, out, *flags) == 0
    return out


@torch.inference_mode()
def own_states(checkpoint: Path, row: dict[str, Any], question: str) -> torch.Tensor:
    """Return (layers, token_types, hidden) by transformers alone: its processor, its generation, its forward."""
    model, processor = load(checkpoint, dtype=torch.float32)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    inputs = processor(images=row["image"], text=text, return_tensors="pt", add_special_tokens=False)
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=16)[0, inputs["input_ids"].shape[1] :]
    answer = answer[answer != 2]  # without the end of turn
    ids = torch.cat([inputs["input_ids"][0], answer])[None]
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    hidden = torch.stack(model(**inputs, output_hidden_states=True).hidden_states)[:, 0]  # (layers, length, hidden)
    length = ids.shape[1] - len(answer)
    words = text.index(question) - len("<s>USER: <image>")  # bytes are tokens, and the image takes five for one
    start = 1 + len("USER: ") + 5 + words
    kinds = {
        "last_prompt": hidden[:, length - 1],
        "image_mean": hidden[:, ids[0] == 3].mean(1),
        "question_mean": hidden[:, start : start + len(question)].mean(1),
        "answer_mean": hidden[:, length:].mean(1) if len(answer) else torch.zeros_like(hidden[:, 0]),
    }
    return torch.stack([kinds[name] for name in TOKEN_TYPES], dim=1)


def test_the_sidecar_holds_the_models_own_states(recorded: Path, checkpoint: Path, data: Path) -> None:
    clean, logged = read(recorded / "states" / "clean", "vqa_scene"), answered(recorded / "logs" / "clean")
    assert len(clean) == 6
    assert len(logged) == 18
    rows = load_from_disk(str(data / "vqa_scene"))["test"]
    assert [logged[key]["doc_id"] for key in clean] == [0, 3, 6, 9, 12, 15]
    for key in list(clean)[:3]:
        own = own_states(checkpoint, rows[logged[key]["doc_id"]], logged[key]["input"]).numpy()
        np.testing.assert_allclose(clean[key], own, atol=2e-3 * np.abs(own).max())
        assert np.abs(own).max() > 0.1


def test_conditions_are_asked_on_the_documents_whose_clean_states_are_kept(recorded: Path) -> None:
    clean, noisy = (read(recorded / "states" / name, "vqa_scene") for name in ("clean", "noise05"))
    assert set(clean) == set(noisy) == set(answered(recorded / "logs" / "noise05"))
    image, question = TOKEN_TYPES.index("image_mean"), TOKEN_TYPES.index("question_mean")
    for key, states in clean.items():
        assert np.abs(states[0, image] - noisy[key][0, image]).max() > 0.01  # the picture differs from the first layer
        np.testing.assert_array_equal(states[0, question], noisy[key][0, question])  # the words do not


def test_random_weights_are_the_same_documents_through_another_backbone(recorded: Path) -> None:
    clean, random = (read(recorded / "states" / name, "vqa_scene") for name in ("clean", "random_weights"))
    assert list(clean) == list(random)
    image = TOKEN_TYPES.index("image_mean")
    for key, states in clean.items():
        # features come from the trained projector; everything behind them is another model
        np.testing.assert_allclose(states[0, image], random[key][0, image], rtol=1e-3, atol=1e-5)
        assert np.abs(states[-1] - random[key][-1]).max() > 0.1


def test_shards_say_what_they_are(recorded: Path) -> None:
    (path,) = (recorded / "states" / "noise05").iterdir()
    with safe_open(path, framework="numpy") as shard:
        header = {name: json.loads(value) for name, value in shard.metadata().items()}
        assert shard.get_tensor("states").dtype == np.float16
        assert shard.get_tensor("doc_id").tolist() == list(range(6))
    assert header["task"] == "vqa_scene"
    assert header["condition"] == "noise05"
    assert header["layers"] == [0, 1, 2]
    assert header["token_types"] == list(TOKEN_TYPES)


def test_states_do_not_depend_on_the_batch(recorded: Path, checkpoint: Path, tmp_path: Path) -> None:
    flags = ["--states", ALL, "--layers", "all", "--subset", "6", "--limit", "18", "--batch-size", "1"]
    assert record(checkpoint, tmp_path, *flags) == 0
    alone, together = (read(out / "states" / "clean", "vqa_scene") for out in (tmp_path, recorded))
    for key, states in together.items():
        np.testing.assert_allclose(alone[key], states, atol=2e-3 * np.abs(states).max())


def test_a_second_call_skips_and_another_choice_of_layers_does_not(
    recorded: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--states", "last_prompt", "--subset", "4", "--limit", "8"]
    assert record(checkpoint, tmp_path, *flags, "--layers", "0+2") == 0
    assert record(checkpoint, tmp_path, *flags, "--layers", "0+2") == 0
    assert "skipped" in capsys.readouterr().out
    assert record(checkpoint, tmp_path, *flags, "--layers", "2") == 0
    assert next(iter(read(tmp_path / "states" / "clean", "vqa_scene").values())).shape[:2] == (1, 1)


def test_an_evaluation_without_states_leaves_them_and_what_is_known_of_them(checkpoint: Path, tmp_path: Path) -> None:
    assert record(checkpoint, tmp_path, "--states", "last_prompt", "--limit", "4") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 2
    assert record(checkpoint, tmp_path, "--limit", "5") == 0
    done = tmp_path / "logs" / "clean" / "done.json"
    row = json.loads(done.read_text())["tasks"]["vqa_scene"]
    assert row["n"] == 5
    assert {path: path.read_bytes() for path in before} == before
    assert damaged_files(done) == {}
    next(iter(before)).write_bytes(b"")
    assert damaged_files(done) == {"vqa_scene": [next(iter(before))]}


def test_own_weights_come_back_after_random_ones(checkpoint: Path) -> None:
    model, _ = load(checkpoint, dtype=torch.float32)
    language_model = model.model.language_model
    inputs = torch.randn(1, 5, 32)
    before = language_model(inputs_embeds=inputs).last_hidden_state
    with random_weights(language_model):
        first = language_model(inputs_embeds=inputs).last_hidden_state
        second = language_model(inputs_embeds=inputs).last_hidden_state
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, before)
    torch.testing.assert_close(language_model(inputs_embeds=inputs).last_hidden_state, before)


def test_every_nth_layer_ends_with_the_last() -> None:
    plan = StatePlan.parse("last_prompt", "every4", Path("x"), None, None)
    assert plan.layer_numbers(32) == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert plan.layer_numbers(6) == [0, 4, 6]
    with pytest.raises(ConfigError, match="layers 0 to 6"):
        StatePlan.parse("last_prompt", "3+9", Path("x"), None, None).layer_numbers(6)


@pytest.mark.parametrize(("states", "layers"), [("last_promt", "all"), ("", "all"), ("last_prompt", "half")])
def test_an_odd_choice_of_states_is_refused(states: str, layers: str) -> None:
    with pytest.raises(ConfigError):
        StatePlan.parse(states, layers, Path("x"), None, None)


def test_a_subset_is_spread_evenly() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 5) == spread(3, None) == [0, 1, 2]


def test_a_state_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, 0, {"checkpoint": "a"})
    states = torch.full((1, 1, 4), torch.nan)
    with pytest.raises(DataError, match="row 7: a hidden state is not finite"):
        folder.add(DocumentStates("t", 7, "00" * 32, states.half(), states[..., 0]))


def test_thousand_documents_of_a_7b_model_stay_under_300_mb(tmp_path: Path) -> None:
    """Layers 0, 4, .. 32 of hidden size 4,096, four kinds of token: 10 documents here, 1,000 by proportion."""
    folder = StateFolder(tmp_path, 0, {"checkpoint": "a"})
    for index in range(10):
        folder.add(DocumentStates("t", index, "00" * 32, torch.zeros(9, 4, 4096).half(), torch.zeros(9, 4)))
    folder.add(DocumentStates("t", 9, "00" * 32, torch.zeros(9, 4, 4096).half(), torch.zeros(9, 4)))  # asked twice
    folder.close()
    assert count_documents(tmp_path, "t") == 10
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) * 100 < 300e6


def test_states_of_another_checkpoint_are_not_replaced(tmp_path: Path) -> None:
    row = DocumentStates("t", 0, "00" * 32, torch.ones(1, 1, 4).half(), torch.ones(1, 1))
    for checkpoint in ("a", "a"):
        folder = StateFolder(tmp_path, 0, {"checkpoint": checkpoint})
        folder.add(row)
        folder.close()
    other = StateFolder(tmp_path, 0, {"checkpoint": "b"})
    other.add(row)
    with pytest.raises(ConfigError, match="another checkpoint"):
        other.close()
