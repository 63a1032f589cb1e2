"""Scenes: one true answer a question, balanced answers, the same pictures everywhere."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from vlm_backbones.pocket.questions import QUESTION_TYPES, candidate_questions, pick_questions
from vlm_backbones.pocket.scenes import SceneObject, draw_scene, sample_scene

SCENE = [
    SceneObject("large", "red", "circle", 0, 0, 0.0, 0.0),
    SceneObject("small", "red", "star", 1, 3, 0.0, 0.0),
    SceneObject("small", "blue", "circle", 3, 1, 0.0, 0.0),
]


def _answers() -> dict[str, str]:
    grouped = candidate_questions(SCENE, np.random.default_rng(0))
    return {question.question: question.answer for group in grouped.values() for question in group}


def test_answers_of_a_scene_laid_out_by_hand() -> None:
    answers = _answers()
    assert answers["How many circles are there?"] == "2"
    assert answers["How many triangles are there?"] == "0"
    assert answers["What colour is the star?"] == "red"
    assert answers["What shape is the small red object?"] == "star"
    assert answers["How big is the blue circle?"] == "small"
    assert answers["Where is the blue circle?"] == "bottom left"
    assert answers["Where is the star?"] == "top right"
    assert answers["Is the star above the blue circle?"] == "yes"
    assert answers["Is the star left of the blue circle?"] == "no"
    assert answers["Are there more circles than stars?"] == "yes"
    assert answers["Is there a red circle?"] == "yes"
    assert answers["Is there a blue star?"] == "no"


def test_a_phrase_that_fits_two_objects_is_never_asked_about() -> None:
    assert not any("the circle" in question or "the red object" in question for question in _answers())


def test_both_wordings_differ_and_the_answer_is_among_the_options() -> None:
    rng = np.random.default_rng(1)
    asked = 0
    for _ in range(50):
        for group in candidate_questions(sample_scene(rng), rng).values():
            for question in group:
                assert question.question != question.paraphrase
                assert question.answer in question.options
                asked += 1
    assert asked > 1000


def test_answers_are_balanced_within_a_type() -> None:
    rng, seen = np.random.default_rng(2), Counter[tuple[str, str]]()
    for _ in range(400):
        pick_questions(sample_scene(rng), 4, seen, rng)
    for name in QUESTION_TYPES:
        counts = [count for (question_type, answer), count in seen.items() if question_type == name and answer != "4"]
        assert len(counts) >= 2
        assert max(counts) <= 1.1 * min(counts) + 2, (name, counts)


def test_a_scene_has_the_same_pixels_as_when_the_tower_was_trained() -> None:
    digest = hashlib.sha256(draw_scene(SCENE).tobytes()).hexdigest()
    assert digest == "374f3ee84a6fabb22f03fd5572cc721077e7164b4c4a25a2f88fb390f918da7c"
