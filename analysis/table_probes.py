"""Table `probes`: what can be read linearly off each layer, beside the controls that say what that is worth."""

from __future__ import annotations

__all__ = ["probe"]

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import cluster_sums, interval
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.image_draws import draw_images
from vlm_backbones.analysis.probe_task import Column, predict_folds
from vlm_backbones.analysis.states import RANDOM_WEIGHTS, TaskStates
from vlm_backbones.json_text import parse_json

Floats = NDArray[np.float64]
FEWEST_DOCUMENTS = 50
FEWEST_OF_A_CLASS = 5
PERMUTATIONS = 3
_KINDS = ("target", "permuted", "control")


@dataclass(frozen=True)
class _Labels:
    """One target of a task's documents and its controls, all on the same documents."""

    target: str
    keys: tuple[str, ...]
    groups: NDArray[np.int64]
    columns: dict[str, list[Column]]
    """`target`: one; `permuted`: the labels shuffled over images; `control`: one a question type, or none."""
    questions: tuple[str, ...]


def probe(
    samples: pl.DataFrame,
    states: Mapping[tuple[str, str, str], TaskStates],
    *,
    targets: Sequence[str] | None = None,
    seed: int = 0,
    workers: int = -1,
) -> pl.DataFrame:
    """Probe the clean states of every run, layer and kind of token for every target.

    Numbers are predicted by ridge and scored by R^2, classes by multinomial logistic regression and accuracy; both
    out of fold, in nested cross-validation grouped by image (`probe_task.predict_folds`). Beside the score:

    - `permuted`: the same with the labels shuffled over the images, mean of three;
    - `random_weights`: the same on a backbone of random weights, where the run kept its states;
    - `text_only`: the same on the question's bag of words;
    - `selectivity`: the score minus that of a control task, a random but fixed label a question type (Hewitt & Liang
      2019); null where a task has one question type.

    Intervals are percentile bootstraps of the out-of-fold predictions over images (1,000 draws).

    Parameters
    ----------
    targets : names of the samples' `targets` to predict; default: every number, and every text with two classes or
        more of at least five documents each (rarer ones are left out and counted as missing).
    workers : processes; -1 for one a core.
    """
    jobs = []
    for (run, task, condition), found in states.items():
        if condition == "clean":
            labels = list(_labels(samples, run, task, found.doc_keys, targets, seed))
            jobs.append((found, states.get((run, task, RANDOM_WEIGHTS)), labels, seed))
    # small matrices: threads inside the processes would only wait for each other
    with parallel_config("loky", n_jobs=workers, inner_max_num_threads=1):
        tables = Parallel()(delayed(_probe_task)(*job) for job in jobs)
    return build_table("probes", [row for rows in tables for row in rows])


def _labels(
    samples: pl.DataFrame, run: str, task: str, keys: Sequence[str], wanted: Sequence[str] | None, seed: int
) -> Iterator[_Labels]:
    part = samples.filter((pl.col("run") == run) & (pl.col("task") == task) & (pl.col("condition") == "clean")).unique(
        "doc_key", keep="first"
    )
    by_key = {row["doc_key"]: row for row in part.to_dicts()}
    rows = [(key, by_key[key], parse_json(by_key[key]["targets"] or "{}")) for key in keys if key in by_key]
    names = dict.fromkeys(name for _, _, known in rows for name in known)
    for name in names if wanted is None else [name for name in wanted if name in names]:
        kept = [(key, row, known[name]) for key, row, known in rows if known.get(name) is not None]
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for *_, value in kept)
        if not is_number:
            counts = Counter(str(value) for *_, value in kept)
            kept = [row for row in kept if counts[str(row[2])] >= FEWEST_OF_A_CLASS]
        values = [value if is_number else str(value) for *_, value in kept]
        if len(kept) < FEWEST_DOCUMENTS or len(set(values)) < 2:
            continue
        yield _with_controls(name, kept, values, is_number, seed)


def _with_controls(name: str, kept: list[Any], values: list[Any], is_number: bool, seed: int) -> _Labels:
    rng = np.random.default_rng(seed)
    clusters = np.array([str(row["cluster"]) for _, row, _ in kept])
    _, first, groups = np.unique(clusters, return_index=True, return_inverse=True)
    if is_number:
        codes, count = np.array(values, dtype=float), 0
    else:
        known, inverse = np.unique(np.array(values), return_inverse=True)
        codes, count = inverse.astype(float), len(known)
    columns = {"target": [Column(codes, count)], "permuted": [], "control": []}
    for _ in range(PERMUTATIONS):
        columns["permuted"].append(Column(codes[first][rng.permutation(len(first))][groups], count))
    types = np.array([str(row["question_type"]) for _, row, _ in kept])
    if len(set(types)) > 1:
        _, of_type = np.unique(types, return_inverse=True)
        drawn = rng.permutation(np.resize(np.unique(codes), of_type.max() + 1))
        columns["control"] = [Column(drawn[of_type], count)]
    questions = tuple(str(row["question"]) for _, row, _ in kept)
    return _Labels(name, tuple(key for key, *_ in kept), groups.astype(np.int64), columns, questions)


