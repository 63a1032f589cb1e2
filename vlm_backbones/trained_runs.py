"""Were runs trained alike? Their records against each other, the study and the certificate. No torch; open to all."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_backbones._seals import read_seal
from vlm_backbones._sweep import choice_file
from vlm_backbones.errors import ConfigError
from vlm_backbones.hashes import read_sealed_json
from vlm_backbones.recipe import Recipe
from vlm_backbones.run import Run, slug
from vlm_backbones.study import Study

__all__ = ["check_trained_runs", "refuse_other_training", "training_notes", "unlike_facts"]

Records = Mapping[str, Mapping[str, Any]]
"""run.json of each finished run, by the run's name."""

_AGAIN = "Train every run again in another --out."
_LENGTH = ("steps", "epochs", "batch_size")
_NO_EFFECT = {"micro_batch_size", "gradient_checkpointing"}
"""Of a stage's recipe: what is learned does not depend on it."""
_FACT_NAMES = {
    "version": "the training code's VERSION",
    "backbone": "the backbone's files",
    "vision_tower": "the vision tower's files",
    "image_features": "the tower's layers or sizes",
    "chat_format": "the chat format",
    "examples": "the training examples",
}
_PACKAGES = ("vlm-backbones", "torch", "transformers", "peft", "accelerate")


def check_trained_runs(study: Study, out: Path, names: Collection[str] | None = None) -> None:
    """Refuse a study whose finished runs differ in more than their backbone and seed, or are not as it says.

    Parameters
    ----------
    names
        The runs to compare; all finished ones where left out.

    Raises
    ------
    ConfigError
        Naming every difference: code version, seed, recipe, order of examples, batch, steps, pictures, weights.
    """
    runs = {run.name: run for run in study.runs() if names is None or run.name in names}
    records = _finished({name: out / name for name in runs})
    problems = [*_versions(records), *_seeds(study, out, records), *_certified(study, out, records)]
    for name, record in records.items():
        problems += _as_stated(study, out, runs[name], record)
    for fact in _FACTS:
        problems += _unlike(records, fact, lambda name, stage, keys: study.deviates(runs[name].backbone, stage, keys))
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise ConfigError(f"the runs of {out} cannot be compared, not only their backbones differ:\n{lines}")


def refuse_other_training(study: Study, out: Path) -> None:
    """Refuse to work in a folder whose finished training is not what the study says: it would be written over.

    Raises
    ------
    ConfigError
        Naming each run with what differs.
    """
    runs = {run.name: run for run in study.runs()}
    records = _finished({name: out / name for name in runs})
    problems = [line for name, record in records.items() for line in _as_stated(study, out, runs[name], record)]
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise ConfigError(
            f"{out} holds finished training of other values, which is never overwritten:\n{lines}\n"
            "Name another folder with --out, or delete those of these runs."
        )


def unlike_facts(found: Mapping[str, Any], stated: Mapping[str, Any]) -> list[str]:
    """Name what differs between what a run was trained from, as its run.json has it, and what it would be now."""
    found, stated = _object(found), _object(stated)
    told = [
        _FACT_NAMES.get(key, key)
        for key in dict.fromkeys([*stated, *found])
        if key != "recipe" and found.get(key) != stated.get(key)
    ]
    own, now = _recipe({"facts": found}), _recipe({"facts": stated})
    if own is None or now is None:
        return [*told, *(["the recipe"] if found.get("recipe") != stated.get("recipe") else [])]
    return [*told, *_differences(own, now)]


def training_notes(folders: Mapping[str, Path], *, is_study: bool) -> list[str]:
    """Say what a reader must know of the trainings of runs, by name -> folder; of a study's, more is refused before."""
    records = _finished(folders)
    return [*_same_backbones(records), *_environments(records), *([] if is_study else _unlike_trainings(records))]


def _same_backbones(records: Records) -> Iterator[str]:
    names: dict[str, dict[str, str]] = {}
    for name, record in records.items():
        if source := record["facts"].get("backbone"):
            names.setdefault(str(source), {}).setdefault(str(record.get("backbone")), name)
    for same in (list(runs.values()) for runs in names.values() if len(runs) > 1):
        yield f"{' and '.join(same)} started from the same LLM files: what differs between them is no other backbone's."


