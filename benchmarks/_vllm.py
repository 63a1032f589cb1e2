"""vLLM as a peer of `eval_long.py`, by its offline interface (docs.vllm.ai, "Multimodal Inputs"); on a GPU only."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _models
from vllm import LLM, SamplingParams

GPU_SHARE = 0.5  # of the card's memory, beside our model on it; far more than a few rows need


class Peer:
    """vLLM's engine over the weights that our side holds; every answer is greedy and as long as its limit."""

    def __init__(self, loaded: _models.Loaded) -> None:
        from vlm_backbones.model_wrappers._prompting import Prompter

        self._engine, self._rows = loaded.engine, loaded.rows["test"]
        self._prompter = Prompter(loaded.engine)
        self._folder = tempfile.TemporaryDirectory()  # as long as the engine: it may read files late
        checkpoint = _models.write(loaded.engine.model, loaded.engine.processor, Path(self._folder.name))
        self._llm = LLM(
            model=str(checkpoint), dtype=str(loaded.engine.model.dtype).removeprefix("torch."),
            max_num_seqs=loaded.engine.room.rows, limit_mm_per_prompt={"image": 1}, enable_prefix_caching=False,
            mm_processor_cache_gb=0, gpu_memory_utilization=GPU_SHARE,
        )  # fmt: skip

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer lmms-eval's requests; prompts and pictures are made anew, as ours are."""
        ids = self._prompter.ids([self._prompter.prompt(request.args[0], 1) for request in requests])
        prompts = [
            {"prompt_token_ids": own, "multi_modal_data": {"image": request.args[2](self._rows[request.args[3]])[0]}}
            for own, request in zip(ids, requests, strict=True)
        ]
        limits = [request.args[1]["max_new_tokens"] for request in requests]
        settings = [
            SamplingParams(temperature=0, max_tokens=limit, ignore_eos=True, detokenize=False) for limit in limits
        ]
        outputs = self._llm.generate(prompts, sampling_params=settings, use_tqdm=False)
        image_tokens = self._engine.model.config.image_seq_length - 1
        for own, limit, output in zip(ids, limits, outputs, strict=True):
            sizes = len(output.prompt_token_ids), len(output.outputs[0].token_ids)
            if sizes != (len(own) + image_tokens, limit):
                raise SystemExit(f"vLLM read and wrote {sizes} tokens, ours {(len(own) + image_tokens, limit)}")
        decode = self._engine.tokenizer.decode
        return [str(decode(output.outputs[0].token_ids, skip_special_tokens=True)) for output in outputs]
