"""Pictures of the hidden states: similarity of layers, probes with their controls, stability under perturbation."""

from __future__ import annotations

__all__ = ["plan_inside"]

from collections.abc import Sequence

import polars as pl

from vlm_backbones.analysis.report.inside_charts import cka_chart, flip_rate_chart, probe_chart, stability_chart
from vlm_backbones.analysis.report.view import Plan, View, sizes

# How the wrapper names what a state belongs to, in reading order.
TOKEN_TYPES = {
    "image_mean": "image tokens",
    "question_mean": "question tokens",
    "last_prompt": "last prompt token",
    "answer_mean": "answer tokens",
}
_MOST_MAPS = 4


def plan_inside(view: View) -> list[Plan]:
    """Pictures by task and token type, and answer flips by task; none where no hidden states were analysed."""
    plans: list[Plan] = []
    for task in view.tasks:
        tables = {name: view.table(name, task=task) for name in ("similarity", "probes", "stability")}
        present = {token for table in tables.values() if table.height for token in table["token_type"]}
        for token in [name for name in TOKEN_TYPES if name in present] + sorted(present - set(TOKEN_TYPES)):
            parts = {name: table.filter(token_type=token) for name, table in tables.items() if table.height}
            plans += _plans_of(view, task, token, parts)
        if tables["stability"].height:
            plans += _flip_plans(view, task, tables["stability"])
    return plans


def _plans_of(view: View, task: str, token: str, parts: dict[str, pl.DataFrame]) -> list[Plan]:
    plans, choice, tail = [], (task, TOKEN_TYPES.get(token, token)), view.too_many(view.drawn)
    if (similarity := _some(parts, "similarity", "cka_debiased")).height:
        runs = _end_runs(view.drawn, set(similarity["run_a"]) | set(similarity["run_b"]))
        about = (
            "Debiased linear CKA of every two layers, within a run on the diagonal panels and across runs beside them: "
            f"1 = the same geometry, 0 = unrelated; {sizes(similarity['n'])}."
        )
        about += f" Shown: {' and '.join(runs)}." if len(runs) < len(view.runs) else ""
        chart = cka_chart(similarity, runs)
        name = f"cka_{task}_{token}"
        plans.append(Plan("inside", name, "Which layers are alike?", about, chart, "similarity", choice))
    if (stability := _some(parts, "stability", "stability")).height:
        about = (
            "How much of a question's own state survives a perturbation: 1 = unmoved, 0 = no nearer than another "
            f"question, with 95 % bands; {sizes(stability['n'])}.{tail}"
        )
        chart = stability_chart(stability, view.drawn, view.colors)
        title = "Which layers stay put?"
        plans.append(Plan("inside", f"stability_{task}_{token}", title, about, chart, "stability", choice))
    if (probes := _some(parts, "probes", "score")).height:
        about = (
            "How well a linear probe reads each property from a layer (accuracy, or R\u00b2 of a number), with 95 % "
            "bands. Grey lines are the controls: only what rises above all of them was made by the model; "
            f"{sizes(probes['n'])}.{tail}"
        )
        chart = probe_chart(probes, view.drawn, view.colors)
        title = "What can be read from the layers?"
        plans.append(Plan("inside", f"probes_{task}_{token}", title, about, chart, "probes", choice))
    return plans


def _flip_plans(view: View, task: str, stability: pl.DataFrame) -> list[Plan]:
    rates = stability.filter(pl.col("run").is_in(view.drawn)).unique(["run", "condition"], maintain_order=True)
    rates = rates.drop_nulls("answer_flip_rate").filter(pl.col("answer_flip_rate").is_not_nan())
    if not rates.height:
        return []
    about = (
        f"Share of the answers that change under each perturbation, with Wilson's 95 % interval; {sizes(rates['n'])}."
        f"{view.too_many(view.drawn)}"
    )
    chart = flip_rate_chart(rates, view.drawn, view.colors)
    return [Plan("inside", f"answer_flips_{task}", "Does the answer flip?", about, chart, "stability", (task, ""))]


def _some(parts: dict[str, pl.DataFrame], name: str, value: str) -> pl.DataFrame:
    table = parts.get(name, pl.DataFrame())
    return table.filter(pl.col(value).is_not_null() & pl.col(value).is_not_nan()) if table.height else table


def _end_runs(drawn: Sequence[str], present: set[str]) -> list[str]:
    """Runs that heat maps show: all up to four, else the first and the last."""
    runs = [run for run in drawn if run in present]
    return runs if len(runs) <= _MOST_MAPS else [runs[0], runs[-1]]
