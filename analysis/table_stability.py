"""Table `stability`: how much of a state survives another encoding, some noise, a shift, another wording."""

from __future__ import annotations

__all__ = ["flip_rate", "stability", "stability_draws"]

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vlm_backbones.analysis.bootstrap import interval
from vlm_backbones.analysis.cka import CONSTANT
from vlm_backbones.analysis.columns import build_table
from vlm_backbones.analysis.image_draws import draw_images
from vlm_backbones.analysis.states import RANDOM_WEIGHTS, TaskStates

Floats = NDArray[np.float64]


def stability_draws(
    clean: NDArray[np.float32], perturbed: NDArray[np.float32], weights: Floats | None = None
) -> tuple[float, Floats]:
    """Stability of a representation, and its value on each draw of documents.

    (mean cosine of the clean and the perturbed state of one question - mean cosine of a clean and a perturbed state
    of different questions) / (1 - the latter), after both are centred on the clean mean: 1 where nothing moves, 0
    where a perturbed state is no nearer to its own clean one than to another question's.

    Parameters
    ----------
    clean, perturbed : (documents, hidden), row for row the same question.
    weights : (draws, documents), how often each draw takes each document.

    Returns
    -------
    The value, NaN for fewer than two documents or where the clean states do not vary, and (draws,).
    """
    centre = clean.mean(0)
    if ((clean - centre).astype(np.float64) ** 2).sum() <= CONSTANT * (clean.astype(np.float64) ** 2).sum():
        return math.nan, np.full(0 if weights is None else len(weights), math.nan)
    cosine = _unit(clean - centre) @ _unit(perturbed - centre).T  # (documents, documents)
    everyone = np.ones((1, len(clean)))
    draws = everyone if weights is None else np.concatenate([everyone, weights])
    own = draws @ np.diag(cosine)
    # A draw that takes a question twice does not make it two different questions.
    off = cosine - np.diag(np.diag(cosine))
    pairs = draws.sum(1) ** 2 - (draws**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        different = np.einsum("dn,dn->d", draws @ off, draws) / pairs
        values = (own / draws.sum(1) - different) / (1 - different)
    return float(values[0]), values[1:]


def _unit(x: NDArray[np.float32]) -> Floats:
    wide = x.astype(np.float64)
    size = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, size, out=np.zeros_like(wide), where=size > 0))


def stability(
    samples: pl.DataFrame, states: Mapping[tuple[str, str, str], TaskStates], *, seed: int = 0
) -> pl.DataFrame:
    """Compare each run's perturbed states with its clean ones, by layer, kind of token and condition.

    Intervals are percentile bootstraps over images (1,000 draws). `answer_flip_rate` is the share of these documents
    whose parsed answer is another one than the clean one.
    """
    rows: list[dict[str, Any]] = []
    for (run, task, condition), perturbed in states.items():
        clean = states.get((run, task, "clean"))
        if clean is None or condition in ("clean", RANDOM_WEIGHTS):
            continue
        clusters = clusters_of(samples, run, task)
        place: dict[str, Any] = {"run": run, "task": task, "condition": condition}
        place["answer_flip_rate"] = flip_rate(samples, run, task, condition, perturbed.doc_keys)
        for token_type in clean.token_types:
            for layer in clean.layers:
                before, after, keys = shared_states(clean, perturbed, layer, token_type)
                counts = {"n": len(keys), "n_missing": len(clean.doc_keys) - len(keys)}
                if len(keys) < 2:
                    continue
                value, drawn = stability_draws(before, after, document_weights(clusters, keys, seed))
                low, high = interval(drawn)
                where = {"layer": layer, "token_type": token_type, "stability": value, "ci_low": low, "ci_high": high}
                rows.append(place | where | counts)
    return build_table("stability", rows)


def clusters_of(samples: pl.DataFrame, run: str, task: str) -> dict[str, str]:
    """Return doc_key -> cluster of a run's clean samples."""
    part = samples.filter((pl.col("run") == run) & (pl.col("task") == task) & (pl.col("condition") == "clean"))
    return dict(zip(part["doc_key"], part["cluster"], strict=True))


def document_weights(clusters: Mapping[str, str], keys: list[str], seed: int) -> Floats:
    """(draws, documents): bootstrap weights over the documents' images; the same for the same documents."""
    _, images = np.unique(np.array([clusters.get(key, key) for key in keys]), return_inverse=True)
    weights, image = draw_images(images, seed)
    return np.asarray(weights[:, image], dtype=np.float64)


def shared_states(
    clean: TaskStates, perturbed: TaskStates, layer: int, token_type: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """Clean and perturbed states of the documents that have both, sorted by key, and the keys."""
    before, after = clean.vectors(layer, token_type), perturbed.vectors(layer, token_type)
    at, other = ({key: i for i, key in enumerate(found.doc_keys)} for found in (clean, perturbed))
    known = {
        key for key in at if key in other and not (math.isnan(before[at[key], 0]) or math.isnan(after[other[key], 0]))
    }
    keys = sorted(known)
    return before[[at[key] for key in keys]], after[[other[key] for key in keys]], keys


def flip_rate(samples: pl.DataFrame, run: str, task: str, condition: str, doc_keys: list[str]) -> float:
    """Share of the documents whose parsed answer under a condition differs from the clean one."""
    of_run = samples.filter(
        (pl.col("run") == run) & (pl.col("task") == task) & pl.col("doc_key").is_in(doc_keys)
    ).select("doc_key", "condition", pl.col("parsed").fill_null(""))
    clean, other = (of_run.filter(pl.col("condition") == name) for name in ("clean", condition))
    both = clean.join(other, on="doc_key", how="inner")
    return float((both["parsed"] != both["parsed_right"]).mean()) if both.height else math.nan  # type: ignore[arg-type]
