"""Model cards and sharing: the Hub's own parser reads the metadata, licences are inherited, nothing leaves untold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from vlm_backbones._seals import write_seal
from vlm_backbones.control import check_study
from vlm_backbones.errors import CheckpointError, ConfigError
from vlm_backbones.study import load_study
from vlm_backbones.train import finetune
from vlm_backbones.train.card import model_card, refresh_cards
from vlm_backbones.train.licences import find_licences, inherited_licence
from vlm_backbones.train.push import push
from vlm_backbones.vlm import checkpoint_fingerprint

SCORES = """run,backbone,seed,task,condition,metric,value,ci_low,ci_high,n,n_missing,value_missing_wrong,note
backbone,b,0,vqa_scene,clean,exact_match,0.625,0.5,0.75,48,2,0.6,
backbone,b,0,vqa_scene,swap,exact_match,0.1,0.0,0.2,48,0,0.1,
backbone,b,0,seismic_coords,clean,within_100_km,,,,0,12,,no sample has this score
other,b,0,vqa_scene,clean,exact_match,0.9,0.8,1.0,48,0,0.9,
"""


@pytest.fixture(scope="module")
def run_dir(tiny_parts: ModuleType, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with a certificate, one trained run and no scores yet."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(yaml.safe_dump(tiny_parts.study_text(parts, steps=2)))
    out = folder / "out"
    check_study(load_study(folder / "study.yaml"), out)
    arguments = ["--study", str(folder / "study.yaml"), "--backbone", str(parts / "backbone"), "--out", str(out)]
    assert finetune.main([*arguments, "--threads", "1"]) == 0
    return out / "backbone"


def test_the_card_is_read_by_the_hubs_parser_and_holds_the_certificate(run_dir: Path) -> None:
    card = ModelCard.load(run_dir / "checkpoint" / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.eval_results is None
    assert "license" not in card.data.to_dict()  # a local backbone's is unknown, and so nothing is claimed
    certificate = json.loads((run_dir.parent / "certificate.json").read_text())
    assert certificate["equal"]["recipe"][:16] in card.text
    steps = certificate["backbones"]["backbone"]["stages"]["finetune"]["optimizer_steps"]
    assert f"| optimizer_steps | {steps} | {steps} |" in card.text
    assert "Confounds found: 0." in card.text
    assert "## Intended use" in card.text
    assert "## Scores" not in card.text


def test_scores_come_with_their_intervals_once_there_are_some(run_dir: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(run_dir.parent, tmp_path / "out"))
    checkpoint = out / run_dir.name / "checkpoint"
    before = checkpoint_fingerprint(checkpoint)
    (out / "tables").mkdir()
    (out / "tables" / "scores.csv").write_text(SCORES)
    refresh_cards(out)
    card = ModelCard.load(checkpoint / "README.md")
    (result,) = card.data.eval_results  # clean, of this run, with a value
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("vqa_scene", "exact_match", 0.625)
    assert result.metric_args == {"ci_low": 0.5, "ci_high": 0.75, "n": 48}
    assert "| vqa_scene | exact_match | 0.625 | 0.500 to 0.750 | 48 | 2 |" in card.text
    assert card.data.model_name == "backbone"
    assert checkpoint_fingerprint(checkpoint) == before  # a card is a remark


def study_of(**changes: Any) -> dict[str, Any]:
    return {"vision_tower": "siglip-so400m-384", "data": {"align": None, "finetune": []}, **changes}


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("smollm2-135m", {"license": "apache-2.0"}),
        ("phi-3-mini", {"license": "apache-2.0"}),  # MIT's and Apache's duties together
        ("vicuna-1.5-7b", {"license": "llama2"}),
        ("llama-3-8b-instruct", {"license": "llama3"}),
        ("llama-1-7b", {"license": "other", "license_name": "llama-non-commercial", "license_link": "README.md"}),
    ],
)
def test_the_licence_is_the_one_that_binds(backbone: str, expected: dict[str, str]) -> None:
    assert inherited_licence(find_licences(study_of(), backbone)) == expected


def test_the_datas_licence_is_read_where_it_is_stated(tmp_path: Path) -> None:
    for task, licence in (("vqa_scene", "CC BY-NC 4.0"), ("seismic_coords", "CC BY-NC 4.0")):
        (tmp_path / "data" / task / "train").mkdir(parents=True)
        (tmp_path / "data" / task / "train" / "dataset_info.json").write_text(json.dumps({"license": licence}))
    last = {"finetune-2": [tmp_path / "last.json"]}
    study = study_of(data={"align": tmp_path / "mix.json", "finetune": [tmp_path / "data"], "stages": last})
    licences = find_licences(study, "vicuna-1.5-7b")
    assert licences["data data"] == "CC BY-NC 4.0"  # no folder of this machine
    assert licences["data mix.json"] is licences["data last.json"] is None
    found = inherited_licence(licences)
    assert (found["license"], found["license_name"]) == ("other", "cc-by-nc-4-0-llama2")


def test_no_permission_is_claimed_while_a_part_is_unknown(tmp_path: Path) -> None:
    study = study_of(data={"finetune": [tmp_path / "mix.json"]})
    assert inherited_licence(find_licences(study, "phi-3-mini")) == {}


def test_real_parts_are_the_cards_base_models(run_dir: Path, tmp_path: Path) -> None:
    record = json.loads((run_dir / "run.json").read_text())
    record |= {"backbone": "llama-3-8b-instruct"}
    record["study"] |= {"vision_tower": "clip-vit-l-336"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    data = ModelCard(model_card(tmp_path / "run")).data
    assert data.base_model == ["meta-llama/Meta-Llama-3-8B-Instruct", "openai/clip-vit-large-patch14-336"]
    assert data.license == "llama3"


def test_without_a_token_the_files_are_listed_and_nothing_is_sent(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    lines: list[str] = []
    push(run_dir, "someone/tiny", tell=lines.append)
    listed = {line.split()[-1] for line in lines[:-1]}
    assert listed == {path.name for path in (run_dir / "checkpoint").iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "chat_template.jinja", "tokenizer.json"} <= listed
    assert lines[-1].startswith("dry run, nothing was sent")
    assert "hf auth login" in lines[-1]


def test_with_a_token_the_checkpoints_files_are_sent(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub cannot be reached here: what huggingface_hub is asked to do is recorded."""
    asked: list[tuple[str, Any]] = []
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **named: asked.append((repo, named)))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **named: asked.append(("upload", named)))
    lines: list[str] = []
    push(run_dir, "someone/tiny", dry_run=True, tell=lines.append)
    assert asked == []
    push(run_dir, "someone/tiny", tell=lines.append)
    assert asked[0] == ("someone/tiny", {"private": True, "exist_ok": True})
    assert asked[1][1]["folder_path"] == run_dir / "checkpoint"
    assert "model.safetensors" in asked[1][1]["allow_patterns"]
    assert lines[-1].startswith("sent: ")


