"""`vlm-backbones compose`, `convert` and `push`: checkpoints made of parts, of other formats, and shared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm_backbones.cache import check_writable
from vlm_backbones.cli._common import new_group
from vlm_backbones.errors import ConfigError, nearest

__all__ = ["group"]

group = new_group()


@group.command()
def compose(
    backbone: Annotated[str, typer.Argument(help="Registry id or folder.")],
    vision_tower: Annotated[str, typer.Argument(help="Registry id or folder.")],
    out: Annotated[Path, typer.Argument(help="The new checkpoint's folder.")],
    chat_format: Annotated[str, typer.Option("--chat-format", help="native, shared or a format's name.")] = "native",
) -> None:
    """Put a VLM together from parts, its projector untrained, and save it in transformers' format."""
    from vlm_backbones._names import known_chat_formats

    formats = ["native", *(name for name in known_chat_formats() if name != "plain")]
    if chat_format not in formats:
        raise ConfigError(f"--chat-format: unknown chat format {chat_format!r}.{nearest(chat_format, formats)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no empty folder. Choose a new one.")
    check_writable(out)
    from vlm_backbones.backbones import get_backbone
    from vlm_backbones.vision import get_vision_tower

    get_backbone(backbone), get_vision_tower(vision_tower)  # an unknown id is told before torch loads
    from vlm_backbones import vlm

    model, processor = vlm.compose(backbone, vision_tower, chat_format=chat_format)
    vlm.save(model, processor, out)
    typer.echo(out)


@group.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A folder in the original LLaVA or ViP-LLaVA format.")],
    out: Annotated[Path, typer.Argument(help="The new checkpoint's folder.")],
    vision_tower: Annotated[
        Path | None, typer.Option("--vision-tower", metavar="DIR", help="The tower that the checkpoint names.")
    ] = None,
    model_base: Annotated[
        Path | None, typer.Option("--model-base", metavar="DIR", help="The LLM that a LoRA adapter belongs to.")
    ] = None,
    chat_format: Annotated[
        str | None, typer.Option("--chat-format", help="Default: by kind; say llava_llama_2 for Llama-2-chat.")
    ] = None,
) -> None:
    """Turn an original LLaVA or ViP-LLaVA checkpoint into transformers' format, with its prompt and preprocessing."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no empty folder. Choose a new one.")
    check_writable(out)
    if not checkpoint.is_dir():
        raise ConfigError(f"no folder {checkpoint}: download the original checkpoint, then name its folder.")
    if not (checkpoint / "config.json").is_file():  # told before torch loads
        raise ConfigError(f"no config.json in {checkpoint}: give a checkpoint in the original LLaVA format.")
    from vlm_backbones import vlm

    vlm.convert(checkpoint, out, vision_tower=vision_tower, model_base=model_base, chat_format=chat_format)
    typer.echo(out)


@group.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run, or a checkpoint's folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hugging Face Hub.")],
    public: Annotated[bool, typer.Option("--public", help="A new repository is private otherwise.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files; nothing is sent.")] = False,
) -> None:
    """Share a checkpoint with its model card on the Hugging Face Hub; without a token, list what would be sent."""
    if not run.is_dir():
        raise ConfigError(f"no folder {run}: give a run of a study or a checkpoint.")
    from vlm_backbones.train.push import push as send

    send(run, repo, private=not public, dry_run=dry_run, tell=typer.echo)
