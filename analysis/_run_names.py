"""What a run is called: its folder's name, and before it as much of the path as tells it from others of that name."""

from __future__ import annotations

__all__ = ["Place", "distinct_names", "name_runs"]

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a log was found: the folder that the user named, and the run's own folder, both resolved."""

    run: str
    path: Path
    folder: Path
    is_run_folder: bool
    """A RUN folder of ours, else the samples' folder, of which a run may have several."""
    holds: tuple[str, str | None]
    """Task and condition."""


def name_runs(places: Sequence[Place], taken: set[str], notes: list[str]) -> list[str]:
    """Return the name of each log's run, none of them in `taken`.

    Folders of one name are one run where the user named one folder above them and they hold different tasks, which
    `notes` says; else each is a run of its own. A folder that is reached by two paths is one run.
    """
    first: dict[Path, Path] = {}
    reached = [first.setdefault(place.folder, place.path) for place in places]
    groups: dict[tuple[str, Path], list[Place]] = {}
    for place, path in zip(places, reached, strict=True):
        groups.setdefault((place.run, path), []).append(place)
    apart = {group for group, members in groups.items() if not _are_one(members)}
    for (run, path), members in groups.items():
        folders = sorted({str(place.folder) for place in members})
        if len(folders) > 1 and (run, path) not in apart:
            notes.append(
                f"{run}: {' and '.join(folders)} hold different tasks and were taken for one model; if they are two, "
                "give each a name: --run NAME=PATH."
            )
    homes = [
        (place.run, place.folder if (place.run, path) in apart else path)
        for place, path in zip(places, reached, strict=True)
    ]
    names = distinct_names(homes, taken)
    return [names[home] for home in homes]


def _are_one(members: Sequence[Place]) -> bool:
    """Whether folders of one name under one path are one run."""
    if len({place.folder for place in members}) == 1:
        return True
    held = {(place.folder, place.holds) for place in members}
    return not any(place.is_run_folder for place in members) and len({holds for _, holds in held}) == len(held)


def distinct_names(runs: Sequence[tuple[str, Path]], taken: set[str] | None = None) -> dict[tuple[str, Path], str]:
    """Return a name for each distinct (run, resolved folder that holds it or is it), none of them in `taken`.

    A run keeps its own name where no other has it; else the last parts of its folder go before, as many as are needed.
    """
    used = set(taken or ())
    names: dict[tuple[str, Path], str] = {}
    count = Counter(run for run, _ in dict.fromkeys(runs))
    names |= {(run, home): run for run, home in runs if count[run] == 1 and run not in used}
    used |= set(names.values())
    for run in dict.fromkeys(run for run, _ in runs):
        homes = [home for name, home in dict.fromkeys(runs) if name == run and (name, home) not in names]
        parts = [(home.parent if home.name == run else home).parts for home in homes]
        for depth in range(1, max(map(len, parts), default=0) + 1):
            longer = ["/".join([*(part.strip("/") for part in own[-depth:]), run]) for own in parts]
            if len({*longer, *used}) == len(longer) + len(used):
                names |= {(run, home): name for home, name in zip(homes, longer, strict=True)}
                used |= set(longer)
                break
        else:
            names |= {(run, home): f"{home}/{run}" for home in homes}
    return names
