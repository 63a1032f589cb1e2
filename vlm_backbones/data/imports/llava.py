"""LLaVA Instruct JSON -> the dataset of `vqa_scene`: the short questions of its conversations, one a row.

Long answers, rows without a picture and region records are no short questions on a picture: left out and counted.
Training needs no import: `data.finetune` takes the JSON itself, whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import Example, Turn, load_examples
from vlm_backbones.data.imports.question_rows import KINDS
from vlm_backbones.data.imports.write import refuse_existing, save_split
from vlm_backbones.errors import DataError

__all__ = ["ImportedQuestions", "import_llava"]

_SHORT = "\nAnswer the question using a single word or phrase."
_LETTER = "\nAnswer with the option's letter from the given choices directly."
_OPTION = re.compile(r"^\(?([A-H])[.)] ", re.MULTILINE)


@dataclass
class ImportedQuestions:
    """How many questions were written, and how many rows or turns were left out, by reason."""

    count: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def leave(self, why: str, count: int = 1) -> None:
        """Count what is left out."""
        self.left_out[why] = self.left_out.get(why, 0) + count


def import_llava(
    source: Path, out: Path, *, split: str = "test", max_words: int = 5, limit: int | None = None
) -> ImportedQuestions:
    """Write OUT/vqa_scene/SPLIT: a question a turn, without the sentence that asks for a short answer or a letter.

    Parameters
    ----------
    source
        A .json, .jsonl or .parquet file of conversations; pictures are named relative to it.
    max_words
        Words of the longest answer that is kept.
    limit
        The first so many questions.

    Raises
    ------
    DataError
        If rows are malformed or pictures missing (all are named), no question is left, or the folder exists.
    """
    target = refuse_existing(out, "vqa_scene", split)
    bad, made = BadRows(), ImportedQuestions()
    if not source.is_file():
        raise DataError(f"no file {source}. Expected LLaVA's Instruct JSON.")
    examples = load_examples([source], bad=bad)
    kept = [(example, number, turn) for example in examples for number, turn in _short_turns(example, max_words, made)]
    chosen = kept[:limit]
    for example in {id(example): example for example, _, _ in chosen}.values():
        with bad.gather():
            assert example.image is not None
            example.image.open()
    bad.refuse()
    if not chosen:
        raise DataError(f"{source}: no short question on a picture among {len(examples)} rows ({made.left_out}).")
    made.count = save_split(target, (_row(*each) for each in chosen), KINDS)
    if len(kept) > made.count:
        made.leave("beyond the limit", len(kept) - made.count)
    return made


def _short_turns(example: Example, max_words: int, made: ImportedQuestions) -> Iterator[tuple[int, Turn]]:
    if example.image is None:
        made.leave("rows without a picture")
    elif example.region is not None:
        made.leave("region records")
    else:
        for number, turn in enumerate(example.turns):
            if len(turn.answer.split()) <= max_words:
                yield number, turn
            else:
                made.leave(f"answers of more than {max_words} words")


def _row(example: Example, number: int, turn: Turn) -> dict[str, Any]:
    assert example.image is not None
    question = turn.question.removesuffix(_SHORT)
    is_letter = question.endswith(_LETTER)
    letters = list(dict.fromkeys(_OPTION.findall(question))) if is_letter else []
    return {
        "image": {"bytes": example.image.read(), "path": None},
        "question": question.removesuffix(_LETTER).strip(),
        "answers": [turn.answer],
        "options": letters,
        "question_type": "letter" if is_letter else "short",
        "image_id": example.image.digest().hex()[:16],
        "question_id": f"{example.id}-{number}",
        "targets": "{}",
    }
