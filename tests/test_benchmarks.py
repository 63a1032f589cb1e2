"""What the benchmarks count with: LLaVA's mix of lengths, the peer's tokens, the operations of training."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of benchmarks/, which the scripts there find beside them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_the_mix_has_llavas_shares_and_the_length_that_studies_expect(script: Any) -> None:
    mix = script("_mix")
    assert sum(source.examples for source in mix.SOURCES.values()) == 665_298
    examples = mix.make_examples(2_000, ["a", "b"], seed=1)
    found = Counter(example.turns[0].place.rpartition(",")[0] for example in examples)
    for name, source in mix.SOURCES.items():
        assert found[name] == pytest.approx(2_000 * source.examples / 665_298, abs=1)
    with_image = np.mean([example.image is not None for example in examples])
    assert with_image == pytest.approx(0.939, abs=0.001)  # as data.expected of the shipped studies
    # the format's own words around a turn are about 6 tokens
    sizes = [sum(len(f"{turn.question} {turn.answer}".split()) + 6 for turn in row.turns) for row in examples]
    assert np.mean(sizes) == pytest.approx(200, rel=0.1)
    assert examples == mix.make_examples(2_000, ["a", "b"], seed=1)


def test_trl_trains_on_the_same_tokens(script: Any, tmp_path: Path) -> None:
    finetune, trl = script("_finetune"), script("_trl")
    given = argparse.Namespace(
        shape="pocket", device="cpu", tuning="lora", layers=1, precision=None, steps=3, batch_size=16,
        micro_batch_size=4, threads=1,
    )  # fmt: skip
    setting = finetune.prepare(given, tmp_path)
    assert {example.has_image for example in setting.data.packed.values()} == {True, False}
    trl.refuse_other_tokens(setting)
    index = setting.data.order[0][0]
    packed = setting.data.packed[index]
    other = {**setting.data.packed, index: replace(packed, targets=packed.targets[:-1])}
    with pytest.raises(SystemExit, match="trains on other tokens"):
        trl.refuse_other_tokens(replace(setting, data=replace(setting.data, packed=other)))


def test_random_answers_of_a_large_vocabulary_are_text_that_can_be_compared(script: Any) -> None:
    pytest.importorskip("decord", reason="lmms-eval's llava_hf needs decord, which has no wheel for this machine")
    models, throughput, peak = script("_models"), script("eval_throughput"), script("_peak")
    shape = replace(models.SHAPES["pocket"], vocabulary=20_000)
    model, processor = models.build(shape, torch.device("cpu"), torch.float32)
    assert len(processor.tokenizer) == model.lm_head.out_features == 20_000
    loaded = models.Loaded(models.build_engine(model, processor, torch.device("cpu")), models.make_rows(8, 112))
    ours, peer = models.ours(loaded, 4), models.peer(loaded)
    found = throughput.answers(ours, loaded=loaded, new_tokens=4)
    assert all(text for text, _ in found)
    assert len({text for text, _ in found}) > 1
    assert throughput.different_texts(found, throughput.answers(peer, loaded=loaded, new_tokens=4)) == 0
    one = partial(throughput.answers, ours, loaded=loaded, new_tokens=1, options=False)
    assert peak.prefill(loaded, one, 1)["prefill_tokens_read_per_s"] > 0


def test_bf16_changes_are_counted_with_their_interval(script: Any) -> None:
    def answer(text: str, logprob: float) -> Any:
        return text, {"reasoning_tokens": {"option_logprobs": {"a": logprob, "b": -1.0}}}

    found = [answer("a", -1.0), answer("a", -2.0), answer("b", -3.0)]
    others = [answer("a", -1.25), answer("b", -2.0), answer("b", -3.0)]
    changed = script("eval_bf16").changed(found, others)
    assert (changed["differ"], changed["n"], changed["share"]) == (1, 3, [0.3333, 0.0615, 0.7923])
    assert changed["option_logprob_moves"] == {"median": 0.0, "largest": 0.25}


@pytest.mark.parametrize("is_full", [True, False])
def test_operations_of_training_are_those_that_torch_counts(script: Any, is_full: bool) -> None:
    models, peak = script("_models"), script("_peak")
    model, _ = models.build(models.SHAPES["pocket"], torch.device("cpu"), torch.float32)
    model.model.language_model.requires_grad_(is_full)
    model.lm_head.requires_grad_(is_full)
    states = torch.randn(1, 10, model.config.text_config.hidden_size, requires_grad=True)  # as of a trained projector
    with FlopCounterMode(display=False) as counter:
        model.lm_head(model.model.language_model(inputs_embeds=states).last_hidden_state).sum().backward()
    found = peak.training_operations(model, tokens=10, supervised=10, images=0, is_full=is_full)
    assert found == pytest.approx(counter.get_total_flops(), rel=0.01)  # attention's products, the norms


def test_memory_of_a_command_counts_its_children(script: Any) -> None:
    hold = "held = b'1' * 2**26; import time; time.sleep(0.4)"
    alone = [sys.executable, "-c", hold]
    both = [sys.executable, "-c", f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}"]
    measure = script("_measure")
    (seconds, one), (_, two) = (measure.run_command(command) for command in (alone, both))
    assert 0.0625 < one < 0.125 < two < 0.25
    assert seconds.wall > 0.4 > seconds.cpu
    with pytest.raises(SystemExit, match="failed"):
        measure.run_command([sys.executable, "-c", "raise SystemExit(1)"])