def _probe_task(
    found: TaskStates, random: TaskStates | None, labels: Sequence[_Labels], seed: int
) -> list[dict[str, Any]]:
    """Rows of one run and task."""
    rows = []
    text = {of.target: _text_score(of, seed) for of in labels}
    for token_type in found.token_types:
        for layer in found.layers:
            own = _scores(found, layer, token_type, labels, seed)
            other = _scores(random, layer, token_type, labels, seed, ("target",)) if random else {}
            for of in labels:
                if (of.target, "target") not in own:
                    continue
                value, low, high, n = own[of.target, "target"]
                control = own.get((of.target, "control"))
                place = {"run": found.run, "task": found.task, "layer": layer, "token_type": token_type}
                rows.append(
                    place
                    | {"target": of.target, "score": value, "ci_low": low, "ci_high": high}
                    | {"permuted": own[of.target, "permuted"][0], "text_only": text[of.target]}
                    | {"random_weights": other[of.target, "target"][0] if (of.target, "target") in other else None}
                    | {"selectivity": None if control is None else value - control[0]}
                    | {"n": n, "n_missing": len(found.doc_keys) - n}
                )
    return rows


_Score = tuple[float, float, float, int]


def _scores(
    found: TaskStates,
    layer: int,
    token_type: str,
    labels: Sequence[_Labels],
    seed: int,
    kinds: Sequence[str] = _KINDS,
) -> dict[tuple[str, str], _Score]:
    """(target, kind) -> score, interval and n; labels that share their documents share the folds and components."""
    vectors = found.vectors(layer, token_type)
    at = {key: row for row, key in enumerate(found.doc_keys) if not math.isnan(vectors[row, 0])}
    scores: dict[tuple[str, str], _Score] = {}
    batches: dict[tuple[str, ...], list[_Labels]] = {}
    for of in labels:
        batches.setdefault(of.keys, []).append(of)
    for keys, group in batches.items():
        known = np.array([key in at for key in keys])
        if known.sum() < FEWEST_DOCUMENTS:
            continue
        features = vectors[[at[key] for key in keys if key in at]]
        scores |= _batch(features, known, group, seed, kinds)
    return scores


def _batch(
    features: NDArray[np.float32], known: NDArray[np.bool_], group: Sequence[_Labels], seed: int, kinds: Sequence[str]
) -> dict[tuple[str, str], _Score]:
    named = [
        (of.target, kind, Column(column.values[known], column.classes))
        for of in group for kind in kinds for column in of.columns[kind]
    ]  # fmt: skip
    groups = np.unique(group[0].groups[known], return_inverse=True)[1].astype(np.int64)
    weights, unions = draw_images(groups, seed)
    predictions = predict_folds(features, [column for *_, column in named], groups, seed=seed)
    found: dict[tuple[str, str], list[_Score]] = {}
    for (target, kind, column), predicted in zip(named, predictions, strict=True):
        found.setdefault((target, kind), []).append(_judge(column, predicted, weights, unions))
    return {
        name: scores[0] if len(scores) == 1 else (float(np.mean([value for value, *_ in scores])), *scores[0][1:])
        for name, scores in found.items()
    }


def _judge(column: Column, predicted: Floats, weights: Floats, unions: NDArray[np.int64]) -> _Score:
    """R^2 against the training folds' means, or accuracy; with its interval."""
    said, plain = predicted
    kept = ~np.isnan(said)
    if column.classes:
        parts = np.column_stack([said == column.values, np.ones(len(said))])
    else:
        parts = np.column_stack(
            [(plain - column.values) ** 2 - (said - column.values) ** 2, (plain - column.values) ** 2]
        )
    sums = cluster_sums(np.where(kept[:, None], parts, 0.0).astype(float), unions)
    total = sums.sum(0)
    drawn = weights @ sums
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval(drawn[:, 0] / drawn[:, 1])
        value = float(total[0] / total[1]) if total[1] else math.nan
    return value, low, high, int(kept.sum())


def _text_score(of: _Labels, seed: int) -> float:
    """The same probe on the question's bag of words."""
    from sklearn.feature_extraction.text import CountVectorizer

    try:
        words = CountVectorizer(token_pattern=r"\S+", max_features=2000).fit_transform(of.questions)
    except ValueError:  # questions without a word
        return math.nan
    features = words.toarray().astype(np.float32)
    column = of.columns["target"][0]
    (predicted,) = predict_folds(features, [column], of.groups, seed=seed)
    weights, unions = draw_images(of.groups, seed)
    return _judge(column, predicted, weights, unions)[0]
