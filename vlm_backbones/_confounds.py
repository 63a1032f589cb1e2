"""Confounds: what differs between the backbones of a study though it must not, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vlm_backbones._backbone_facts import BackboneFacts, BackboneView, StageFacts
from vlm_backbones._label_facts import LostText, around_difference
from vlm_backbones._untrained_tokens import differs_by_chance
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.run import Run
from vlm_backbones.study import Study

__all__ = ["find_confounds", "write_left_out"]

SpecialWords = Mapping[str, frozenset[str]]


def write_left_out(study: Study, out: Path, places: Sequence[str]) -> str:
    """Add rows to those that the study leaves out already, in a new list; return how to use it."""
    known = study.data.leave_out.read_text(encoding="utf-8").split("\n") if study.data.leave_out else []
    path = out / "leave_out.txt"
    atomic_write_text(path, "".join(f"{place}\n" for place in dict.fromkeys([*filter(None, known), *places])))
    return f"To train every backbone without these rows: --set data.leave_out={path}"


def find_confounds(study: Study, views: Mapping[str, BackboneView], out: Path) -> list[str]:
    """Return what differs between backbones though it must not, and is not declared."""
    problems, cuts, unlike = list[str](), list[str](), set[str]()
    first_name, first = next(iter(views.items()))
    for name, view in views.items():
        problems += [*view.problems, *_untrained(name, view.facts, first_name, first.facts)]
        for stage, found in view.facts.stages.items():
            problems += _too_long(name, view.facts, stage, found)
            expected = first.facts.stages[stage]
            if found.truncated_rows != expected.truncated_rows:
                unlike |= {*view.cut_places[stage], *first.cut_places[stage]}
                where = (
                    "not the same ones" if view.cut_places[stage] != first.cut_places[stage] else "elsewhere in them"
                )
                cuts.append(
                    f"{stage}: {name} cuts {found.truncated_answers} answers, {first_name} cuts "
                    f"{expected.truncated_answers}, {where}: raise max_length_tokens."
                )
        for told in (
            _words_read_otherwise(name, view.special_taught, first_name, first.special_taught),
            _text_lost_otherwise(name, view.lost_taught, first_name, first.lost_taught),
        ):
            unlike |= told.places
            cuts += told.said
        problems += _words_read_otherwise(name, view.special_asked, first_name, first.special_asked).said
        problems += _text_lost_otherwise(name, view.lost_asked, first_name, first.lost_asked).said
    problems += _unlike_steps(study, views)
    if unlike:
        cuts[-1] += " " + write_left_out(study, out, sorted(unlike))
    return problems + cuts


def _unlike_steps(study: Study, views: Mapping[str, BackboneView]) -> Iterator[str]:
    """Steps and examples that differ between backbones of which the study declares no other number of them."""
    deviating = {
        (Run(backbone).name, stage)
        for backbone in study.deviations
        for stage in study.recipe.stages
        if study.deviates(backbone, stage, ("steps", "epochs", "batch_size"))
    }
    for stage in next(iter(views.values())).facts.stages:
        found = {name: view.facts.stages[stage] for name, view in views.items() if (name, stage) not in deviating}
        for key in ("optimizer_steps", "examples_seen"):
            first_name, first = next(iter(found.items()), ("", None))
            for name, row in found.items():
                if getattr(row, key) != getattr(first, key):
                    yield f"{stage}: {key} of {name} and {first_name} differ."


class _Told(NamedTuple):
    """The rows that two tokenizers read otherwise, and what is said of them: a line about the first, or none."""

    places: set[str]
    said: list[str]


def _told(words: Mapping[str, object], first: Mapping[str, object], say: Callable[[str, int], str]) -> _Told:
    """Compare what two tokenizers find in each row; `say` gets the first row that differs, and how many do."""
    places = {place for place in words.keys() | first.keys() if words.get(place) != first.get(place)}
    return _Told(places, [say(min(places), len(places))] if places else [])


def _words_read_otherwise(name: str, words: SpecialWords, first_name: str, first: SpecialWords) -> _Told:
    """Words that one tokenizer takes for special tokens and the other for text."""

    def say(place: str, count: int) -> str:
        said = [
            f"{who} reads {', '.join(map(repr, sorted(found))) or 'nothing'}"
            for who, found in ((name, words.get(place, ())), (first_name, first.get(place, ())))
        ]
        others = count - 1
        more = f" ({others} more such row{'s'[: others - 1]})" if others else ""
        return f"{place}: {said[0]} in its text as special tokens, {said[1]}{more}: write the text otherwise."

    return _told(words, first, say)


def _text_lost_otherwise(name: str, lost: LostText, first_name: str, first: LostText) -> _Told:
    """Questions of which one tokenizer loses text that the other keeps."""

    def say(place: str, count: int) -> str:
        own, other = (dict(found.changed.get(place, ())) for found in (lost, first))
        text = next(text for text in [*own, *other] if own.get(text) != other.get(text))
        asked, to_it, to_first = around_difference(text, own.get(text, text), other.get(text, text))
        return (
            f"{place}: the question {asked} is {to_it} to {name} and {to_first} to {first_name} ({count:,} of "
            f"{lost.rows:,} rows are read otherwise): a tokenizer loses text, and what it loses cannot be answered. "
            "Choose another backbone, or write the text otherwise."
        )

    return _told(lost.changed, first.changed, say)


def _untrained(name: str, row: BackboneFacts, first_name: str, first: BackboneFacts) -> Iterator[str]:
    """Tokens that one backbone would learn from the study's examples alone, and another knows or never sees."""
    for token, why in row.untrained_tokens.items():
        if first.untrained_tokens.get(token) != why or differs_by_chance(why):
            yield (
                f"{name} was never trained on the token {token!r} of its training text ({why}): it would learn it from "
                "these examples alone. Use chat_format: shared, or a checkpoint that was trained with it."
            )
    for token in first.untrained_tokens.keys() - row.untrained_tokens.keys():
        yield f"{first_name} was never trained on the token {token!r} of its training text, {name} was or has none."


def _too_long(name: str, row: BackboneFacts, stage: str, found: StageFacts) -> list[str]:
    if row.context_tokens is None or found.longest_tokens <= row.context_tokens:
        return []
    return [
        f"{stage}: a turn of {found.longest_tokens} tokens does not fit the context of {name} "
        f"({row.context_tokens} tokens): lower max_length_tokens or shorten it."
    ]
