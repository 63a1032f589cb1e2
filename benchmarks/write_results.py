"""Write what `make bench` measured into benchmarks/RESULTS.md, between the marks for a quiet or for a busy machine.

    python benchmarks/write_results.py LINES.jsonl

Each line is a command, a tab, and the last line of its output (JSON). A machine is busy where, in the median, more
wanted to run than there are cores.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")
END = "<!-- end -->\n"


def main() -> int:
    """Replace the table; the file is left alone where a line or a mark is missing."""
    lines = [line.split("\t") for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    results = [(command, json.loads(result)) for command, result in lines]
    begin = f"<!-- make bench, {'busy' if is_busy(results) else 'quiet'} -->\n"
    before, _, rest = RESULTS.read_text(encoding="utf-8").partition(begin)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{RESULTS} has no lines {begin.strip()!r} and {END.strip()!r}: put them back.")
    RESULTS.write_text(f"{before}{begin}\n{render(results)}\n{END}{after}", encoding="utf-8")
    return 0


def is_busy(results: Sequence[tuple[str, dict[str, Any]]]) -> bool:
    """Whether other work shared the cores."""
    machines = [result["machine"] for _, result in results]
    alone = machines[0]["cores"] + 0.25  # a benchmark keeps all cores itself
    return statistics.median(row["load_average"] for row in machines) > alone


def render(results: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return the day, the machine and a table with a row a command."""
    versions = {name: value for _, result in results for name, value in result["machine"].items()}
    cpu, cores = versions.pop("cpu"), versions.pop("cores")
    for name in ("threads", "load_average"):
        versions.pop(name)
    said = ", ".join(f"{name} {value}" for name, value in versions.items())
    today = datetime.datetime.now(datetime.UTC).date()
    head = "| command | ours | peer | ratio | by the cores' seconds | repeats | load |\n|---|---|---|---|---|---|---|"
    lines = [_row(command, result) for command, result in results]
    return "\n".join([f"{today}, {cpu}, {cores} cores, {said}.", "", head, *lines, ""])


def _row(command: str, result: dict[str, Any]) -> str:
    unit = result["unit"]
    cells = [f"`{command}`", *(f"{_shown(result[side])} {unit}" for side in ("ours", "peer")), result["ratio"]]
    cells[2] += f" ({result['against']})"
    cells += [result.get("ratio_cpu_seconds", ""), result["repeats"], result["machine"]["load_average"]]
    return f"| {' | '.join(map(str, cells))} |"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
