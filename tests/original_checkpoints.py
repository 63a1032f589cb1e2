"""Tiny checkpoints in the original LLaVA and ViP-LLaVA format, and what the original code makes of them.

Names, keys and files are those of the published checkpoints; the computation is written out from plain parts.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)

SYS_U = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
SYS_H = SYS_U.replace("user", "human")
SYS_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
QUESTION = "What is it?"
VIP_LAYERS = [-2, -5, -8, -11, 6]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SIDE_PX, PATCH_PX, WIDTH = 56, 14, 64
IMAGE_INDEX = -200  # the original's place holder; never embedded

PROMPTS = {
    "vicuna": f"{SYS_U} USER: <image>\n{QUESTION} ASSISTANT:",
    "vip": f"{SYS_H} USER: <image>\n{QUESTION} ASSISTANT:",
    "llama-3": f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{SYS_2}<|eot_id|><|start_header_id|>"
    f"user<|end_header_id|>\n\n<image>\n{QUESTION}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "phi-3": f"<|system|>\n{SYS_2}<|end|>\n<|user|>\n<image>\n{QUESTION}<|end|>\n<|assistant|>\n",
    "linear": f"{SYS_U} USER: <im_start><image><im_end>\n{QUESTION} ASSISTANT:",
}
PROMPTS["llama-3-new"] = PROMPTS["llama-3"]
KINDS = list(PROMPTS)


@dataclass(frozen=True)
class Original:
    """A checkpoint with the parts that it was written from."""

    folder: Path
    tower_folder: Path | None
    prompt: str
    llm: Any
    tower: Any
    projector: dict[str, torch.Tensor]
    layers: list[int]
    encode: Callable[[str], list[int]]
    pads: bool

    def pixels(self, picture: Image.Image) -> torch.Tensor:
        """Return (1, 3, side, side) as the original preprocessing makes them."""
        if self.pads:
            picture = expand2square(picture, tuple(int(255 * value) for value in MEAN))
            picture = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        else:
            scale = SIDE_PX / min(picture.size)
            size = (int(picture.width * scale), int(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.BICUBIC)
            left, top = (size[0] - SIDE_PX) // 2, (size[1] - SIDE_PX) // 2
            picture = picture.crop((left, top, left + SIDE_PX, top + SIDE_PX))
        values = np.asarray(picture, dtype=np.float64) / 255
        values = (values - np.array(MEAN)) / np.array(STD)
        return torch.tensor(values.transpose(2, 0, 1)[None], dtype=torch.float32)

    @torch.inference_mode()
    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (image_tokens, hidden): the chosen layers without the class token, through the projector."""
        states = self.tower(pixels, output_hidden_states=True).hidden_states
        x, part = torch.cat([states[layer][0, 1:] for layer in self.layers], dim=-1), self.projector
        if "clip_layernorm.weight" in part:
            x = functional.layer_norm(x, x.shape[-1:], part["clip_layernorm.weight"], part["clip_layernorm.bias"], 1e-5)
            first, second = "final_linear.0.", "final_linear.2."
        else:
            first, second = "0.", "2."
        if "weight" in part:
            return functional.linear(x, part["weight"], part["bias"])
        x = functional.gelu(functional.linear(x, part[f"{first}weight"], part[f"{first}bias"]))
        return functional.linear(x, part[f"{second}weight"], part[f"{second}bias"])

    def prompt_ids(self) -> list[int]:
        """`tokenizer_image_token`: the pieces are tokenised alone; a start token is kept once and cut from the rest."""
        pieces = [self.encode(piece) for piece in self.prompt.split("<image>")]
        bos = 0 if "begin_of_text" in self.prompt else 1
        offset = 1 if pieces[0][:1] == [bos] else 0
        ids = pieces[0][:offset]
        for index, piece in enumerate(pieces):
            ids += [IMAGE_INDEX] * (index > 0) + piece[offset:]
        return ids

    @torch.inference_mode()
    def logits(self, picture: Image.Image) -> torch.Tensor:
        """Return (tokens, vocabulary) of the whole prompt."""
        features, embed = self.features(self.pixels(picture)), self.llm.get_input_embeddings()
        rows = [features if id_ == IMAGE_INDEX else embed(torch.tensor([id_])) for id_ in self.prompt_ids()]
        return self.llm(inputs_embeds=torch.cat(rows)[None]).logits[0]  # type: ignore[no-any-return]


