"""Control: is the comparison fair? The certificate of what is held equal, and the preflight that reads everything."""

from __future__ import annotations

__all__ = ["VERSION", "check_study", "render_check"]

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm_backbones._backbone_facts import BackboneFacts, StageFacts, collect_facts, open_tokenizer
from vlm_backbones._fingerprints import files_fingerprint, hash_of
from vlm_backbones._reporters import check_reporters
from vlm_backbones._study_loading import package_folder
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.data._bad_rows import BadRows
from vlm_backbones.data.conversations import Example, examples_digest, load_stage_examples
from vlm_backbones.data.evaluation_data import TASKS, check_test_split
from vlm_backbones.data.order import build_order, count_steps
from vlm_backbones.pocket.datasets import data_dir
from vlm_backbones.recipe import StageRecipe
from vlm_backbones.study import Study
from vlm_backbones.vision import get_vision_tower

VERSION = 1
_GROUP = "backbone_study"
_PACKAGES = ("", ".train", ".model_wrappers", ".tasks", ".analysis")


@dataclass(frozen=True)
class StageData:
    """One training stage's examples, read and in order."""

    name: str
    kind: str
    """`align` or `finetune`."""
    examples: list[Example]


def check_study(study: Study, out: Path) -> dict[str, Any]:
    """Read everything that training and evaluation will read, write `out/certificate.json`, and return its content.

    The key `confounds` lists what makes the comparison unfair; it is empty for a fair one.

    Raises
    ------
    DataError
        With every bad row and image (file, row, why), or where labels do not decode to their answers.
    ConfigError, CheckpointError
        Where a part cannot be opened, or a reporter cannot start.
    """
    check_reporters(study.report_to)
    bad = BadRows()
    stages = _load_stages(study, bad)
    images = _read_images(stages, bad)
    _read_test_splits(study, bad)
    bad.refuse()
    facts = {study.run_name(backbone): _facts_of(study, backbone, stages) for backbone in study.backbones}
    certificate = {
        "version": VERSION,
        "study": study.name,
        "equal": _equal_facts(study, stages, images),
        "backbones": {name: asdict(row) for name, row in facts.items()},
        "varies": _varying(study, facts),
        "deviations": study.deviations,
        "confounds": _find_confounds(study, facts),
    }
    atomic_write_text(out / "certificate.json", json.dumps(certificate, indent=1, default=str))
    return certificate


def _stage_recipes(study: Study, backbone: str | None = None) -> list[tuple[str, str, StageRecipe]]:
    """Return (name, kind, recipe) of every training stage in order."""
    recipe = study.recipe if backbone is None else study.recipe_for(backbone)
    align = [("align", "align", recipe.align)] if recipe.align else []
    finetune = [
        ("finetune" if number == 1 else f"finetune-{number}", "finetune", stage)
        for number, stage in enumerate(recipe.finetune_stages, start=1)
    ]
    return [*align, *finetune]


def _load_stages(study: Study, bad: BadRows) -> list[StageData]:
    loaded: dict[str, list[Example]] = {}
    stages = []
    for name, kind, _ in _stage_recipes(study):
        if kind not in loaded:
            loaded[kind] = load_stage_examples(study.data.align, study.data.finetune, kind, bad)
        stages.append(StageData(name, kind, loaded[kind]))
    return stages


def _read_images(stages: Sequence[StageData], bad: BadRows) -> str:
    """Open every image once; return the hash over them in order; `bad` gathers those that cannot be read."""
    total, seen = hashlib.sha256(), set[bytes]()
    for example in (example for stage in stages for example in stage.examples):
        if example.image is None:
            continue
        with bad.gather():
            digest = example.image.digest()
            if digest not in seen:
                example.image.open()
                seen.add(digest)
                total.update(digest)
    return total.hexdigest()


def _read_test_splits(study: Study, bad: BadRows) -> None:
    """Read every row and picture that our own tasks will ask."""
    folder = study.data.eval or data_dir()
    for task in TASKS:
        if task in study.tasks or _GROUP in study.tasks:
            check_test_split(task, folder, decode=True, bad=bad)


def _equal_facts(study: Study, stages: Sequence[StageData], images: str) -> dict[str, Any]:
    row = get_vision_tower(study.vision_tower)
    tower = Path(row.source)
    folders = [package_folder(f"vlm_backbones{name}") for name in _PACKAGES]
    code = sorted({path for folder in folders for path in folder.rglob("*.py")})
    return {
        "vision_tower": files_fingerprint([tower]) if tower.is_dir() else f"{row.source}@{row.revision}",
        "examples_in_order": {
            stage.name: examples_digest(stage.examples, _order(stage.examples, recipe))
            for stage, (_, _, recipe) in zip(stages, _stage_recipes(study), strict=True)
        },
        "examples": {stage.name: len(stage.examples) for stage in stages},
        "images": images,
        "recipe": hash_of(study.recipe.model_dump(mode="json")),
        "prompts": files_fingerprint([package_folder("vlm_backbones") / "prompts.py"]),
        "code": files_fingerprint(code),
        "image_tokens": row.image_tokens,
    }


