"""The model card of a trained checkpoint: what it was made from, what it scored, under which licence. No torch."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vlm_backbones.backbones import get_backbone
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.train.licences import find_licences, inherited_licence
from vlm_backbones.vision import get_vision_tower

__all__ = ["model_card", "read_json", "refresh_cards"]

_EQUAL = ("vision_tower", "examples_in_order", "images", "recipe", "prompts", "code")


def model_card(run_dir: Path) -> str:
    """Return README.md of a run's checkpoint, from its record, the study's certificate and its scores where they exist.

    The metadata block is what `huggingface_hub.ModelCard` reads; licences are inherited from backbone, tower and data.
    """
    record = read_json(run_dir / "run.json")
    certificate = read_json(run_dir.parent / "certificate.json")
    scores = _read_scores(run_dir.parent / "tables" / "scores.csv", run_dir.name)
    study = record["study"]
    sections = [
        f"---\n{_metadata(run_dir.name, record, scores).to_yaml()}\n---",
        f"# {run_dir.name}",
        _summary(record),
        _use(),
        _scores_section(scores),
        _certificate_section(run_dir.name, certificate),
        _training_section(record),
        _licence_section(study, record["backbone"]),
        "## Intended use\n\nFor research: it was trained to compare LLM backbones with everything else equal, and its "
        "scores say how it compares with the study's other runs. It is not a product: it was not tested for safety, "
        "and what it says about a picture (an earthquake's place or size above all) is no basis for decisions.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def refresh_cards(out: Path) -> None:
    """Write the cards of a study's finished runs again, now that there are scores."""
    for path in sorted(out.glob("*/checkpoint/README.md")):
        if read_json(path.parents[1] / "run.json").get("state") == "finished":
            atomic_write_text(path, model_card(path.parents[1]))


def _metadata(name: str, record: dict[str, Any], scores: list[dict[str, Any]]) -> ModelCardData:
    study = record["study"]
    rows: list[Any] = [get_backbone(record["backbone"]), get_vision_tower(study["vision_tower"])]
    licence: dict[str, Any] = inherited_licence(find_licences(study, record["backbone"]))
    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=row["task"],
            dataset_name=row["task"],
            metric_type=row["metric"],
            metric_value=row["value"],
            metric_name=row["metric"],
            metric_args={"ci_low": row["ci_low"], "ci_high": row["ci_high"], "n": row["n"]},
        )
        for row in scores
    ]
    return ModelCardData(
        **licence,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["vlm-backbones", "llava"],
        base_model=[row.hub_repo for row in rows if row.hub_repo and not row.local_path] or None,
        model_name=name,
        eval_results=results or None,
    )


def _summary(record: dict[str, Any]) -> str:
    study = record["study"]
    chat_format = study["chat_format"]
    if isinstance(chat_format, dict):
        chat_format = chat_format.get(record["backbone"], "native")
    return (
        f"A vision-language model trained by vlm-backbones: study `{study['name']}`, backbone `{record['backbone']}`, "
        f"vision tower `{study['vision_tower']}`, recipe `{study['recipe']['name']}`, chat format "
        f"`{chat_format}`, seed {record['seed']}."
    )


def _use() -> str:
    return """```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("path/to/checkpoint")
processor = AutoProcessor.from_pretrained("path/to/checkpoint", backend="pil")  # the pixels it was trained with
```

Or `pipeline("image-text-to-text", model="path/to/checkpoint")`."""


def _scores_section(scores: list[dict[str, Any]]) -> str:
    if not scores:
        return ""
    lines = ["## Scores", "", "Without perturbation; 95 % intervals.", "", _row("task", "metric", "value", "interval",
             "n", "missing"), _row(*["---"] * 6)]  # fmt: skip
    for row in scores:
        interval = f"{row['ci_low']:.3f} to {row['ci_high']:.3f}"
        lines.append(_row(row["task"], row["metric"], f"{row['value']:.3f}", interval, row["n"], row["n_missing"]))
    return "\n".join(lines)


def _certificate_section(run: str, certificate: dict[str, Any]) -> str:
    if not certificate:
        return ""
    equal, facts = certificate["equal"], certificate["backbones"].get(run, {})
    lines = ["## Certificate of the comparison", "", "Held equal for every backbone of the study (sha256, shortened):"]
    lines += [f"- {name}: {_short(equal[name])}" for name in _EQUAL if name in equal]
    lines += [f"- image tokens: {equal['image_tokens']}"] if "image_tokens" in equal else []
    varies = "; ".join(f"{name} ({why})" for name, why in certificate["varies"].items())
    lines += ["", f"Varies: {varies or 'nothing'}. Declared deviations: {certificate['deviations'] or 'none'}. "
              f"Confounds found: {len(certificate['confounds'])}."]  # fmt: skip
    stages = facts.get("stages", {})
    if stages:
        keys = ("optimizer_steps", "examples_seen", "supervised_tokens_seen", "truncated_answers", "dropped_examples")
        lines += ["", _row("this run", *stages), _row(*["---"] * (len(stages) + 1))]
        lines += [_row(key, *(stage[key] for stage in stages.values())) for key in keys]
    return "\n".join(lines)


def _training_section(record: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    recipe = json.dumps(record["study"]["recipe"], indent=1)
    return f"## Training\n\nSoftware: {versions or 'unknown'}. The recipe:\n\n```json\n{recipe}\n```"


def _licence_section(study: dict[str, Any], backbone: str) -> str:
    lines = [
        "## Licences",
        "",
        "What this checkpoint inherits; an unknown one has to be found out before it is shared.",
    ]
    found = find_licences(study, backbone).items()
    return "\n".join([*lines, "", *(f"- {part}: {licence or 'unknown'}" for part, licence in found)])


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    return f"`{str(value)[:16]}`"


def _read_scores(path: Path, run: str) -> list[dict[str, Any]]:
    """Return this run's clean scores that have a value."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == run and row["condition"] == "clean"]
    numbers = ("value", "ci_low", "ci_high")
    read: list[dict[str, Any]] = [{**row, **{name: float(row[name] or "nan") for name in numbers}} for row in rows]
    return [
        {**row, "n": int(row["n"]), "n_missing": int(row["n_missing"] or 0)}
        for row in read
        if all(math.isfinite(row[name]) for name in numbers)
    ]


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty where there is none or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no certificate: the run was trained alone
        return {}
    return content if isinstance(content, dict) else {}
