"""The wording of ViP-LLaVA's region questions; no code beside joining words.

The prompts of RefCOCOg, Visual Genome, Visual7W and PointQA are the published ones, since the models are asked with
them. VCR's and Flickr30k's changing openings are of the published kind in our own words.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ANY_OBJECT",
    "FLICKR_HINT",
    "FLICKR_QUESTIONS",
    "ONE_OBJECT",
    "RELATION",
    "SHORT_PHRASE",
    "VCR_OPENINGS",
    "VCR_OPTIONS",
    "VCR_WHY",
    "lettered",
    "which_box",
    "with_example",
]

SHORT_PHRASE = " Please provide a short phrase."
ANY_OBJECT = ("Describe the object with the visual prompt.", "Describe the pointed region.")
ONE_OBJECT = "Describe the object ."
RELATION = (
    "Please describe the relationship between the subject {0} and the object {1}. Provide a short triplet (subject, "
    "relationship, object) to represent this. Here, the subject and object are noun phrases, and the relationship can "
    "be verbs or prepositions."
)
FLICKR_QUESTIONS = {
    False: (
        "Describe the image with the marked objects; leave the marks themselves out.",
        "Write one sentence on the image that speaks of the marked objects and not of their marks.",
    ),
    True: (
        "Describe the image with the marked objects; name both the objects and their marks.",
        "Write one sentence on the image that names each marked object together with its mark, such as a red box.",
    ),
}
FLICKR_HINT = " The visual prompts are: "
VCR_OPENINGS = (
    "Look at the source image and answer: ",
    "Going by the source image: ",
    "Please answer a question on the source image: ",
    "With the source image in mind, ",
    "Here is a question on the source image: ",
    "Using what the source image shows, answer this: ",
)
VCR_OPTIONS = (" Choose from these: ", " The options are: ", " Pick one of the following: ", " Your choices: ")
VCR_WHY = (
    "Why?",
    "What makes you think so?",
    "What is your reasoning?",
    "How did you come to this answer?",
    "What in the image supports it?",
    "Can you explain your answer?",
    "On what is that based?",
    "What speaks for it?",
)


def lettered(options: Sequence[str]) -> str:
    """Return "(A) first (B) second"."""
    return " ".join(f"({chr(ord('A') + index)}) {option}" for index, option in enumerate(options))


def which_box(question: str, options: Sequence[str]) -> str:
    """Return a Visual7W question: the options a line each, answered with a letter."""
    lines = [f"{chr(ord('A') + index)}. {option}" for index, option in enumerate(options)]
    return "\n".join([question, *lines, "Answer with the option's letter from the given choices directly."])


def with_example(question: str) -> str:
    """Return a PointQA-LookTwice question: it counts what the rectangle shows one of."""
    return (
        f"{question} The exemplary object is within the rectangle.\nAnswer the question using a single word or phrase."
    )
