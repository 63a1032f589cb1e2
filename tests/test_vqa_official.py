"""VQA accuracy against the official evaluator's own words, as lmms-eval ships them, and against its quirks."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor
from lmms_eval.tasks.vqav2.utils import vqav2_process_results

from vlm_backbones.scoring import normalize_vqa, vqa_accuracy

WORDS = [
    "cat", "Cat", "the cat", "a", "an apple", "two", "2", "none", "ten", "dont", "don't", "isnt", "shed", "1,000",
    "1000", "black/white", "black / white", "yes.", "Yes", "no!", "e.g. this", "3.5", "-5", "it's", "somebody'd",
    " cat ", "cat\n", "\tdog", "a-b", "what?", "(x)", "$5", "50%", "U.S.A.", "one, two", "x;y", "", ".", "...",
]  # fmt: skip


def official_normalisation(text: str) -> str:
    processor = EvalAIAnswerProcessor()
    cleaned = text.replace("\n", " ").replace("\t", " ").strip()
    return str(processor.process_digit_article(processor.process_punctuation(cleaned)))


def official_accuracy(answer: str, answers: list[str]) -> float:
    """lmms-eval's VQAv2 scoring: the official one, but normalised always."""
    doc = {"question_id": 1, "answers": [{"answer": text, "answer_id": i} for i, text in enumerate(answers)]}
    return float(vqav2_process_results(copy.deepcopy(doc), [answer])["exact_match"])


@pytest.mark.parametrize("text", WORDS)
def test_normalisation_is_the_official_one(text: str) -> None:
    assert normalize_vqa(text) == official_normalisation(text)


@settings(max_examples=300)
@given(answer=st.sampled_from(WORDS), answers=st.lists(st.sampled_from(WORDS), min_size=10, max_size=10))
def test_accuracy_with_different_references_is_the_official_one(answer: str, answers: list[str]) -> None:
    cleaned = {text.replace("\n", " ").replace("\t", " ").strip() for text in answers}
    if len(cleaned) > 1:
        assert vqa_accuracy(answer, answers) == pytest.approx(official_accuracy(answer, answers))


@given(answer=st.text(max_size=30), answers=st.lists(st.text(max_size=12), min_size=2, max_size=10, unique=True))
def test_accuracy_of_any_text_is_the_official_one(answer: str, answers: list[str]) -> None:
    cleaned = {text.replace("\n", " ").replace("\t", " ").strip() for text in answers}
    if len(cleaned) > 1:
        assert vqa_accuracy(answer, answers) == pytest.approx(official_accuracy(answer, answers))


@pytest.mark.parametrize(
    ("answer", "reference", "official", "always_normalised"),
    [
        ("Cat", "cat", 0.0, 1.0),  # ten equal references: raw strings
        ("cat.", "cat", 0.0, 1.0),
        ("two", "2", 0.0, 1.0),
        ("a cat", "cat", 0.0, 1.0),
        (" cat\n", "cat", 1.0, 1.0),  # line ends and spaces at the ends go always
        ("cat", "cat", 1.0, 1.0),
        ("$5", "$5", 1.0, 1.0),
    ],
)
def test_ten_equal_references_are_where_lmms_eval_differs(
    answer: str, reference: str, official: float, always_normalised: float
) -> None:
    assert vqa_accuracy(answer, [reference] * 10) == official
    assert official_accuracy(answer, [reference] * 10) == always_normalised


def test_one_other_reference_switches_normalisation_on() -> None:
    # Nine of "cat" and one "dog": the answer "Cat" matches the nine. Each of the nine leaves eight others, so 1; "dog"
    # leaves nine, so 1.
    assert vqa_accuracy("Cat", ["cat"] * 9 + ["dog"]) == 1.0
    # "dog" matches one: its own turn counts 0, the nine others 1/3 each.
    assert vqa_accuracy("Dog.", ["cat"] * 9 + ["dog"]) == pytest.approx(0.3)
