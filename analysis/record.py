"""Logged samples of lmms-eval -> rows."""

from __future__ import annotations

__all__ = ["HEADLINE", "METRIC", "is_sample", "lower_is_better", "parse_records"]

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from vlm_backbones.analysis._alike_samples import METRIC, AlikeSamples
from vlm_backbones.analysis._cluster_key import Cluster
from vlm_backbones.analysis._sample_scores import lower_is_better
from vlm_backbones.analysis._values import Record

HEADLINE = {
    "vqa_scene": "vqa_accuracy",
    "seismic_description": "fact_score",
    "seismic_coords": "within_100_km",
}


def is_sample(record: Any) -> bool:
    """Whether this is what lmms-eval logs: a document and a response."""
    said = isinstance(record, dict) and ("filtered_resps" in record or "resps" in record)
    return said and record.get("doc_id") is not None


def parse_records(records: Sequence[Record], score_key: str | None, cluster: Cluster | None) -> pl.DataFrame:
    """Parse samples, column by column where they have the same keys.

    Returns
    -------
    polars.DataFrame
        The columns of `SAMPLE_SCHEMA` that these samples have something for; `headline`, the name of what gave the
        score; and each logged metric under `METRIC` + its name, null where a sample lacks it.
    """
    names = list(map(tuple, records))
    if len(set(names)) == 1:
        return pl.DataFrame(AlikeSamples(records).columns(score_key, cluster))
    alike: dict[tuple[str, ...], list[int]] = {}
    for place, own in enumerate(names):
        alike.setdefault(own, []).append(place)
    parts = [
        pl.DataFrame(AlikeSamples([records[place] for place in places]).columns(score_key, cluster))
        for places in alike.values()
    ]
    return pl.concat(parts, how="diagonal")[np.argsort(list(chain.from_iterable(alike.values())))]
