"""Write what `make bench` measured into benchmarks/RESULTS.md, between its two marks.

    python benchmarks/write_results.py LINES.jsonl

Each line is a command, a tab, and the last line of its output (JSON).
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- make bench -->\n", "<!-- end -->\n"


def main() -> int:
    """Replace the table; the file is left alone where a line or a mark is missing."""
    rows = [line.split("\t") for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    table = render([(command, json.loads(result)) for command, result in rows])
    before, _, rest = RESULTS.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{RESULTS} has no lines {BEGIN.strip()!r} and {END.strip()!r}: put them back.")
    RESULTS.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return 0


def render(results: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return the day, the machine and a table with a row a command."""
    versions = {name: value for _, result in results for name, value in result["machine"].items()}
    cpu, cores = versions.pop("cpu"), versions.pop("cores")
    versions.pop("threads")
    said = ", ".join(f"{name} {value}" for name, value in versions.items())
    today = datetime.datetime.now(datetime.UTC).date()
    head = "| command | ours | peer | ratio | by the cores' seconds | repeats | load |\n|---|---|---|---|---|---|---|"
    lines = [_row(command, result) for command, result in results]
    return "\n".join([f"{today}, {cpu}, {cores} cores, {said}.", "", head, *lines, ""])


def _row(command: str, result: dict[str, Any]) -> str:
    unit = result["unit"]
    cells = [f"`{command}`", *(f"{_shown(result[side])} {unit}" for side in ("ours", "peer")), result["ratio"]]
    cells += [result.get("ratio_cpu_seconds", ""), result["repeats"], result.get("load_average", "")]
    return f"| {' | '.join(map(str, cells))} |"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
