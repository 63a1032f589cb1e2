"""How `study check` shows what it found: the certificate's tables, the data's counts, the text that is supervised."""

from __future__ import annotations

__all__ = ["duration_of", "render_check", "render_estimate"]

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape

from vlm_backbones._console import print_rows, wide_console
from vlm_backbones._estimate import GPUS, StageEstimate
from vlm_backbones.run import Run
from vlm_backbones.study import SHARDINGS, Sharding, Training

_HASH = re.compile("[0-9a-f]{64}")
_SUPERVISED = (
    "Supervised is what stands in \u27e6\u27e7. The questions of one image share its first part, so only the first "
    "shows it (with the user's mark); each question is trained as if it was asked alone."
)
_STAGE_FACTS = ("optimizer_steps", "examples_seen", "supervised_tokens_seen", "tokens_an_answer")


def render_check(certificate: Mapping[str, Any]) -> None:
    """Print what is equal, the data's counts, each backbone's facts, and what each is taught in three examples."""
    console = wide_console()
    print_rows(_pairs("held equal", certificate["equal"]))
    print_rows(_pairs("training data", certificate["data"]))
    print_rows(_backbones(certificate["backbones"]))
    console.print(_SUPERVISED, soft_wrap=True, highlight=False)
    for name, stages in certificate["supervised_text"].items():
        for stage, texts in stages.items():
            console.print(f"{escape(name)}, {stage}", style="bold")
            for text in texts:
                console.print(f"  {escape(text)}", soft_wrap=True, highlight=False)
    varies = "; ".join(f"{key} ({why})" for key, why in certificate["varies"].items())
    console.print(f"varies: {varies or 'nothing'}", soft_wrap=True)
    for backbone, changes in certificate["deviations"].items():
        said = ", ".join(f"{key} {value}" for key, value in changes.items() if key != "reason")
        text = f"declared deviation: {Run(backbone).name}, {said} ({changes['reason']})"
        console.print(escape(text), soft_wrap=True, highlight=False)
    for name, facts in certificate["backbones"].items():
        for token, why in facts["untold_tokens"].items():
            console.print(escape(f"note: {name}, token {token!r}: {why}."), soft_wrap=True, highlight=False)
        for note in _notes(facts):
            console.print(escape(f"note: {name}, {note}."), soft_wrap=True, highlight=False)
    for names in _same_llms(certificate["backbones"]):
        text = f"note: {' and '.join(names)} are the same LLM: what will differ between them is no other backbone's."
        console.print(escape(text), soft_wrap=True, highlight=False)
    for warning in certificate["unpinned"]:
        console.print(f"warning: {escape(warning)}", soft_wrap=True, highlight=False)


def render_estimate(estimates: Sequence[StageEstimate], source: str, training: Training) -> None:
    """Print what each stage will need, which GPUs hold each backbone, and what the study's own choice comes to.

    Parameters
    ----------
    source
        Where the counts of the data come from.
    """
    console = wide_console()
    reference, count = GPUS[2], 8
    shared: Sharding = "fsdp2" if training.sharding == "none" else training.sharding
    columns = (
        "trained parameters",
        "tokens an image with all its questions",
        "operations",
        "GB on one GPU",
        f"{shared} on 2",
        "on 4",
        "on 8",
        "on 64",
    )
    names = (*columns, f"time on {count} x A100")
    rows = []
    for row in estimates:
        facts = (f"{row.trained_parameters:,}", str(row.tokens), f"{row.operations:.2g}", f"{row.memory_gb():.0f}")
        sharing = ("-" if row.weights.four_bits else f"{row.memory_gb(shared, each):.0f}" for each in (2, 4, 8, 64))
        cells = (*facts, *sharing, duration_of(row.hours(reference, count)))
        rows.append({"estimate": f"{row.backbone}, {row.stage}", **dict(zip(names, cells, strict=True))})
    print_rows(rows)
    print_rows(_fits(estimates))
    for backbone, stages in _by_backbone(estimates).items():
        largest = max(stages, key=lambda row: row.memory_gb(training.sharding, training.processes))
        needed = largest.memory_gb(training.sharding, training.processes)
        total = sum(row.hours(reference, count) for row in stages)
        fitting = [gpu.name for gpu in GPUS if needed <= gpu.memory_gb]
        where = f"fits {' or '.join(fitting)}" if fitting else f"fits none of {', '.join(gpu.name for gpu in GPUS)}"
        console.print(
            f"{escape(backbone)}: {needed:.0f} GB a GPU ({largest.stage}) with the study's processes="
            f"{training.processes}, sharding={training.sharding}, {where}; about {duration_of(total)} on {count} GPUs "
            "of an A100's speed, within a third",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        f"Counts of the data: {source}. GB of each GPU where so many share the model (docs/scaling.md); choose with "
        "--set training.processes=8 --set training.sharding=fsdp2. Evaluation is not in the time.",
        soft_wrap=True,
        highlight=False,
    )