def _environments(records: Records) -> Iterator[str]:
    """Which packages and devices differ between the trainings."""
    said = []
    for package in _PACKAGES:
        said += _groups(package, {name: record["versions"].get(package) for name, record in records.items()})
    said += _groups("on", {name: record["hardware"].get("device") for name, record in records.items()})
    if said:
        yield (
            f"the runs were not all trained with the same software on the same device: {'; '.join(said)}. The last "
            "digits of sums differ between them, and so may a few answers; train all in one place to rule that out."
        )


def _unlike_trainings(records: Records) -> Iterator[str]:
    """In what else than backbone and seed runs differ that no study holds together."""
    yield from _versions(records)
    formats = {name: _chat_format(record) for name, record in records.items()}
    yield from (f"the runs were trained in different {found}." for found in _groups("chat formats:", formats))
    for fact in _FACTS:
        yield from _unlike(records, fact, lambda name, stage, keys: False)
    recipes = {name: recipe for name, record in records.items() if (recipe := _recipe(record)) is not None}
    for name, recipe in recipes.items():
        first_name, first = next(iter(recipes.items()))
        if told := _differences(recipe, first):
            yield f"{name} was not trained by the recipe of {first_name}: {'; '.join(told)}. {_AGAIN}"


def _groups(what: str, values: Mapping[str, Any]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        if value is not None:
            names.setdefault(str(value), []).append(name)
    if len(names) < 2:
        return []
    return [f"{what} " + ", ".join(f"{value} ({', '.join(runs)})" for value, runs in names.items())]


def _finished(folders: Mapping[str, Path]) -> dict[str, Mapping[str, Any]]:
    records = {name: _read(folder / "run.json") for name, folder in folders.items()}
    return {name: _normal(record) for name, record in records.items() if record.get("state") == "finished"}


def _normal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record in which what is an object in ours is one: anybody may have written it."""
    parts = {key: _object(record.get(key)) for key in ("facts", "versions", "hardware", "stages")}
    parts["stages"] = {name: _object(stage) for name, stage in parts["stages"].items()}
    return {**record, **parts, "version": str(record.get("version"))}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _versions(records: Records) -> Iterator[str]:
    versions = {name: record.get("version") for name, record in records.items()}
    if len(set(versions.values())) > 1:
        shown = ", ".join(f"{name} by version {version}" for name, version in versions.items())
        yield f"the training code changed between the runs: {shown}. {_AGAIN}"


def _seeds(study: Study, out: Path, records: Records) -> Iterator[str]:
    """A seed that did not reach the training, or a backbone that is another one for another seed."""
    weights: dict[tuple[str, str], Run] = {}
    sources: dict[str, tuple[str, Any]] = {}
    for run in (run for run in study.runs() if run.name in records):
        name, found = run.name, records[run.name].get("seed")
        if found != run.seed:
            yield f"{name} was trained with seed {found}, the study says {run.seed}. Train it again."
        files = read_seal(out / name / "checkpoint").get("files", {})
        digest = json.dumps({file: value for file, value in files.items() if file.endswith(".safetensors")})
        other = weights.setdefault((run.backbone, digest), run)
        if files and other.seed != run.seed:
            yield f"{name} has the same weights as {other.name}: the seed was not passed on to the training. {_AGAIN}"
        source = records[name]["facts"].get("backbone")
        first_name, first = sources.setdefault(run.backbone, (name, source))
        if source != first:
            yield f"{name} and {first_name} did not start from the same files of {run.backbone}. {_AGAIN}"


def _certified(study: Study, out: Path, records: Records) -> Iterator[str]:
    """What a run saw against what the certificate says that every run sees."""
    certified = _object(_object(_read(out / "certificate.json").get("equal")).get("examples_in_order"))
    backbones = {run.name: run.backbone for run in study.runs()}
    for name, record in records.items():
        for stage, digest in certified.items():
            found = record["stages"].get(stage, {}).get("order_sha256", digest)
            if found != digest and not study.deviates(backbones[name], stage, _ORDER.keys):
                yield (
                    f"{name}, {stage}: the steps did not see the examples in the certificate's order, which follows "
                    "characters and no tokenizer's lengths. Run `study check` again, then train it again."
                )


def _as_stated(study: Study, out: Path, run: Run, record: Mapping[str, Any]) -> Iterator[str]:
    """What a run was made from against what the study says: a folder of another study has other values."""
    backbone = str(record.get("backbone"))
    if slug(backbone) != slug(run.backbone):  # a folder may have moved since
        yield f"{run.name} was trained from {backbone}, the study says {run.backbone}."
    chosen = _read(choice_file(out, run.backbone)).get("learning_rate", record.get("learning_rate"))
    rate = chosen if run.is_best else None
    found = _recipe(record)
    told = (
        ["its run.json holds none that this version reads"]
        if found is None
        else _differences(found, study.recipe_for(run.backbone, rate))
    )
    if told:
        yield f"{run.name} was not trained by the study's recipe: {'; '.join(told)}."
    chat_format = study.chat_format_for(run.backbone)
    trained = _chat_format(record)
    if trained is not None and trained != chat_format:
        yield f"{run.name} was trained in the chat format {trained!r}, the study says {chat_format!r}."


def _chat_format(record: Mapping[str, Any]) -> str | None:
    named = record["facts"].get("chat_format")
    return str(named[0]) if isinstance(named, list) and named else None


def _recipe(record: Mapping[str, Any]) -> Recipe | None:
    """Return a run's recipe; None where it has none that this version knows."""
    try:
        return Recipe.model_validate(record["facts"].get("recipe"))
    except ValidationError:
        return None


def _differences(found: Recipe, stated: Recipe) -> list[str]:
    """Name each setting that another weight could come from, with its value in the one and in the other."""
    own, other = _settings(found), _settings(stated)
    return [
        f"{key} is {own.get(key, 'left out')}, not {other.get(key, 'left out')}"
        for key in dict.fromkeys([*other, *own])
        if own.get(key, "left out") != other.get(key, "left out")
    ]


def _settings(recipe: Recipe) -> dict[str, Any]:
    stages = {
        f"{name}.{key}": value
        for name, stage in recipe.stages.items()
        for key, value in stage.model_dump(mode="json").items()
        if key not in _NO_EFFECT
    }
    return {"standardize_features": recipe.standardize_features, **stages}


@dataclass(frozen=True)
class _Fact:
    """What records must have in common: a key of each stage's, or of the whole run's facts."""

    what: str
    key: str
    keys: tuple[str, ...] = ()
    """Of a stage's recipe: a declared deviation in one of them makes the fact another."""
    of_stage: bool = True

    def found(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Stage -> value, the stage empty where the fact is the run's."""
        if self.of_stage:
            return {name: stage[self.key] for name, stage in record["stages"].items() if self.key in stage}
        value = record["facts"].get(self.key)
        return value if isinstance(value, dict) else {"": value}  # examples are told by stage


_ORDER = _Fact("the order of the examples differs", "order_sha256", (*_LENGTH, "batch_grouping", "data_seed"))
_FACTS = (
    _ORDER,
    _Fact("the examples an optimizer step (the effective batch) differ", "batch_size", ("batch_size",)),
    _Fact("the optimizer steps differ", "steps", _LENGTH),
    _Fact("the loss is computed by liger-kernel in some runs only", "fused_loss", ("answer_weighting",)),
    _Fact("the examples seen differ", "examples_seen", _LENGTH),
    _Fact("pictures are not prepared alike", "image_processor", ("image_aspect_ratio",)),
    _Fact("the vision towers differ", "vision_tower", of_stage=False),
    _Fact("other layers or sizes of the vision tower are read", "image_features", of_stage=False),
    _Fact("the training examples differ", "examples", of_stage=False),
)


def _unlike(records: Records, fact: _Fact, is_declared: Callable[[str, str, Collection[str]], bool]) -> Iterator[str]:
    """Say of each stage that runs differ in a fact; a run's stage in which that is declared is not compared."""
    found = {name: fact.found(record) for name, record in records.items()}
    for stage in dict.fromkeys(stage for values in found.values() for stage in values):
        known = {
            name: values[stage]
            for name, values in found.items()
            if values.get(stage) is not None and not is_declared(name, stage, fact.keys)
        }
        if len({json.dumps(value, sort_keys=True) for value in known.values()}) > 1:
            shown = "; ".join(f"{name} {_short(value)}" for name, value in known.items())
            yield f"{f'{stage}: ' if stage else ''}{fact.what}: {shown}. {_AGAIN}"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    text = str(value)
    return text if len(text) < 32 else text[:12]


def _read(path: Path) -> dict[str, Any]:
    """Return a file's content; empty where there is none or it is damaged, which the stage that wrote it mends."""
    return read_sealed_json(path) or {}
