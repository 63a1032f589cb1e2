"""Parts from the hub: which commit was read, what changes unseen, what is refused; the hub is a server of this test."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlm_backbones._backbone_facts import open_tokenizer
from vlm_backbones.backbones import get_backbone
from vlm_backbones.errors import CheckpointError

ANSWERS = {  # repository -> status and error code, as huggingface.co gives them
    "api/models/meta-llama/Llama-2-13b-hf/": (404, "EntryNotFound"),  # it has no folder of further chat templates
    "meta-llama/Llama-2-7b-hf": (401, "GatedRepo"),
    "huggyllama/llama-7b": (404, "RevisionNotFound"),
    "microsoft/Phi-3-mini-4k-instruct": (404, "RepoNotFound"),
}


COMMIT, OLDER = "5f98eefcc80e437ef68d457ad7bf167c2c6a1348", "2b0c1a7e9d5f4836aa0b7c3d1e9f8a7b6c5d4e3f"


class Hub(BaseHTTPRequestHandler):
    """Has the files of pocket-llama-2 under two commits of one repository, and refuses every other."""

    def do_HEAD(self) -> None:
        """Answer with a file, a list of files, or the repository's error."""
        if re.fullmatch(rf"/api/models/meta-llama/Llama-2-13b-hf/(revision/main|tree/{COMMIT}\\?.*)", self.path):
            names = [path.name for path in sorted(Path(get_backbone("pocket-llama-2").source).iterdir())]
            files = [{"type": "file", "path": name, "oid": "0" * 40, "size": 1} for name in names]
            model = {"id": "x/y", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            content = json.dumps(files if "/tree/" in self.path else model).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        found = re.fullmatch(r"/meta-llama/Llama-2-13b-hf/resolve/([^/]+)/(.+)", self.path)
        if found is None:
            self.refuse()
            return
        commit = {"main": COMMIT, "before": OLDER}.get(found[1], found[1])
        file = Path(get_backbone("pocket-llama-2").source) / found[2]
        content = file.read_bytes() if file.is_file() else b""
        self.send_response(200 if content else 404)
        self.send_header("X-Repo-Commit", commit)
        self.send_header(
            "ETag" if content else "X-Error-Code", hashlib.sha256(content).hexdigest() if content else "EntryNotFound"
        )
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def refuse(self) -> None:
        """Answer with the repository's error."""
        status, code = next((answer for name, answer in ANSWERS.items() if name in self.path), (404, "RepoNotFound"))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"refused: {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


CODE = """
import os, sys, time
import transformers
from vlm_backbones._backbone_facts import open_tokenizer
from vlm_backbones._hub import unpinned
from vlm_backbones.backbones import get_backbone
from vlm_backbones.errors import CheckpointError
waits, sleep = [], time.sleep
time.sleep = lambda seconds: (waits.append(seconds), sleep(seconds))
for backbone in sys.argv[1:]:
    try:
        print(open_tokenizer(backbone, "shared").files, *unpinned([get_backbone(backbone)]))
    except CheckpointError as error:
        print(error)
if "TELL_WAITS" in os.environ:
    print(sum(waits))
"""


def opened(backbones: list[str], cache: Path, **environment: str) -> list[str]:
    variables = {**os.environ, "HF_HOME": str(cache), **environment}
    variables.pop("HF_TOKEN", None)
    command = [sys.executable, "-c", CODE, *backbones]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()


def test_a_gated_a_missing_and_an_unknown_repository_have_their_remedies(hub: str, tmp_path: Path) -> None:
    gated, revision, unknown = opened(["llama-2-7b", "llama-1-7b", "phi-3-mini"], tmp_path, HF_ENDPOINT=hub)
    assert gated.startswith("backbone llama-2-7b: cannot be opened from meta-llama/Llama-2-7b-hf")
    assert "Its licence (LLAMA 2 Community License) has to be accepted: ask for access on https://" in gated
    assert "`hf auth login` or set HF_TOKEN" in gated
    assert "There is no revision 'main'" in revision
    assert "There is no public https://huggingface.co/microsoft/Phi-3-mini-4k-instruct" in unknown


def test_the_commit_that_was_read_is_known_and_an_unpinned_part_is_said_to_change(hub: str, tmp_path: Path) -> None:
    moving, pinned, named = opened(
        ["llama-2-13b", f"llama-2-13b@{OLDER}", "llama-2-13b@before"], tmp_path, HF_ENDPOINT=hub
    )
    assert moving.startswith(f"meta-llama/Llama-2-13b-hf@{COMMIT} ")
    assert moving.endswith(f"is not pinned, now at {COMMIT} and can change: write llama-2-13b@{COMMIT} in its place")
    assert pinned == f"meta-llama/Llama-2-13b-hf@{OLDER}"
    assert named == pinned
    # what was downloaded is read on without the hub, and what was not is refused at once
    again, missing, waited_seconds = opened(
        ["llama-2-13b", "llama-1-7b"], tmp_path, HF_ENDPOINT="http://127.0.0.1:9", TELL_WAITS="1"
    )
    assert again == moving
    assert "Is there a network? Else download https://huggingface.co/huggyllama/llama-7b elsewhere" in missing
    assert float(waited_seconds) < 1  # between its five retries the hub's client waits 23 seconds and more


def test_offline_mode_asks_for_the_folder(tmp_path: Path) -> None:
    (message,) = opened(["llama-1-7b"], tmp_path, HF_HUB_OFFLINE="1")
    assert "Is there a network? Else download https://huggingface.co/huggyllama/llama-7b elsewhere" in message


def test_a_whole_checkpoint_is_read_from_the_hub_by_its_name(hub: str, tmp_path: Path) -> None:
    """`pretrained=OWNER/NAME`: downloaded once, then read without the hub; an unknown one has its remedy."""
    code = (
        "import sys; from vlm_backbones.model_wrappers._engine import checkpoint_dir\n"
        "from vlm_backbones.errors import CheckpointError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(checkpoint_dir(name))\n"
        "    except CheckpointError as error: print(error)"
    )

    def found(endpoint: str) -> list[str]:
        variables = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": endpoint}
        done = subprocess.run(
            [sys.executable, "-c", code, "meta-llama/Llama-2-13b-hf", "some/model"],
            env=variables,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    folder, unknown = found(hub)
    assert Path(folder).name == COMMIT
    original = Path(get_backbone("pocket-llama-2").source)
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == {
        path.name: path.read_bytes() for path in original.iterdir()
    }
    assert "There is no public https://huggingface.co/some/model" in unknown
    again, missing = found("http://127.0.0.1:9")
    assert again == folder
    assert "Is there a network? Else download" in missing


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"cannot be opened from .* Is the folder whole\?"):
        open_tokenizer(str(tmp_path), "shared")
