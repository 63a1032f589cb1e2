"""Logged samples with the same keys -> columns: answer, options, score, confidence."""

from __future__ import annotations

__all__ = ["METRIC", "AlikeSamples"]

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from vlm_backbones.analysis._aggregates import is_yes_no, shown_name, total_names, yes_no_value
from vlm_backbones.analysis._cluster_key import Cluster
from vlm_backbones.analysis._option_column import OptionColumn
from vlm_backbones.analysis._responses import (
    answer_confidence,
    read_responses,
    with_letters,
    wrapper_extras,
    wrapper_options,
)
from vlm_backbones.analysis._sample_scores import keys_of, score_at, score_of
from vlm_backbones.analysis._values import Record, Values, float_series, kinds, metric_numbers, text, text_series

Columns = dict[str, pl.Series]

# Before the name of a logged metric, among the columns.
METRIC = "metric "
_TYPE_KEYS = ("question_type", "category")


class AlikeSamples:
    """Samples that have the same keys."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._keys = tuple(records[0])
        values = zip(*(record.values() for record in records), strict=True)
        self._logged: dict[str, Values] = dict(zip(self._keys, values, strict=True))
        self._extras = list(map(wrapper_extras, self._logged.get("token_counts", ())))
        self._ours = [own if isinstance(own, dict) else {} for own in self._column("backbones")]
        said = self._column("filtered_resps" if "filtered_resps" in self._logged else "resps")
        self._answers, self._options = read_responses(said)
        self._answers, self._options = with_letters(self._answers, self._options, self._column("target"))
        scored = [wrapper_options(extra) for extra in self._extras] if any(self._extras) else []
        if any(scored):
            self._options = OptionColumn.of([own or self._options.at(row) for row, own in enumerate(scored)])
        self._parsed: Values = [answer.strip() or None for answer in self._answers]
        if any(self._ours):
            both = zip(self._ours, self._parsed, strict=True)
            self._parsed = [own.get("parsed") if own else answer for own, answer in both]

    def _column(self, name: str) -> Values:
        return self._logged.get(name) or [None] * len(self._records)

    def columns(self, score_key: str | None, cluster: Cluster | None) -> Columns:
        """All columns of these samples."""
        out = {
            "doc_id": text_series(self._column("doc_id")),
            "question": text_series(self._column("input")),
            "target": text_series(self._column("target")),
            "answer": text_series(self._answers),
            "parsed": text_series(self._parsed),
        }
        scores = {name: metric_numbers(self._logged[name]) for name in keys_of(self._keys).metrics}
        metrics = {name: self._added(name, values) for name, values in scores.items()}
        out |= (
            self._images_of_totals(scores)
            | self._scores(scores, score_key)
            | self._confidences()
            | self._from_wrapper()
            | self._question_types()
        )
        if cluster is not None:
            out["cluster"] = text_series([cluster(record) for record in self._records])
        kept = {name: values for name, values in metrics.items() if any(self._ours) or values.count(None) < len(values)}
        return out | {METRIC + name: self._with_empty(name, values) for name, values in kept.items()}

    def _added(self, name: str, scores: list[float | None]) -> list[float | None]:
        """What each sample adds to a metric: its score, but where lmms-eval makes the metric of all answers."""
        if not is_yes_no(name) or dict not in kinds(self._logged[name]):
            return scores
        return [yes_no_value(name, value) for value in self._logged[name]]

    def _with_empty(self, name: str, values: list[float | None]) -> pl.Series:
        """A metric that is there and null is asked for and has no value: NaN, as tasks log it that know no null."""
        logged = self._logged[name]
        if None in logged:
            values = [math.nan if own is None else value for own, value in zip(logged, values, strict=True)]
        return pl.Series(values, dtype=pl.Float64)

    def _images_of_totals(self, names: Iterable[str]) -> Columns:
        """MME asks two questions an image, which only the metric names."""
        for name in total_names(names):
            if dict in kinds(self._logged[name]):
                images = [v.get("question_id") if isinstance(v, dict) else None for v in self._logged[name]]
                return {"cluster": text_series(images)}
        return {}

    def _scores(self, metrics: Mapping[str, Sequence[float | None]], score_key: str | None) -> Columns:
        names, headline = keys_of(self._keys).scores, score_key
        scores: Sequence[float | None]
        if score_key is not None:
            scores = [score_at(record, score_key) for record in self._records]
        elif names and not any(self._ours) and None not in metrics[names[0]]:
            scores, headline = metrics[names[0]], shown_name(names[0])
        else:
            judged = [name for name in metrics if name not in names and dict in kinds(self._logged[name])]
            return self._scores_one_by_one({name: metrics[name] for name in (*names, *judged)})
        # NaN: the metric exists and says nothing about this sample.
        return {
            "score": float_series(scores),
            "headline": text_series([headline]).new_from_index(0, len(scores)),
        }

    def _scores_one_by_one(self, candidates: Mapping[str, Sequence[float | None]]) -> Columns:
        found = [
            score_of(
                record,
                self._ours[row],
                {name: values[row] for name, values in candidates.items()},
                self._answers[row],
                self._options.at(row),
            )
            for row, record in enumerate(self._records)
        ]
        return {
            "score": pl.Series([score for score, _ in found], dtype=pl.Float64),
            "headline": pl.Series([name for _, name in found], dtype=pl.String),
        }

    def _confidences(self) -> Columns:
        out: Columns = {}
        has_options = pl.Series(self._options.counts > 0)
        if any(self._extras):
            alone, per_token = zip(*map(answer_confidence, self._extras), strict=True)
            out["sequence_confidence"] = out["confidence"] = pl.Series(alone, dtype=pl.Float64)
            out["per_token_confidence"] = pl.Series(per_token, dtype=pl.Float64)
        if has_options.any():
            among = float_series(self._options.confidence(self._parsed))
            out["confidence"] = among.zip_with(has_options, out["confidence"]) if "confidence" in out else among
            out["option_logprobs"] = self._options.series()
        if out:
            kind = np.where(has_options, "option", "sequence")
            out["confidence_kind"] = pl.Series(kind, dtype=pl.String).set(out["confidence"].is_null(), None)
        return out

    def _from_wrapper(self) -> Columns:
        out = {}
        if any(self._extras):
            for name in ("condition", "doc_key", "image_key"):
                out[name] = text_series([extra.get(name) for extra in self._extras])
            out["cluster"] = text_series([extra.get("cluster") or extra.get("image_key") for extra in self._extras])
        if any(self._ours):
            for name in ("frame", "targets"):
                out[name] = text_series([own.get(name) for own in self._ours])
        return out

    def _question_types(self) -> Columns:
        """The first text under `question_type` or `category`, in our own record, in the sample, in its mappings."""
        own_types: Values = [text(own.get("question_type") or None) for own in self._ours]
        places = [own_types] if any(self._ours) else []
        places += [self._logged[name] for name in _TYPE_KEYS if name in self._logged]
        for values in self._logged.values():
            if dict in kinds(values):
                places += [[v.get(name) if isinstance(v, dict) else None for v in values] for name in _TYPE_KEYS]
        if not places:
            return {}
        found = [next((v for v in row if isinstance(v, str)), None) for row in zip(*places, strict=True)]
        return {"question_type": text_series(found)}
