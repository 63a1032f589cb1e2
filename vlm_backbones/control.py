"""Control: is the comparison fair? The certificate of what is held equal, and the preflight that reads everything."""

from __future__ import annotations

__all__ = ["VERSION", "check_study", "missing_parts"]

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlm_backbones._backbone_facts import (
    BackboneFacts,
    BackboneView,
    StageInput,
    TextParts,
    open_tokenizer,
    view_data,
)
from vlm_backbones._confounds import find_confounds, write_left_out
from vlm_backbones._fingerprints import files_fingerprint, hash_of
from vlm_backbones._hub import is_here, part_files, unpinned
from vlm_backbones._reporters import check_reporters
from vlm_backbones._study_loading import package_folder
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
        "confounds": find_confounds(study, views, out),
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
        raise DataError(f"{error}\n{write_left_out(study, out, bad.places)}") from error


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