def test_what_cannot_be_shared_is_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no repository name as OWNER/NAME"):
        push(run_dir, "a/b/c", tell=print)
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        push(tmp_path, "a/b", tell=print)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint").symlink_to(run_dir / "checkpoint")
    with pytest.raises(CheckpointError, match="is not finished"):
        push(tmp_path / "run", "a/b", tell=print)


def test_a_checkpoint_that_is_not_the_one_that_was_trained_is_not_sent(run_dir: Path, tmp_path: Path) -> None:
    def send(run: Path) -> None:
        push(run, "a/b", dry_run=True, tell=pytest.fail)

    run = Path(shutil.copytree(run_dir, tmp_path / "run"))
    template = run / "checkpoint" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    for folder in (run, run / "checkpoint"):
        with pytest.raises(CheckpointError, match=r"chat_template\.jinja is not the file that was written after"):
            send(folder)
    write_seal(run / "checkpoint")  # whole in itself, as another run's checkpoint is
    with pytest.raises(CheckpointError, match=r"checkpoint/seal\.json is gone, or not what the training of"):
        send(run)
    record = run_dir / "run.json"
    (run / "run.json").write_text(record.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(CheckpointError, match=r"run\.json is gone, or not what"):
        send(run)


def test_the_checkpoint_opens_with_a_pipeline(run_dir: Path) -> None:
    folder = run_dir / "checkpoint"
    picture = Image.effect_noise((112, 112), 90).convert("RGB")
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What colour is the star?"}]
    messages = [{"role": "user", "content": content}]
    ask = pipeline("image-text-to-text", model=str(folder), device="cpu")
    (answer,) = ask(text=messages, max_new_tokens=5, return_full_text=False)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    assert answer["generated_text"] == processor.decode(ids, skip_special_tokens=True)


def test_cards_load_no_torch() -> None:
    code = "import sys, vlm_backbones.train.card, vlm_backbones.train.push; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
