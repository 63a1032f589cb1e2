"""The text side of an original checkpoint: tokenizer, chat template, stop tokens; token for token as it was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, LlamaTokenizer, Phi3Config

from vlm_backbones.data.chat_format import get_chat_template
from vlm_backbones.errors import CheckpointError
from vlm_backbones.json_text import parse_json
from vlm_backbones.vlm.original.config import OriginalConfig

__all__ = ["build_chat_template", "build_generation_config", "guess_chat_format", "load_tokenizer"]

_END_OF_TURN = {"llava_llama_3": "<|eot_id|>", "llava_phi_3": "<|end|>"}
_IMAGE = "'<image>' + gap + '\\n'"  # as the templates write it


def load_tokenizer(folder: Path, text_config: Any) -> Any:
    """Return the tokenizer, with a padding token.

    The LLM's configuration stands in for the folder's, which names classes and code of the original project.

    The original code tokenised the text on either side of an image alone, so each side starts with SentencePiece's
    "▁". transformers does the same with `legacy`; without it the word after the image lacks its "▁".
    """
    loader: Any = AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(folder, config=text_config, trust_remote_code=False)
        if isinstance(tokenizer, LlamaTokenizer) and not tokenizer.legacy:
            tokenizer = loader.from_pretrained(folder, config=text_config, trust_remote_code=False, legacy=True)
    except Exception as error:  # a damaged file makes tokenizers and transformers raise nearly anything
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be loaded ({error}). Copy tokenizer.json or tokenizer.model again."
        ) from error
    if not isinstance(longest := tokenizer.model_max_length, int | float):
        raise CheckpointError(
            f"{folder}/tokenizer_config.json: model_max_length is {longest!r:.80}, expected a number. Restore the file."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def guess_chat_format(config: OriginalConfig, text_config: Any, tokenizer: Any) -> str:
    """Return the conversation that the original evaluation used for this kind of checkpoint.

    Llama-2-chat shares everything but its name with Vicuna: there the user has to say `llava_llama_2`.
    """
    if isinstance(text_config, Phi3Config):
        return "llava_phi_3"
    if "<|start_header_id|>" in tokenizer.get_vocab():
        return "llava_llama_3"
    return "llava_v1" if config.is_vip else "vicuna_v1"


def build_chat_template(folder: Path, config: OriginalConfig, chat_format: str, tokenizer: Any) -> str:
    """Return the conversation as a template that gives the ids which the original code gave.

    Raises
    ------
    CheckpointError
        If the configuration asks for tokens around the image that the tokenizer lacks.
    """
    template = get_chat_template(chat_format, tokenizer)
    if config.mm_use_im_start_end:
        for token in ("<im_start>", "<im_end>"):
            if token not in tokenizer.get_vocab():
                raise CheckpointError(f"{folder}: mm_use_im_start_end is set, but the tokenizer has no {token!r}.")
        template = _replaced(template, _IMAGE, "'<im_start><image><im_end>' + gap + '\\n'")
    if chat_format != "llava_llama_3":
        return template
    # The text itself holds the start token. Where the tokenizer adds another, the original kept both; where it does
    # not, the original took the newline after the image for a start token and cut it off.
    if list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]:
        return _replaced(template, "(bos_token or '') + header", "bos_token + bos_token + header")
    return _replaced(template, _IMAGE, "'<image>'")


def _replaced(template: str, old: str, new: str) -> str:
    assert old in template, old
    return template.replace(old, new)


def build_generation_config(folder: Path, chat_format: str, tokenizer: Any) -> Any:
    """Return greedy defaults that stop at the tokenizer's, the checkpoint's and the chat format's end tokens."""
    own: Any = None
    if (folder / "generation_config.json").is_file():
        try:
            own = parse_json((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{folder / 'generation_config.json'} is no JSON object ({error}).") from error
    ends = [end for end in (own if isinstance(own, list) else [own]) if end is not None]
    if not all(isinstance(end, int) and 0 <= end < len(tokenizer) for end in ends):
        raise CheckpointError(
            f"{folder / 'generation_config.json'}: eos_token_id {str(own)[:60]} is no token's number."
        )
    stops = {tokenizer.eos_token_id, *ends} - {None}
    if chat_format in _END_OF_TURN:
        stops.add(tokenizer.convert_tokens_to_ids(_END_OF_TURN[chat_format]))
    build: Any = GenerationConfig
    return build(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
