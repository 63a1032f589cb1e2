"""`--cluster-key`: which samples depend on each other, told by a key of theirs."""

from __future__ import annotations

__all__ = ["Cluster", "parse_cluster_key"]

import re
from collections.abc import Callable

from vlm_backbones.analysis._values import Record, lookup
from vlm_backbones.errors import ConfigError

Cluster = Callable[[Record], str | None]


def parse_cluster_key(expression: str) -> Cluster:
    """Build the function behind `--cluster-key`: a key of the sample, or key%N, or key//N.

    Examples
    --------
    >>> parse_cluster_key("question_id%1000000")({"question_id": 3000241})
    '241'
    """
    match = re.fullmatch(r"\s*([A-Za-z_][\w.]*)\s*(?:(%|//)\s*(\d+))?\s*", expression)
    if match is None or match[3] == "0":
        raise ConfigError(
            f"--cluster-key {expression!r} is not KEY, KEY%NUMBER or KEY//NUMBER, as question_id%1000000."
        )
    key, operator, number = match[1], match[2], int(match[3] or 1)

    def cluster(record: Record) -> str | None:
        value = lookup(record, key)
        if isinstance(value, float) and abs(value) >= 2**64:
            raise ConfigError(
                f"--cluster-key {expression!r}: {key} is {value!r}, beyond the whole numbers that are read exactly "
                "(below 2^64). Log it as text."
            )
        if value is None or operator is None:
            return None if value is None else str(value)
        try:
            whole = int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"--cluster-key {expression!r}: {key} is {value!r}, not a whole number.") from None
        return str(whole % number if operator == "%" else whole // number)

    return cluster
