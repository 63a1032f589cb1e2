"""Control: is the comparison fair? The certificate of what is held equal, and the preflight that reads everything."""

from __future__ import annotations

__all__ = ["VERSION", "check_study", "missing_parts"]

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm_backbones._backbone_facts import (
    BackboneFacts,
    BackboneView,
    StageFacts,
    StageInput,
    TextParts,
    open_tokenizer,
    view_data,
)
from vlm_backbones._fingerprints import files_fingerprint, hash_of
from vlm_backbones._hub import is_here, part_files, unpinned
from vlm_backbones._label_facts import LostText, around_difference
from vlm_backbones._reporters import check_reporters
from vlm_backbones._study_loading import package_folder
from vlm_backbones._untrained_tokens import differs_by_chance
from vlm_backbones.backbones import Backbone, get_backbone
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import Example, examples_digest, load_training_examples
from vlm_backbones.data.counts import check_captions, count_data
from vlm_backbones.data.evaluation_data import EVALUATION_SPLIT, Asked, asked_questions, check_test_split
from vlm_backbones.data.order import order_examples
from vlm_backbones.errors import DataError
from vlm_backbones.hashes import sealed_json
from vlm_backbones.pocket.datasets import data_dir
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.run import Run
from vlm_backbones.study import Study
from vlm_backbones.vision import VisionTower, get_vision_tower, squared_as

VERSION = 7
_WORDING = ("prompts.py", "data/_region_words.py")
_GROUPED = {
    "length": "characters of question and answer, 64 an image: no tokenizer's lengths",
    "modality": "with or without image",
    "none": "nothing",
}
_PACKAGES = ("", ".train", ".model_wrappers", ".tasks", ".analysis")

SpecialWords = Mapping[str, frozenset[str]]

Stages = Mapping[str, Sequence[Example]]
"""Each stage's examples, by the stage's name."""


