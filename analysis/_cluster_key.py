"""`--cluster-key`: which samples depend on each other, told by a key of theirs."""

from __future__ import annotations

__all__ = ["Cluster", "parse_cluster_key"]

import re
from dataclasses import dataclass

from vlm_backbones.analysis._values import Record, lookup
from vlm_backbones.errors import ConfigError


@dataclass(frozen=True)
class Cluster:
    """`--cluster-key`: called with a sample, the name of its cluster; None where the sample lacks the key."""

    expression: str
    key: str
    operator: str | None
    number: int

    def __call__(self, record: Record) -> str | None:
        """Raise ConfigError where a number is expected and the sample holds something else."""
        value = lookup(record, self.key)
        if isinstance(value, float) and abs(value) >= 2**64:
            raise ConfigError(
                f"--cluster-key {self.expression!r}: {self.key} is {value!r}, beyond the whole numbers that are read "
                "exactly (below 2^64). Log it as text."
            )
        if value is None or self.operator is None:
            return None if value is None else str(value)
        try:
            whole = int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"--cluster-key {self.expression!r}: {self.key} is {value!r}, no whole number.") from None
        return str(whole % self.number if self.operator == "%" else whole // self.number)


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
    return Cluster(expression, match[1], match[2], int(match[3] or 1))