def expand2square(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """Pad to a square; the picture in the middle."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def build(folder: Path, kind: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Original:
    """Write a checkpoint of one of `KINDS`; `changes` go into its config.json."""
    torch.manual_seed(len(kind))
    vip, own_tower = kind == "vip", kind in ("vicuna", "linear")  # own: the tower lies outside the checkpoint
    folder.mkdir(parents=True)
    encode, rows = _TOKENIZERS[kind](folder)
    llm = _rounded(_build_llm(kind, rows), dtype)
    tower = _rounded(_build_tower(layers=12 if vip else 3), dtype)
    projector = {name: value.to(dtype).float() for name, value in _build_projector(kind).items()}
    state = dict(llm.state_dict())
    state |= {f"model.mm_projector.{name}": value for name, value in projector.items()}
    if own_tower:
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    else:
        weights = tower.state_dict().items()
        state |= {f"model.vision_tower.vision_tower.vision_model.{name}": value for name, value in weights}
    state = {name: value.to(dtype).contiguous() for name, value in state.items()}
    write_weights(folder, state, pickled=kind in ("vicuna", "vip", "linear"))
    tower_folder = None
    if own_tower:
        tower_folder = folder.parent / f"{folder.name}-tower"
        tower.save_pretrained(tower_folder)
        size = {"height": SIDE_PX, "width": SIDE_PX}
        CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=size).save_pretrained(tower_folder)
    (folder / "config.json").write_text(json.dumps(_build_config(kind, llm) | changes))
    layers = VIP_LAYERS if vip else [-2]
    return Original(folder, tower_folder, PROMPTS[kind], llm, tower, projector, layers, encode, kind != "linear")


def _rounded(model: Any, dtype: torch.dtype) -> Any:
    """Round the weights, and them alone: the rotary frequencies are computed, never stored."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    return model.eval()


def write_weights(folder: Path, state: dict[str, torch.Tensor], *, pickled: bool) -> None:
    """Write two shards and their index, as save_pretrained of that time did."""
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    names, places = sorted(state), {}
    for number, half in enumerate((names[::2], names[1::2]), start=1):
        shard = f"{stem}-{number:05}-of-00002.{suffix}"
        content = {name: state[name] for name in half}
        torch.save(content, folder / shard) if pickled else save_file(content, folder / shard)
        places |= dict.fromkeys(half, shard)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def _build_llm(kind: str, rows: int) -> Any:
    common: dict[str, Any] = {
        "vocab_size": rows, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2,
    }  # fmt: skip
    if kind == "phi-3":
        return Phi3ForCausalLM(Phi3Config(**common, num_key_value_heads=4, sliding_window=255, pad_token_id=0))
    if kind.startswith("llama-3"):
        return LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2, rope_theta=500000.0))
    return LlamaForCausalLM(LlamaConfig(**common, rms_norm_eps=1e-6 if kind == "linear" else 1e-5))


def _build_tower(*, layers: int) -> Any:
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=1, image_size=SIDE_PX,
        patch_size=PATCH_PX, initializer_factor=3.0,
    )  # fmt: skip
    return CLIPVisionModel(config)


def _build_projector(kind: str) -> dict[str, torch.Tensor]:
    def layer(name: str, inputs: int) -> dict[str, torch.Tensor]:
        return {f"{name}weight": torch.randn(32, inputs) * inputs**-0.5, f"{name}bias": torch.randn(32) * 0.1}

    if kind == "linear":
        return layer("", WIDTH)
    if kind != "vip":
        return layer("0.", WIDTH) | layer("2.", 32)
    width = WIDTH * len(VIP_LAYERS)
    norm = {"clip_layernorm.weight": 1 + torch.randn(width) * 0.1, "clip_layernorm.bias": torch.randn(width) * 0.1}
    return norm | layer("final_linear.0.", width) | layer("final_linear.2.", 32)


