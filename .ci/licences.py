"""A CycloneDX bill of materials -> CSV of every package's licence, sorted by name.

python .ci/licences.py build/sbom.cdx.json
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any


def licence_of(component: dict[str, Any]) -> str:
    """Return SPDX ids, expressions or names, as the package states them; "not stated" where it states none."""
    stated = [
        row.get("expression") or row["license"].get("id") or row["license"].get("name", "")
        for row in component.get("licenses", [])
    ]
    # Some packages put the licence's whole text into its name; classifiers name the licence after "::".
    short = [text.strip().splitlines()[0].rpartition(":: ")[2][:80] for text in stated if text.strip()]
    return "; ".join(dict.fromkeys(short)) or "not stated"


def main() -> None:
    """Write the CSV to standard output."""
    components = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["components"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["package", "version", "licence"])
    for component in sorted(components, key=lambda row: row["name"].lower()):
        writer.writerow([component["name"], component.get("version", ""), licence_of(component)])


if __name__ == "__main__":
    main()