def _order(examples: Sequence[Example], recipe: StageRecipe) -> list[list[int]]:
    steps = count_steps(len(examples), recipe.batch_size, recipe.steps, recipe.epochs)
    lengths = [example.length for example in examples]
    return build_order(lengths, batch_size=recipe.batch_size, steps=steps, seed=recipe.data_seed)


def _facts_of(study: Study, backbone: str, stages: Sequence[StageData]) -> BackboneFacts:
    parts = open_tokenizer(backbone, study.chat_format, trust_remote_code=study.trust_remote_code)
    recipes = _stage_recipes(study, backbone)
    tower = get_vision_tower(study.vision_tower)
    orders = [_order(stage.examples, recipe) for stage, (_, _, recipe) in zip(stages, recipes, strict=True)]
    return collect_facts(
        parts,
        tower,
        [
            (stage.name, stage.examples, order, recipe)
            for stage, order, (_, _, recipe) in zip(stages, orders, recipes, strict=True)
        ],
    )


def _varying(study: Study, facts: Mapping[str, BackboneFacts]) -> dict[str, str]:
    """Name what differs between backbones, and why it may."""
    reasons = {
        "digits": "each backbone's own tokenizer",
        "trained_parameters": "each backbone's own size",
        "context_tokens": "each backbone's own context",
        "chat_template": f"chat_format: {study.chat_format}",
    }
    rows = [asdict(row) for row in facts.values()]
    varies = {key: why for key, why in reasons.items() if len({hash_of(row[key]) for row in rows}) > 1}
    supervised = {tuple(stage.supervised_tokens_seen for stage in row.stages.values()) for row in facts.values()}
    return varies | ({"supervised_tokens": reasons["digits"]} if len(supervised) > 1 else {})


def _find_confounds(study: Study, facts: Mapping[str, BackboneFacts]) -> list[str]:
    """Return what differs between backbones though it must not, and is not declared."""
    problems = []
    first_name, first = next(iter(facts.items()))
    for name, row in facts.items():
        for stage, found in row.stages.items():
            problems += _too_long(name, row, stage, found)
            expected = first.stages[stage]
            if found.truncated_rows != expected.truncated_rows:
                problems.append(
                    f"{stage}: {name} cuts {found.truncated_answers} answers, {first_name} cuts "
                    f"{expected.truncated_answers}, not the same ones: raise max_length_tokens."
                )
            for key in ("optimizer_steps", "examples_seen"):
                if getattr(found, key) != getattr(expected, key) and not study.deviations:
                    problems.append(f"{stage}: {key} of {name} and {first_name} differ.")
    return problems


def _too_long(name: str, row: BackboneFacts, stage: str, found: StageFacts) -> list[str]:
    if row.context_tokens is None or found.longest_tokens <= row.context_tokens:
        return []
    return [
        f"{stage}: a turn of {found.longest_tokens} tokens does not fit the context of {name} "
        f"({row.context_tokens} tokens): lower max_length_tokens or shorten it."
    ]


def render_check(certificate: Mapping[str, Any]) -> None:
    """Print the certificate as two tables: what is equal, and each backbone's facts."""
    from rich.console import Console
    from rich.table import Table

    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=200)
    equal = Table("held equal", "", box=None)
    for key, value in certificate["equal"].items():
        for name, fact in value.items() if isinstance(value, dict) else [("", value)]:
            equal.add_row(f"{key} {name}".strip(), str(fact)[:24])
    console.print(equal)
    table = Table("per backbone", *certificate["backbones"], box=None)
    rows = list(certificate["backbones"].values())
    table.add_row("context_tokens", *(str(row["context_tokens"]) for row in rows))
    for text in rows[0]["digits"]:
        table.add_row(f"{text} is", *("|".join(row["digits"][text]) for row in rows))
    for stage in rows[0]["stages"]:
        table.add_row(f"{stage}: trained_parameters", *(f"{row['trained_parameters'][stage]:,}" for row in rows))
        for key in ("optimizer_steps", "examples_seen", "supervised_tokens_seen", "tokens_an_answer"):
            table.add_row(f"{stage}: {key}", *(str(row["stages"][stage][key]) for row in rows))
        table.add_row(f"{stage}: truncated answers", *(str(row["stages"][stage]["truncated_answers"]) for row in rows))
    console.print(table)
    varies = "; ".join(f"{key} ({why})" for key, why in certificate["varies"].items())
    console.print(f"varies: {varies or 'nothing'}", soft_wrap=True)
