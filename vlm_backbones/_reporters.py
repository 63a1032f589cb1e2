"""The Trainer's reporters that a study names: known to transformers, and installed here."""

from __future__ import annotations

from collections.abc import Iterable

from vlm_backbones.errors import ConfigError, nearest

__all__ = ["check_reporters"]

_CHECKED_AS = {"azure_ml": "azureml", "comet_ml": "comet", "flyte": "flytekit"}


def check_reporters(names: Iterable[str]) -> None:
    """Refuse what the Trainer could not report to.

    Raises
    ------
    ConfigError
        Naming every reporter that transformers does not know or that is not installed.
    """
    names = [name for name in names if name not in {"all", "none"}]  # words of the Trainer's own
    if not names:
        return
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    problems = [f"unknown reporter {name!r}.{nearest(name, known)}" for name in names if name not in known]
    for name in (name for name in names if name in known):
        if not getattr(integration_utils, f"is_{_CHECKED_AS.get(name, name)}_available")():
            problems.append(f"{name} is not installed. Install it, or take it out.")
    if problems:
        raise ConfigError("report_to: " + " ".join(problems))
