"""A part that the hub refuses is named with its remedy; the hub's answers come from a server of this test."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlm_backbones._backbone_facts import open_tokenizer
from vlm_backbones.errors import CheckpointError

ANSWERS = {  # repository -> status and error code, as huggingface.co gives them
    "meta-llama/Llama-2-7b-hf": (401, "GatedRepo"),
    "huggyllama/llama-7b": (404, "RevisionNotFound"),
    "microsoft/Phi-3-mini-4k-instruct": (404, "RepoNotFound"),
}


class Hub(BaseHTTPRequestHandler):
    """Refuses every file."""

    def do_HEAD(self) -> None:
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
import sys
from vlm_backbones._backbone_facts import open_tokenizer
from vlm_backbones.errors import CheckpointError
for backbone in sys.argv[1:]:
    try:
        open_tokenizer(backbone, "shared")
    except CheckpointError as error:
        print(error)
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


def test_without_a_network_the_folder_is_asked_for(tmp_path: Path) -> None:
    (message,) = opened(["llama-1-7b"], tmp_path, HF_HUB_OFFLINE="1")
    assert "Is there a network? Else download https://huggingface.co/huggyllama/llama-7b elsewhere" in message


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"cannot be opened from .* Is the folder whole\?"):
        open_tokenizer(str(tmp_path), "shared")
