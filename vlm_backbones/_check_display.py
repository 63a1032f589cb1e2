"""How `study check` shows what it found: the certificate's tables, the data's counts, the text that is supervised."""

from __future__ import annotations

__all__ = ["render_check", "render_estimate"]

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlm_backbones._estimate import GPUS, StageEstimate

_STAGE_FACTS = ("optimizer_steps", "examples_seen", "supervised_tokens_seen", "tokens_an_answer")


def render_check(certificate: Mapping[str, Any]) -> None:
    """Print what is equal, the data's counts, each backbone's facts, and what each is taught in three examples."""
    console = wide_console()
    console.print(_pairs("held equal", certificate["equal"], cut=24))
    console.print(_pairs("training data", certificate["data"]))
    console.print(_backbones(certificate["backbones"]))
    for name, stages in certificate["supervised_text"].items():
        for stage, texts in stages.items():
            console.print(f"{escape(name)}, {stage}: supervised is what stands in \u27e6\u27e7", style="bold")
            for text in texts:
                console.print(f"  {escape(text)}", soft_wrap=True, highlight=False)
    varies = "; ".join(f"{key} ({why})" for key, why in certificate["varies"].items())
    console.print(f"varies: {varies or 'nothing'}", soft_wrap=True)
    for warning in certificate["unpinned"]:
        console.print(f"warning: {escape(warning)}", soft_wrap=True, highlight=False)


def render_estimate(estimates: Sequence[StageEstimate], source: str) -> None:
    """Print what each stage will need, and in one line which GPUs hold each backbone.

    Parameters
    ----------
    source
        Where the counts of the data come from.
    """
    console = wide_console()
    reference, count = GPUS[2], 8
    hours = f"hours on {count} x A100"
    columns = ("trained parameters", "tokens an example", "operations", "GB a GPU", f"GB if {count} shared it", hours)
    table = Table("estimate", *columns, box=None)
    for row in estimates:
        shared, time = row.sharded_gb(count), row.hours(reference, count)
        facts = (f"{row.trained_parameters:,}", str(row.tokens), f"{row.operations:.2g}", f"{row.memory_gb:.0f}")
        table.add_row(escape(f"{row.backbone}, {row.stage}"), *facts, f"{shared:.0f}", f"{time:.1f}")
    console.print(table)
    for backbone in dict.fromkeys(row.backbone for row in estimates):
        stages = [row for row in estimates if row.backbone == backbone]
        largest = max(stages, key=lambda row: row.memory_gb)
        total = sum(row.hours(reference, count) for row in stages)
        fitting = [gpu.name for gpu in GPUS if largest.memory_gb <= gpu.memory_gb]
        where = f"fits {' or '.join(fitting)}" if fitting else f"fits none of {', '.join(gpu.name for gpu in GPUS)}"
        console.print(
            f"{escape(backbone)}: {largest.memory_gb:.0f} GB on every GPU ({largest.stage}), {where}; "
            f"about {total:.1f} h on {count} GPUs of an A100's speed, within a third",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        f"Counts of the data: {source}. Training holds the whole model on every GPU (torchrun); what it would take if "
        "the GPUs shared it (FSDP, ZeRO-3) is shown for comparison. Evaluation is not in the hours.",
        soft_wrap=True,
        highlight=False,
    )


def wide_console() -> Console:
    """Return a console that does not fold tables where the output is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=200)


def _pairs(title: str, facts: Mapping[str, Any], cut: int = 120) -> Table:
    table = Table(title, "", box=None)
    for key, value in facts.items():
        for name, fact in value.items() if isinstance(value, Mapping) else [("", value)]:
            shown = (
                ", ".join(f"{part} {count:,}" for part, count in fact.items()) if isinstance(fact, Mapping) else fact
            )
            table.add_row(f"{key} {name}".strip(), escape(str(shown)[:cut]))
    return table


def _backbones(backbones: Mapping[str, Any]) -> Table:
    table = Table("per backbone", *map(escape, backbones), box=None)
    rows = list(backbones.values())
    table.add_row("files", *(escape(row["files"] if "@" in row["files"] else row["files"][:12]) for row in rows))
    table.add_row("context_tokens", *(str(row["context_tokens"]) for row in rows))
    for text in rows[0]["digits"]:
        table.add_row(f"{text} is", *(escape("|".join(row["digits"][text])) for row in rows))
    for stage in rows[0]["stages"]:
        table.add_row(f"{stage}: trained_parameters", *(f"{row['trained_parameters'][stage]:,}" for row in rows))
        for key in _STAGE_FACTS:
            table.add_row(f"{stage}: {key}", *(str(row["stages"][stage][key]) for row in rows))
        table.add_row(f"{stage}: truncated answers", *(str(row["stages"][stage]["truncated_answers"]) for row in rows))
    return table
