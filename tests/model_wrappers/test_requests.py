"""In what order requests are read, how many at once, and what of them the backbone is given: shapes are counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL.ImageFile import ImageFile

from vlm_backbones.model_wrappers._queue import Queue
from vlm_backbones.model_wrappers._requests import Job, windows
from vlm_backbones.model_wrappers.backbone_vlm import BackboneVLM
from vlm_backbones.tasks.common import doc_to_visual

HEAD = len("?USER: ") + 5  # a token a byte, one for the start, five for the picture
TAIL = len("\n ASSISTANT: ")  # and the question


def job(index: int, characters: int, **settings: int) -> Job:
    return Job(index, "x" * characters, "task", "test", index, lambda row: [], json.dumps(settings))


def test_questions_about_one_image_share_a_window_whatever_their_lengths() -> None:
    chance = Random(0)
    jobs = [job(index, chance.choice([20, 150, 300, 900])) for index in range(4 * 30)]  # four an image, neighbours
    chance.shuffle(jobs)
    found = list(windows(jobs, 32))
    assert [len(window) for window in found] == [8, 24, 32, 32, 24]
    assert sorted(one.index for window in found for one in window) == list(range(120))
    of_image = [{one.index // 4 for one in window} for window in found]
    assert sum(map(len, of_image)) == 30


def test_the_longest_question_comes_first_and_other_settings_apart() -> None:
    jobs = [*(job(index, 10) for index in range(40)), job(40, 500), *(job(50 + index, 10, top=1) for index in range(3))]
    found = list(windows(jobs, 16))
    assert 40 in {one.index for window in found[:2] for one in window}
    assert [{one.settings for one in window} for window in found] == [{"{}"}] * 4 + [{'{"top": 1}'}]
    assert list(windows([], 16)) == []


def count_passes(model: BackboneVLM) -> list[tuple[int, int]]:
    """Return a list to which each pass of the backbone adds its rows and its new positions."""
    assert model.engine is not None
    inner, shapes = model.engine.backbone, list[tuple[int, int]]()

    def counted(embeddings: Any, *given: Any) -> Any:
        shapes.append(tuple(embeddings.shape[:2]))
        return inner(embeddings, *given)

    object.__setattr__(model.engine, "backbone", counted)
    return shapes


@pytest.fixture
def answer(
    checkpoint: Path, scene_rows: Any, ask: Any, build: Any, threads: Callable[[int], None]
) -> Callable[..., list[tuple[int, int]]]:
    """Return a function of rows and questions that answers each with a token and returns the passes' shapes."""
    threads(1)  # a forked process would count for itself

    def passes(
        asked: list[tuple[int, str]], visual: Any = doc_to_visual, *, positions: int = 10**6
    ) -> list[tuple[int, int]]:
        model = build(checkpoint, scene_rows, 16)
        model.room.pass_positions = positions
        shapes = count_passes(model)
        model.generate_until([ask(text, {"max_new_tokens": 1}, visual, row) for row, text in asked])
        return shapes

    return passes


def test_a_picture_is_read_once_for_all_questions_about_it(answer: Callable[..., list[tuple[int, int]]]) -> None:
    """Rows 2k and 2k + 1 show the same picture."""
    asked = [(row, f"Colour {number}?") for row in (0, 1, 2, 3) for number in range(4)]
    assert answer(asked) == [(2, HEAD), (16, TAIL + len("Colour 0?"))]
    assert answer(asked[:1]) == [(1, HEAD + TAIL + len("Colour 0?"))]


def test_a_questions_options_are_read_in_its_own_pass(checkpoint: Path, scene_rows: Any, ask: Any, build: Any) -> None:
    model = build(checkpoint, scene_rows, 16)
    shapes = count_passes(model)
    model.loglikelihood([
        ask(question, option, doc_to_visual, 0) for question in ("Colour?", "Colours") for option in ("red", "blue")
    ])  # fmt: skip
    # An option's last token is predicted, not read.
    assert shapes == [(1, HEAD), (2, TAIL + len("Colour?") + len("re") + len("blu"))]


def test_long_rows_are_taken_fewer_at_once() -> None:
    """Rows times the longest of them stay within the positions; one alone is taken whatever its length."""
    queue = Queue(iter([[100, 20, 20, 20], [5, 5, 10, 5, 5, 5]]), lambda tokens: tokens)
    assert [queue.take(4, 40) for _ in range(5)] == [[100], [20, 20], [20, 5], [5, 10, 5, 5], [5]]


def test_each_pass_is_of_one_picture_where_its_questions_fill_it(answer: Callable[..., list[tuple[int, int]]]) -> None:
    """Asked in turn about four pictures, with room for the four questions about one."""
    asked = [(row, "Why?" * number) for number in (1, 2, 3, 4) for row in (0, 2, 4, 6)]
    longest = TAIL + len("Why?" * 4)
    assert answer(asked, positions=4 * (HEAD + longest)) == [(1, HEAD), (4, longest)] * 4


def test_a_pass_is_of_rows_of_one_length(answer: Callable[..., list[tuple[int, int]]]) -> None:
    """Short and long questions without a picture in turn, with room for eight long ones."""
    before = HEAD - 5 + TAIL - len("\n")
    asked = [(row, "Why?" * (1 if row % 2 else 10)) for row in range(16)]
    shapes = answer(asked, lambda row: [], positions=8 * (before + 40))
    assert shapes == [(8, before + 40), (8, before + 4)]


def test_pictures_are_read_on_another_thread_while_the_backbone_works(
    checkpoint: Path, scene_rows: Any, ask: Any, build: Any, threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    threads(1)
    decode, decoded_on, last_is_read = ImageFile.load, set[int](), threading.Event()

    def load(image: ImageFile) -> Any:
        if image.tile:  # not decoded yet
            decoded_on.add(threading.get_ident())
        return decode(image)

    def visual(row: Any) -> Any:
        pictures = doc_to_visual(row)
        if row["question_id"] == "q7":
            last_is_read.set()
        return pictures

    model = build(checkpoint, scene_rows, 4)
    inner, waited = model.engine.backbone, list[bool]()

    def working(*given: Any) -> Any:
        waited.append(last_is_read.wait(10 if not waited else 0))
        return inner(*given)

    object.__setattr__(model.engine, "backbone", working)
    monkeypatch.setattr(ImageFile, "load", load)
    model.generate_until([ask("Colour?", {"max_new_tokens": 1}, visual, row) for row in range(8)])
    assert waited[0]  # the last window's, before the first pass has ended
    assert decoded_on
    assert threading.get_ident() not in decoded_on
