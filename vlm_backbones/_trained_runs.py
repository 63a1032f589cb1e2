"""Were the runs of a study trained alike? Their records, compared with each other and the certificate. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_backbones._seals import read_seal
from vlm_backbones.errors import ConfigError
from vlm_backbones.run import Run
from vlm_backbones.study import Study

__all__ = ["check_trained_runs"]

Records = Mapping[str, Mapping[str, Any]]
"""run.json of each finished run, by the run's name."""

_AGAIN = "Train every run again in another --out."


def check_trained_runs(study: Study, out: Path, names: Collection[str] | None = None) -> None:
    """Refuse a study whose finished runs differ in more than their backbone and seed.

    Parameters
    ----------
    names
        The runs to compare; all finished ones where left out.

    Raises
    ------
    ConfigError
        Naming every difference: code version, seed, order of examples, batch, steps, pictures, weights.
    """
    records = {
        name: record
        for name in (run.name for run in study.runs())
        if (names is None or name in names) and (record := _read(out / name / "run.json")).get("state") == "finished"
    }
    problems = [*_versions(records), *_seeds(study, out, records), *_certified(study, out, records)]
    for what, fact in _FACTS.items():
        problems += _unlike(study, records, what, fact)
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise ConfigError(f"the runs of {out} cannot be compared, not only their backbones differ:\n{lines}")


def _versions(records: Records) -> Iterator[str]:
    versions = {name: record.get("version") for name, record in records.items()}
    if len(set(versions.values())) > 1:
        shown = ", ".join(f"{name} by version {version}" for name, version in versions.items())
        yield f"the training code changed between the runs: {shown}. {_AGAIN}"


def _seeds(study: Study, out: Path, records: Records) -> Iterator[str]:
    """A seed that did not reach the training: another one in the record, or the same weights for two seeds."""
    weights: dict[tuple[str, str], Run] = {}
    for run in (run for run in study.runs() if run.name in records):
        name, found = run.name, records[run.name].get("seed")
        if found != run.seed:
            yield f"{name} was trained with seed {found}, the study says {run.seed}. Train it again."
        files = read_seal(out / name / "checkpoint").get("files", {})
        digest = json.dumps({file: value for file, value in files.items() if file.endswith(".safetensors")})
        other = weights.setdefault((run.backbone, digest), run)
        if files and other.seed != run.seed:
            yield f"{name} has the same weights as {other.name}: the seed was not passed on to the training. {_AGAIN}"


def _certified(study: Study, out: Path, records: Records) -> Iterator[str]:
    """What a run saw against what the certificate says that every run sees."""
    certified = _read(out / "certificate.json").get("equal", {}).get("examples_in_order", {})
    for name, record in _undeclared(study, records).items():
        for stage, digest in certified.items():
            found = record.get("stages", {}).get(stage, {}).get("order_sha256", digest)
            if found != digest:
                yield (
                    f"{name}, {stage}: the steps did not see the examples in the certificate's order, which follows "
                    "characters and no tokenizer's lengths. Run `study check` again, then train it again."
                )


def _of_stages(key: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda record: {name: stage[key] for name, stage in record.get("stages", {}).items() if key in stage}


_FACTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "the order of the examples differs": _of_stages("order_sha256"),
    "the examples an optimizer step (the effective batch) differ": _of_stages("batch_size"),
    "the optimizer steps differ": _of_stages("steps"),
    "the loss is computed by liger-kernel in some runs only": _of_stages("fused_loss"),
    "the examples seen differ": _of_stages("examples_seen"),
    "pictures are not prepared alike": _of_stages("image_processor"),
    "the vision towers differ": lambda record: record.get("facts", {}).get("vision_tower"),
    "the training examples differ": lambda record: record.get("facts", {}).get("examples"),
}


def _unlike(study: Study, records: Records, what: str, fact: Callable[[Mapping[str, Any]], Any]) -> Iterator[str]:
    found = {name: fact(record) for name, record in _undeclared(study, records).items()}
    known = {name: value for name, value in found.items() if value}
    if len({json.dumps(value, sort_keys=True) for value in known.values()}) > 1:
        shown = "; ".join(f"{name}: {_short(value)}" for name, value in known.items())
        yield f"{what}: {shown}. {_AGAIN}"


def _undeclared(study: Study, records: Records) -> Records:
    """Return the runs of backbones for which the study declares no deviation."""
    declared = {run.name for run in study.runs() if study.deviations.get(run.backbone)}
    return {name: record for name, record in records.items() if name not in declared}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(part)}" for name, part in value.items())
    text = str(value)
    return text if len(text) < 32 else text[:12]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
