"""In what order requests are read."""

from __future__ import annotations

import json
from random import Random

from vlm_backbones.model_wrappers._requests import Job, windows


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
