"""Perturbations, keys and media: deterministic, and the same in every run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from vlm_backbones.errors import ConfigError, DataError
from vlm_backbones.model_wrappers._conditions import check_condition, paraphrased, perturbed, swap_partners
from vlm_backbones.model_wrappers._dataset_rows import DatasetRows
from vlm_backbones.model_wrappers._media import MediaFolder
from vlm_backbones.model_wrappers._record import doc_key, image_key


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8))


def test_image_key_is_of_size_and_pixels_not_of_the_file() -> None:
    image = picture()
    assert image_key([image]) == hashlib.sha256(b"40x32:" + image.tobytes()).hexdigest()
    assert image_key([image.convert("RGBA")]) == image_key([image])
    assert image_key([image, picture(1)]) not in {image_key([image]), image_key([picture(1), image])}
    assert image_key([]) is None


def test_doc_key_separates_task_context_and_image() -> None:
    keys = {doc_key("a", "q", None), doc_key("b", "q", None), doc_key("a", "p", None), doc_key("a", "q", "k")}
    assert len(keys) == 4
    assert doc_key("a", "q", "k") == hashlib.sha256(b'["a", "q", "k"]').hexdigest()


@pytest.mark.parametrize("condition", ["jpeg40", "noise05", "shift4"])
def test_perturbations_change_the_pixels_the_same_way_each_time(condition: str) -> None:
    image = picture()
    (first,), (second,) = perturbed([image], condition), perturbed([image], condition)
    assert first.tobytes() == second.tobytes() != image.tobytes()
    assert first.size == image.size


def test_noise_has_the_named_sigma_and_shift_the_named_distance() -> None:
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    (noisy,) = perturbed([grey], "noise05")
    assert np.asarray(noisy, dtype=float).std() == pytest.approx(0.05 * 255, rel=0.02)
    image = picture()
    (moved,) = perturbed([image], "shift4")
    assert (np.asarray(moved)[4:, 4:] == np.asarray(image)[:-4, :-4]).all()


def test_swap_is_a_derangement_over_images_whatever_the_order() -> None:
    keys = [(index, f"k{index // 3}", 1) for index in range(30)] + [(30, None, 0)]
    partners = swap_partners(keys, "task")
    image_of = {index: key for index, key, _ in keys}
    assert set(partners) == set(range(30))  # a document without images keeps none
    assert all(image_of[donor] != image_of[index] for index, donor in partners.items())
    assert len({image_of[donor] for donor in partners.values()}) == 10  # every picture is used
    assert all(len({image_of[partners[3 * k + n]] for n in range(3)}) == 1 for k in range(10))
    shuffled = swap_partners(reversed(keys), "task")
    assert {i: image_of[d] for i, d in shuffled.items()} == {i: image_of[d] for i, d in partners.items()}
    assert swap_partners(keys, "another task") != partners


def test_swap_never_pairs_documents_with_different_numbers_of_images() -> None:
    keys = [(0, "a", 1), (1, "b", 1), (2, "c", 2), (3, "d", 2)]
    assert swap_partners(keys, "t") == {0: 1, 1: 0, 2: 3, 3: 2}
    with pytest.raises(DataError, match="one picture only"):
        swap_partners([(0, "a", 1), (1, "a", 1)], "t")


def test_paraphrase_replaces_the_question_in_its_prompt() -> None:
    row = {"question": "How many?", "paraphrase": "Count them."}
    assert paraphrased("How many?\nAnswer briefly.", row) == "Count them.\nAnswer briefly."
    with pytest.raises(DataError, match="second wording"):
        paraphrased("How many?", {"question": "How many?", "paraphrase": ""})


def test_unknown_condition_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'swap'"):
        check_condition("swop")


def test_media_is_written_once_and_shows_the_picture(tmp_path: Path) -> None:
    media = MediaFolder(tmp_path)
    media.write("key", [Image.new("RGB", (64, 48), "red")])
    written = (tmp_path / "key.webp").stat().st_mtime_ns
    MediaFolder(tmp_path).write("key", [Image.new("RGB", (64, 48), "blue")])
    media.write(None, [])
    assert [path.name for path in tmp_path.iterdir()] == ["key.webp"]
    assert (tmp_path / "key.webp").stat().st_mtime_ns == written
    with Image.open(tmp_path / "key.webp") as image:
        assert image.size == (64, 48)
        assert image.convert("RGB").getpixel((30, 20))[0] > 200  # type: ignore[index]


def test_a_shared_picture_is_decoded_once_and_given_as_a_copy(scene_rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    original = datasets.Image.decode_example
    monkeypatch.setattr(
        datasets.Image, "decode_example", lambda *given, **named: decoded.append(1) or original(*given, **named)
    )
    rows = DatasetRows({"t": {"test": scene_rows}})
    read = [rows.read("t", "test", index) for index in range(6)]  # every two questions share a picture
    assert len(decoded) == 3
    assert read[0]["image"].tobytes() == read[1]["image"].tobytes() == scene_rows[0]["image"].tobytes()
    read[0]["image"].paste((0, 0, 0), (0, 0, 8, 8))
    assert rows.read("t", "test", 1)["image"].tobytes() == scene_rows[1]["image"].tobytes()
    assert {name: value for name, value in read[5].items() if name != "image"} == {
        name: value for name, value in scene_rows[5].items() if name != "image"
    }
