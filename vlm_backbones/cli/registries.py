"""`vlm-backbones backbones` and `vision-towers`: what a study may name."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vlm_backbones._console import print_rows
from vlm_backbones.cli._common import new_group

__all__ = ["group"]

group = new_group()
_MORE = "shown by `vlm-backbones {} ID`, or in a wider terminal"


@group.command()
def backbones(name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Describe one.")] = None) -> None:
    """List the registered LLM backbones, or describe one."""
    from vlm_backbones._names import describe_backbone, describe_backbones

    if name is None:
        print_rows(describe_backbones(), more=_MORE.format("backbones"))
    else:
        _print_yaml(describe_backbone(name))


@group.command("vision-towers")
def vision_towers(name: Annotated[str | None, typer.Argument(metavar="[ID]", help="Describe one.")] = None) -> None:
    """List the registered vision towers, or describe one."""
    from vlm_backbones._names import describe_vision_tower, describe_vision_towers

    if name is None:
        print_rows(describe_vision_towers(), more=_MORE.format("vision-towers"))
    else:
        _print_yaml(describe_vision_tower(name))


def _print_yaml(value: Any) -> None:
    import yaml

    typer.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())