def check_study(study: Study, out: Path, tell: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Read everything that training and evaluation will read, write `out/certificate.json`, and return its content.

    The key `confounds` lists what makes the comparison unfair; it is empty for a fair one. Rows that are bad, or that
    are cut for some backbones only, are also written to `out/leave_out.txt`. `tell` gets a line before each part of it.

    Raises
    ------
    DataError
        With every bad row and image (file, row, why), or where labels do not decode to their answers.
    ConfigError, CheckpointError
        Where a part cannot be opened or has no whole weights, or a reporter cannot start.
    """
    check_reporters(study.report_to)
    _check_tower(get_vision_tower(study.vision_tower))
    tell(f"opening {', '.join(study.backbones)}, and looking at their weights")
    parts = {backbone: _open(study, backbone) for backbone in study.backbones}
    bad = BadRows()
    files = ", ".join(map(str, study.data.training_files)) or "the pocket data"
    tell(f"reading the training examples of {files}")
    stages = load_training_examples(study.data, study.recipe.stages, bad)
    counts = ", ".join(f"{name} {len(examples):,}" for name, examples in stages.items())
    tell(f"opening the pictures of all examples ({counts}), and the test splits")
    images = _read_images(stages, bad)
    bad.take(_read_test_splits(study))
    for name, recipe in study.recipe.stages.items():
        if recipe.chat_format == "plain":
            check_captions(stages[name], name, bad)
    _refuse(bad, study, out)
    tell(f"rendering every label for {', '.join(study.backbones)}")
    asked = _asked(study)
    views = {
        Run(backbone).name: _view_of(study, backbone, opened, stages, asked, bad) for backbone, opened in parts.items()
    }
    _refuse(bad, study, out)
    certificate = {
        "version": VERSION,
        "study": study.name,
        "equal": _equal_facts(study, stages, images),
        "data": count_data(study.data, stages),
        "backbones": {name: asdict(view.facts) for name, view in views.items()},
        "supervised_text": {name: view.supervised_text for name, view in views.items()},
        "varies": _varying(study, {name: view.facts for name, view in views.items()}),
        "deviations": study.deviations,
        "unpinned": unpinned(_parts(study)),
        "confounds": _find_confounds(study, views, out),
    }
    atomic_write_text(out / "certificate.json", sealed_json(certificate))
    return certificate


def missing_parts(study: Study) -> list[str]:
    """Return what a check would need and cannot have: training files that are not there, and parts not downloaded yet.

    Parts of the hub alone are no reason against a check: it downloads what it needs.
    """
    files = [f"{path} does not exist" for path in study.data.training_files if not path.exists()]
    if not files:
        return []
    return files + [f"{row.id}: {row.source} is not downloaded" for row in _parts(study) if not is_here(row)]


def _parts(study: Study) -> list[Backbone | VisionTower]:
    return [*map(get_backbone, study.backbones), get_vision_tower(study.vision_tower)]


def _check_tower(row: VisionTower) -> None:
    """Refuse a tower that lacks weights or its feature layer, or is not what its row says, before any row is read."""
    from vlm_backbones.vlm.full_size import vision_config
    from vlm_backbones.vlm.towers import TOWER_CLASSES, check_tower
    from vlm_backbones.vlm.whole_weights import check_tower_files

    config = vision_config(row)
    check_tower(row, config)
    check_tower_files(row, config, TOWER_CLASSES[row.family])


def _refuse(bad: BadRows, study: Study, out: Path) -> None:
    """Raise what is wrong with rows, and write down which they are."""
    if not bad:
        return
    try:
        bad.refuse()
    except DataError as error:
        if not bad.places:
            raise
        raise DataError(f"{error}\n{_write_left_out(study, out, bad.places)}") from error


def _write_left_out(study: Study, out: Path, places: Sequence[str]) -> str:
    """Add rows to those that the study leaves out already, in a new list; return how to use it."""
    known = study.data.leave_out.read_text(encoding="utf-8").split("\n") if study.data.leave_out else []
    path = out / "leave_out.txt"
    atomic_write_text(path, "".join(f"{place}\n" for place in dict.fromkeys([*filter(None, known), *places])))
    return f"To train every backbone without these rows: --set data.leave_out={path}"


def _read_images(stages: Stages, bad: BadRows) -> str:
    """Open every image once; return the hash over them in order; `bad` gathers those that cannot be read."""
    total, seen = hashlib.sha256(), set[bytes]()
    for example in (example for examples in stages.values() for example in examples):
        if example.image is None:
            continue
        with bad.gather():
            digest = example.image.digest()
            if digest not in seen:
                example.image.open()
                seen.add(digest)
                total.update(digest)
    return total.hexdigest()


def _read_test_splits(study: Study) -> BadRows:
    """Read every row and picture that our own tasks will ask; what is wrong there cannot be left out."""
    bad = BadRows()
    for task, folder, split in _test_splits(study):
        check_test_split(task, folder, decode=True, bad=bad, name=split)
    return bad


def _test_splits(study: Study) -> list[tuple[str, Path, str]]:
    splits = [EVALUATION_SPLIT, *(["validation"] if study.sweep else [])]
    tasks = study.own_tasks()
    folder = (study.data.eval or data_dir()) if tasks else Path()
    return [(task, folder, split) for task in tasks for split in splits]


def _asked(study: Study) -> list[Asked]:
    """Return the questions of our own tasks' splits, which were found to be good."""
    return [row for task, folder, split in _test_splits(study) for row in asked_questions(task, folder, split)]


def _equal_facts(study: Study, stages: Stages, images: str) -> dict[str, Any]:
    row = get_vision_tower(study.vision_tower)
    folders = [package_folder(f"vlm_backbones{name}") for name in _PACKAGES]
    code = sorted({path for folder in folders for path in folder.rglob("*.py")})
    return {
        "vision_tower": part_files(row),
        "examples_in_order": {
            name: examples_digest(stages[name], order_examples(stages[name], recipe))
            for name, recipe in study.recipe.stages.items()
        },
        "examples": {name: len(examples) for name, examples in stages.items()},
        "images": images,
        "recipe": hash_of(study.recipe.model_dump(mode="json")),
        "prompts": files_fingerprint(package_folder("vlm_backbones") / name for name in _WORDING),
        "code": files_fingerprint(code),
        "image_tokens": row.image_tokens,
        "image_preprocessing": {name: _preprocessing(row, recipe) for name, recipe in study.recipe.stages.items()},
        "batches_grouped_by": {name: _GROUPED[recipe.batch_grouping] for name, recipe in study.recipe.stages.items()},
    }


def _preprocessing(row: VisionTower, recipe: StageRecipe) -> str:
    """Return the hash of what a stage does to its pictures before the tower."""
    from vlm_backbones.vision.preprocessing import build_image_processor

    return hash_of(json.loads(build_image_processor(squared_as(row, recipe.image_aspect_ratio)).to_json_string()))


def _open(study: Study, backbone: str) -> TextParts:
    return open_tokenizer(backbone, study.chat_format_for(backbone), trust_remote_code=study.trust_remote_code)


def _view_of(
    study: Study, backbone: str, parts: TextParts, stages: Stages, asked: Sequence[Asked], bad: BadRows
) -> BackboneView:
    recipes = study.recipe_for(backbone).stages
    inputs = [
        StageInput(name, stages[name], order_examples(stages[name], recipe), recipe) for name, recipe in recipes.items()
    ]
    return view_data(parts, get_vision_tower(study.vision_tower), inputs, asked, bad)


def _varying(study: Study, facts: Mapping[str, BackboneFacts]) -> dict[str, str]:
    """Name what differs between backbones, and why it may."""
    reasons = {
        "files": "each backbone's own weights",
        "digits": "each backbone's own tokenizer",
        "trained_parameters": "each backbone's own size",
        "context_tokens": "each backbone's own context",
        "chat_template": f"chat_format: {study.chat_format}",
        "answer_ends": "each backbone's own end tokens",
        "dropout": "as each was published; training takes none",
        "attention_window": "each backbone's own layers",
        "rotary_positions": "each backbone's own layers",
        "unplaced_weights": "each backbone's own files",
        "untrained_tokens": "each backbone's own vocabulary",
        "untold_tokens": "each backbone's own vocabulary",
    }
    rows = [asdict(row) for row in facts.values()]
    varies = {key: why for key, why in reasons.items() if len({hash_of(row[key]) for row in rows}) > 1}
    supervised = {tuple(stage.supervised_tokens_seen for stage in row.stages.values()) for row in facts.values()}
    return varies | ({"supervised_tokens": reasons["digits"]} if len(supervised) > 1 else {})


def _find_confounds(study: Study, views: Mapping[str, BackboneView], out: Path) -> list[str]:
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
        taught = _read_otherwise(view.special_taught, first.special_taught)
        unlike |= taught
        cuts += _read_problem(name, view.special_taught, first_name, first.special_taught, taught)
        tested = _read_otherwise(view.special_asked, first.special_asked)
        problems += _read_problem(name, view.special_asked, first_name, first.special_asked, tested)
        lost = _read_otherwise(view.lost_taught.changed, first.lost_taught.changed)
        unlike |= lost
        cuts += _lost_problem(name, view.lost_taught, first_name, first.lost_taught, lost)
        lost = _read_otherwise(view.lost_asked.changed, first.lost_asked.changed)
        problems += _lost_problem(name, view.lost_asked, first_name, first.lost_asked, lost)
    problems += _unlike_steps(study, views)
    if unlike:
        cuts[-1] += " " + _write_left_out(study, out, sorted(unlike))
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


def _read_otherwise(words: Mapping[str, object], first: Mapping[str, object]) -> set[str]:
    """Return the places of texts in which two tokenizers find something else: special tokens, or what they lose."""
    return {place for place in words.keys() | first.keys() if words.get(place) != first.get(place)}


def _read_problem(
    name: str, words: SpecialWords, first_name: str, first: SpecialWords, places: Collection[str]
) -> Iterator[str]:
    if not places:
        return
    place = min(places)
    said = [
        f"{who} reads {', '.join(map(repr, sorted(found))) or 'nothing'}"
        for who, found in ((name, words.get(place, ())), (first_name, first.get(place, ())))
    ]
    others = len(places) - 1
    more = f" ({others} more such row{'s'[: others - 1]})" if others else ""
    yield f"{place}: {said[0]} in its text as special tokens, {said[1]}{more}: write the text otherwise."


def _lost_problem(
    name: str, lost: LostText, first_name: str, first: LostText, places: Collection[str]
) -> Iterator[str]:
    if not places:
        return
    place = min(places)
    own, other = (dict(found.changed.get(place, ())) for found in (lost, first))
    text = next(text for text in [*own, *other] if own.get(text) != other.get(text))
    asked, to_it, to_first = around_difference(text, own.get(text, text), other.get(text, text))
    yield (
        f"{place}: the question {asked} is {to_it} to {name} and {to_first} to {first_name} ({len(places):,} of "
        f"{lost.rows:,} rows are read otherwise): a tokenizer loses text, and what it loses cannot be answered. Choose "
        "another backbone, or write the text otherwise."
    )


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