def duration_of(hours: float) -> str:
    """1.4 h, or below an hour in minutes."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.0f} min" if hours >= 1 / 60 else "under 1 min"


def _fits(estimates: Sequence[StageEstimate]) -> list[dict[str, str]]:
    """Return the fewest GPUs of each kind that hold all stages of a backbone, by what they share."""
    rows = []
    for backbone, stages in _by_backbone(estimates).items():
        cells = {"fits, fewest GPUs": backbone}
        for gpu in GPUS:
            found: list[str] = []
            for sharding in SHARDINGS:
                counts = [row.fewest(gpu, sharding) for row in stages]
                fewest = [count for count in counts if count is not None]
                found += [f"{sharding} {max(fewest)}"] if len(fewest) == len(counts) else []
            cells[gpu.name] = ", ".join(found) or "none"
        rows.append(cells)
    return rows


def _by_backbone(estimates: Sequence[StageEstimate]) -> dict[str, list[StageEstimate]]:
    names = dict.fromkeys(row.backbone for row in estimates)
    return {name: [row for row in estimates if row.backbone == name] for name in names}


def _notes(facts: Mapping[str, Any]) -> Iterator[str]:
    """What of a backbone's own files is not as one would think."""
    if facts["dropout"]:
        shares = ", ".join(f"{key} {share:g}" for key, share in facts["dropout"].items())
        yield f"its configuration's dropout is left out of the training: {shares}"
    if facts["unplaced_weights"]:
        yield f"left out of its weights, having no place in the model: {facts['unplaced_weights']}"
    if not facts["lost_questions"].startswith("0 of"):
        yield f"rows with a question that its tokenizer changes: {facts['lost_questions']}"


def _same_llms(backbones: Mapping[str, Any]) -> list[list[str]]:
    """Return the names under which one LLM stands, where they are several."""
    names: dict[str, list[str]] = {}
    for name, facts in backbones.items():
        names.setdefault(facts["files"], []).append(name)
    return [same for same in names.values() if len(same) > 1]


def _pairs(title: str, facts: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for key, value in facts.items():
        for name, fact in value.items() if isinstance(value, Mapping) else [("", value)]:
            shown = (
                ", ".join(f"{part} {count:,}" for part, count in fact.items()) if isinstance(fact, Mapping) else fact
            )
            rows.append({title: f"{key} {name}".strip(), "": _short(str(shown))})
    return rows


def _joined(facts: Mapping[str, Any]) -> str:
    """Its values by key, long lists of numbers left out."""
    return ", ".join(f"{key} {value}" for key, value in facts.items() if not isinstance(value, list)) or "none"


def _short(fact: str) -> str:
    """A hash by its first letters, any other fact whole."""
    return f"sha256 {fact[:12]}" if _HASH.fullmatch(fact) else fact


def _backbones(backbones: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row a fact, one column a backbone."""
    facts = list(backbones.values())
    cells = {
        "files": [row["files"] if "@" in row["files"] else row["files"][:12] for row in facts],
        "context_tokens": [row["context_tokens"] for row in facts],
        "attention_window": [row["attention_window"] or "all tokens" for row in facts],
        "rotary positions": [_joined(row["rotary_positions"]) for row in facts],
        "answers end at": [" ".join(row["answer_ends"]) for row in facts],
    }
    cells |= {f"{text} is": ["|".join(row["digits"][text]) for row in facts] for text in facts[0]["digits"]}
    for stage in facts[0]["stages"]:
        cells[f"{stage}: trained_parameters"] = [f"{row['trained_parameters'][stage]:,}" for row in facts]
        for key in _STAGE_FACTS:
            cells[f"{stage}: {key}"] = [row["stages"][stage][key] for row in facts]
        cells[f"{stage}: truncated answers"] = [row["stages"][stage]["truncated_answers"] for row in facts]
    names = list(backbones)
    return [{"per backbone": fact, **dict(zip(names, map(str, values), strict=True))} for fact, values in cells.items()]
