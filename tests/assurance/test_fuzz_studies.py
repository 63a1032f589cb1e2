"""A study's YAML, and overrides of it, are a study or one message."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml
from fuzzing import fuzz, lawful
from spoiling import among, any_of, as_json, odd_text, odd_value, some, spoilt, spoilt_bytes, written

from vlm_backbones.study import Study, load_study

STAGE = {"steps": 10, "batch_size": 4, "learning_rate": 1e-3, "lora": {"r": 8}, "trainable": ["projector", "llm"]}
STUDY: dict[str, Any] = {
    "name": "fuzzed", "backbones": ["pocket-llama-1", "pocket-llama-2"], "vision_tower": "pocket-vision",
    "recipe": {"name": "own", "align": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
               "finetune": [STAGE, STAGE]},
    "chat_format": {"pocket-llama-1": "shared"}, "seeds": [0, 1], "tasks": ["vqa_scene"], "task_paths": ["."],
    "data": {"finetune": ["a.json"], "stages": {"finetune-2": "b.json"}, "eval": "data",
             "expected": {"align": {"examples": 5, "text_tokens": 7}}},
    "evaluation": {"limit": 3}, "analysis": {"states": True, "layers": "every4", "conditions": ["swap"]},
    "deviations": {"pocket-llama-1": {"recipe.finetune.0.learning_rate": 1e-4, "reason": "why"}},
}  # fmt: skip
SHORT = {"name": "short", "backbones": ["pocket-llama-1"], "vision_tower": "pocket-vision", "recipe": "pocket",
         "tasks": ["vqa_scene"]}  # fmt: skip
BOMBS = [
    b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (c, c, *[c - 1] * 9)
                                             for c in range(ord("b"), ord("j"))),
    b"a: &a [*a]\n", b"a: &a {b: *a}\n", b"- " * 5000, b"[" * 5000, b"{a: " * 5000, b"? " * 5000,
    b"!!python/object/apply:os.system ['touch fuzzed']", b"name: !!python/object/new:os.system ['touch fuzzed']",
    b"name: !function os.system", b"name: ${oc.env:HOME}", b"name: ${name}", b"a: ${b}\nb: ${a}\n",
    b"<<: *x", b"<<: [a]", b"a: 2001-01-01\n", b"a: !!binary x", b"a: !!set {b}", b"1: 2\ntrue: 3\nnull: 4\n",
    b"a: 0o9\nb: 1:30:00\nc: .inf\n", b"%YAML 9.9\n---\na: 1\n", b"a: 1\n---\nb: 2\n",
    b"a: !!int '99999999999999999999'",
    b"a: " + b"9" * 6000,
]  # fmt: skip


def as_yaml(value: Any) -> bytes:
    for dumper in (yaml.CSafeDumper, yaml.SafeDumper):  # the fast one writes no lone surrogate
        try:
            return yaml.dump(value, Dumper=dumper, allow_unicode=True).encode("utf-8", "surrogatepass")
        except (yaml.YAMLError, UnicodeEncodeError):
            continue
    return as_json(value)


texts = any_of(*[written(spoilt([STUDY, SHORT]), as_yaml)] * 4, spoilt_bytes(among(BOMBS)))
keys = any_of(among(["recipe", "recipe.finetune.0.steps", "recipe.finetune", "seeds", "seeds.0", "data.eval", "name",
                     "", ".", "a.b.c", "backbones[0]", "tasks.9", "${name}"]), odd_text)  # fmt: skip
values = any_of(
    among(["5", "pocket", "[1, 2]", "{a: 1}", "${oc.env:HOME}", "&a [*a]", "!!python/name:os.system", "'"]), odd_text
)


def override(chance: Random) -> str:
    return f"{keys(chance)}={values(chance)}" if chance.random() < 0.8 else odd_text(chance)


@fuzz(text=texts, overrides=any_of(lambda _: [], some(override, 0, 2)))
def test_studies(out: Path, text: bytes, overrides: list[str]) -> None:
    file = out / "study.yaml"
    file.write_bytes(text)
    with lawful(out):
        study = load_study(file, overrides)
        assert isinstance(study, Study)
        assert all((out / run.name).resolve().is_relative_to(out) for run in (*study.runs(), *study.trials()))
        for backbone in study.backbones:
            study.recipe_for(backbone)
        written = out / "written.yaml"
        written.write_text(study.model_dump_yaml(), encoding="utf-8")
        assert load_study(written) == study


@fuzz(tower=written(spoilt([{"feature_layer": [-2, -5], "pad_to_square": False}]), as_yaml), config=odd_value)
def test_rows_of_local_towers(out: Path, tower: bytes, config: Any) -> None:
    from vlm_backbones.vision import get_vision_tower

    folder = out / "tower"
    folder.mkdir(exist_ok=True)
    known = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    (folder / "config.json").write_bytes(as_json(known | config if isinstance(config, dict) else known))
    (folder / "vision_tower.yaml").write_bytes(tower)
    with lawful(out):
        assert get_vision_tower(folder).image_tokens >= 0


def test_the_good_inputs_are_good(out: Path) -> None:
    for number, good in enumerate((STUDY, SHORT)):
        (out / f"{number}.yaml").write_bytes(as_yaml(good))
        assert load_study(out / f"{number}.yaml").name == good["name"]