def _build_config(kind: str, llm: Any) -> dict[str, Any]:
    """Return config.json: the LLM's own keys as saved then, with LLaVA's."""
    text = llm.config
    keys = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "max_position_embeddings", "rms_norm_eps", "hidden_act", "initializer_range"]  # fmt: skip
    config = {key: getattr(text, key) for key in keys}
    architecture = "LlavaPhi3ForCausalLM" if kind == "phi-3" else "LlavaLlamaForCausalLM"
    types = {"phi-3": "llava_phi3", "llama-3": "llava_llama", "llama-3-new": "llava_llama"}
    config |= {
        "_name_or_path": "/somewhere/else", "architectures": [architecture], "model_type": types.get(kind, "llava"),
        "vocab_size": text.vocab_size, "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True,
        "rope_theta": 500000.0 if kind.startswith("llama-3") else 10000.0, "rope_scaling": None,
        "transformers_version": "4.31.0", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "mm_vision_tower": "clip_4layers_336" if kind == "vip" else "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": WIDTH * (5 if kind == "vip" else 1), "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "pad", "freeze_mm_mlp_adapter": False,
        "tune_mm_mlp_adapter": False, "use_mm_proj": True, "tokenizer_padding_side": "right",
    }  # fmt: skip
    if kind == "phi-3":
        config |= {
            "sliding_window": 255,
            "pad_token_id": 0,
            "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        }
    if kind == "linear":  # the first release: wrong special ids, no projector type, no aspect ratio
        config |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1, "mm_use_im_start_end": True,
                   "mm_vision_tower": "openai/clip-vit-large-patch14"}  # fmt: skip
        del config["mm_projector_type"], config["image_aspect_ratio"], config["mm_vision_select_feature"]
    return config


def _corpus() -> list[str]:
    return [f"{SYS_U} {SYS_H} {SYS_2} USER: ASSISTANT: system user assistant {QUESTION} A dot. No."] * 8


def _sentencepiece(folder: Path, extra: tuple[str, ...] = ()) -> tuple[Callable[[str], list[int]], int]:
    """Write tokenizer.model alone, as the Vicuna checkpoints have it; more tokens lie in added_tokens.json."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_corpus()), model_writer=model, vocab_size=400, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False, "padding_side": "right"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    added = {token: processor.vocab_size() + index for index, token in enumerate(extra)}
    if extra:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    pattern = "|".join(map(re.escape, extra)) or "$^"

    def encode(text: str) -> list[int]:
        ids = [1]
        for piece in re.split(f"({pattern})", text):
            ids += [added[piece]] if piece in added else processor.encode(piece)
        return ids

    return encode, processor.vocab_size() + len(extra)


def _vicuna(folder: Path) -> tuple[Callable[[str], list[int]], int]:
    return _sentencepiece(folder)


def _first_release(folder: Path) -> tuple[Callable[[str], list[int]], int]:
    return _sentencepiece(folder, ("<im_patch>", "<im_start>", "<im_end>"))


def _llama_3(folder: Path, *, adds_bos: bool = False) -> tuple[Callable[[str], list[int]], int]:
    """Write Llama-3's kind with the `<pad>` that training added beyond the embedding's rows."""
    tokenizer = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    headers = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=headers, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(_corpus(), trainer)
    if adds_bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
        )
    rows = tokenizer.get_vocab_size()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 4], "bos_token_id": 0}))
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: raw.encode(text).ids, rows


def _llama_3_new(folder: Path) -> tuple[Callable[[str], list[int]], int]:
    return _llama_3(folder, adds_bos=True)


def _phi_3(folder: Path) -> tuple[Callable[[str], list[int]], int]:
    """Write Phi-3's kind: SentencePiece's pieces in a tokenizer.json, chat tokens that swallow the space after them."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [" ".join(text.split()[:60]) for text in _corpus()]
    # no words longer than a few letters: merges over spaces would never be met by the real tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    tokenizer.pre_tokenizer = None
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    chat = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"]
    tokenizer.add_special_tokens([AddedToken(token, rstrip=True, normalized=False) for token in chat])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>", pad_token="<unk>"
    )
    fast.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: raw.encode(text).ids, tokenizer.get_vocab_size() + 53  # spare rows, as in the real one


_TOKENIZERS: dict[str, Callable[[Path], tuple[Callable[[str], list[int]], int]]] = {
    "vicuna": _vicuna,
    "vip": _vicuna,
    "llama-3": _llama_3,
    "llama-3-new": _llama_3_new,
    "phi-3": _phi_3,
    "linear": _first_release,
}
