"""Share a run's checkpoint on the Hugging Face Hub; without a token, only say what would be sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from vlm_backbones._outputs import missing_outputs
from vlm_backbones._seals import check_seal
from vlm_backbones.cache import atomic_write_text
from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.train.card import model_card, read_json

__all__ = ["push"]


def push(run: Path, repo: str, *, private: bool = True, dry_run: bool = False, tell: Callable[[str], None]) -> None:
    """Upload a run's checkpoint with a fresh card, or a checkpoint folder as it is.

    Parameters
    ----------
    repo
        NAME or OWNER/NAME; made where it does not exist.
    private
        Whether a new repository is private.
    dry_run
        Say what would be sent and send nothing; also where no token is found.
    tell
        Takes one line of text for the user.

    Raises
    ------
    CheckpointError
        If there is no finished checkpoint, or it is not the one that was trained.
    ConfigError
        If the repository's name is malformed, or the Hub refuses.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is no repository name as OWNER/NAME ({error}).") from error
    folder = _checkpoint_of(run)
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for path in files:
        tell(f"{path.stat().st_size:>15,}  {path.name}")
    size = sum(path.stat().st_size for path in files) / 1e9
    what = f"{len(files)} files, {size:.3f} GB, {folder} -> {repo}"
    if dry_run or get_token() is None:
        why = "" if dry_run else " No token was found: run `hf auth login`, or set HF_TOKEN."
        tell(f"dry run, nothing was sent: {what}.{why}")
        return
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=[path.name for path in files])
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(f"{repo}: the Hub refused or cannot be reached ({str(error).splitlines()[0]}).") from error
    tell(f"sent: {what}")


def _checkpoint_of(run: Path) -> Path:
    """Return the checkpoint's folder, with its card written again where it is a run's."""
    folder = run / "checkpoint" if (run / "checkpoint").is_dir() else run
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise CheckpointError(f"no checkpoint in {run}: expected a finished run, or a folder with weights.")
    if folder != run:
        state = read_json(run / "run.json").get("state")
        if state != "finished":
            raise CheckpointError(f"{run} is not finished (state {state!r} in run.json): train it to its end first.")
        if lost := missing_outputs(run / "run.json"):
            raise CheckpointError(
                f"{lost[0]} is gone, or not what the training of {run} wrote: it is damaged, was edited, or is another "
                "run's. Run the study again, which writes it anew; nothing was sent."
            )
    check_seal(folder)
    if folder != run:
        atomic_write_text(folder / "README.md", model_card(run))
    return folder
