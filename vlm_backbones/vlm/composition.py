"""Compose a vision tower, a fresh projector and a backbone into transformers' Llava, or VipLlava for several layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.initialization import no_init_weights

from vlm_backbones._config_facts import dropouts
from vlm_backbones._hub import loading_options, opening_error
from vlm_backbones.backbones import Backbone, get_backbone
from vlm_backbones.data.chat_format import get_chat_template
from vlm_backbones.errors import CheckpointError
from vlm_backbones.trust import tell_of_remote_code
from vlm_backbones.vision import VisionTower, get_vision_tower
from vlm_backbones.vision.preprocessing import build_image_processor
from vlm_backbones.vlm.answer_ends import answer_ends
from vlm_backbones.vlm.start_token import add_no_tokens
from vlm_backbones.vlm.towers import load_vision_tower
from vlm_backbones.vlm.whole_weights import check_loaded

__all__ = ["Vlm", "add_image_token", "build_processor", "build_skeleton", "compose", "load_vision_tower"]

_LARGEST_HEAD_DIFFERENCE = 0.05
"""Relative, between an LLM's logits and its output layer's product: below it lies what bfloat16 rounds."""

Vlm = LlavaForConditionalGeneration | VipLlavaForConditionalGeneration


def compose(
    backbone: str | Path,
    vision_tower: str | Path,
    *,
    chat_format: str = "native",
    image_token: str = "<image>",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    weights: bool = True,
) -> tuple[Vlm, LlavaProcessor]:
    """Return a VLM made of pretrained parts and a fresh projector, with its processor.

    Parameters
    ----------
    backbone, vision_tower
        Registry ids or local folders.
    chat_format
        `native` (the registry row's format, else the tokenizer's own template), `shared` (one text for all
        backbones) or a format's name; kept in the processor.
    dtype
        Type of all weights, float32 by default.
    seed
        Of the projector's start.
    weights
        Whether backbone and projector get their weights; without, these hold anything and take no memory, for a
        process that another one hands its share.

    Raises
    ------
    ConfigError
        If an id or the chat format is unknown.
    CheckpointError
        If a part cannot be loaded, lacks weights, or holds some that are not finite.

    Notes
    -----
    Dropout of the backbone's configuration is set to 0: backbones are trained alike, whatever their makers did.

    A tower row with several feature layers makes a VipLlava: their states side by side, a norm, the projector.
    """
    tower_row, backbone_row = get_vision_tower(vision_tower), get_backbone(backbone)
    dtype = dtype or torch.float32
    tower = load_vision_tower(tower_row, dtype=dtype)
    llm, tokenizer = _load_backbone(backbone_row, dtype, trust_remote_code, weights=weights)
    if weights:
        _check_kind(llm, backbone_row)
    add_image_token(llm, tokenizer, image_token)
    image_token_id = int(tokenizer.convert_tokens_to_ids(image_token))
    model = _assemble(llm, tower, tower_row, image_token_id, seed, weights=weights)
    template = get_chat_template(chat_format, tokenizer, native=backbone_row.chat_format)
    model.generation_config = _build_generation_config(
        tokenizer, answer_ends(backbone_row, tokenizer, llm.config, template)
    )
    return model, build_processor(tower_row, build_image_processor(tower_row), tokenizer, template, image_token)


def build_processor(
    row: VisionTower, image_processor: Any, tokenizer: Any, chat_template: str, image_token: str
) -> LlavaProcessor:
    """Return the processor that turns pictures and chats into a VLM's inputs, with as many image tokens as it needs.

    The template writes the start token; from here on the tokenizer adds none, and pads on the left as generation needs.
    """
    add_no_tokens(tokenizer)
    tokenizer.padding_side = "left"  # files of LLaMA's kind say right, which is for training
    build: Any = LlavaProcessor
    processor: LlavaProcessor = build(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=row.patch_size,
        vision_feature_select_strategy=row.select_strategy,
        chat_template=chat_template,
        image_token=image_token,
        num_additional_image_tokens=row.class_tokens,
    )
    return processor


def _load_backbone(row: Backbone, dtype: torch.dtype, trust_remote_code: bool, *, weights: bool) -> tuple[Any, Any]:
    options: dict[str, Any] = {**loading_options(row), "trust_remote_code": trust_remote_code}
    llm: Any
    if trust_remote_code:
        tell_of_remote_code(row)
    try:
        tokenizer = AutoTokenizer.from_pretrained(row.source, **options)
        config = AutoConfig.from_pretrained(row.source, **options)
        for name in dropouts(config):
            setattr(config, name, 0.0)
        if weights:
            load: Any = AutoModelForCausalLM.from_pretrained
            ask = {"weights_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
            llm, report = load(row.source, config=config, dtype=dtype, **ask, **options)
        else:
            with no_init_weights():  # memory that nobody writes to is not taken
                llm = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
            llm.tie_weights()
    except Exception as error:  # a damaged file makes tokenizers and transformers raise nearly anything
        raise opening_error("backbone", row, error) from error
    if weights and (unplaced := check_loaded(row, llm, report)):
        print(f"{row.id}: left out of its weights, having no place in the model: {unplaced}")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return llm, tokenizer


def _check_kind(llm: Any, row: Backbone) -> None:
    """Refuse an LLM that is built in another way, or whose logits are more than a product of its last states.

    Llava has no place for more. Gemma 2's cap is left out: it keeps the order of tokens, and training goes without it.
    """
    inner, head = getattr(llm, llm.base_model_prefix), llm.get_output_embeddings()
    if not (hasattr(inner, "embed_tokens") and hasattr(inner, "layers")):
        raise CheckpointError(
            f"backbone {row.id}: a {llm.config.model_type} keeps its embeddings or layers under other names than "
            "`embed_tokens` and `layers`, by which they are found here. Choose another backbone."
        )
    if cap := getattr(llm.config, "final_logit_softcapping", None):
        print(f"{row.id}: its cap of logits at {cap:g} is left out, Llava has no place for it")
        return
    with torch.inference_mode():
        said = llm(input_ids=torch.tensor([[0, 1]], device=llm.device), output_hidden_states=True)
        product = torch.nn.functional.linear(said.hidden_states[-1], head.weight)
    difference = float((said.logits - product).abs().max() / product.abs().max())
    if getattr(head, "bias", None) is not None or not difference < _LARGEST_HEAD_DIFFERENCE:
        raise CheckpointError(
            f"backbone {row.id}: its logits are not the product of its last states with {tuple(head.weight.shape)} "
            "weights (a bias or a scale comes after it), and Llava has no place for more. Choose another backbone."
        )


def add_image_token(llm: Any, tokenizer: Any, image_token: str) -> None:
    """Add the image token where it is missing; embedding rows made for it start at the mean of the others."""
    if image_token not in tokenizer.get_vocab():
        tokenizer.add_tokens([image_token], special_tokens=True)
    rows = llm.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= rows:
        return
    llm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            layer.weight[rows:] = layer.weight[:rows].float().mean(0).to(layer.weight.dtype)


def _assemble(
    llm: Any, tower: PreTrainedModel, row: VisionTower, image_token_id: int, seed: int, *, weights: bool
) -> Vlm:
    model: Any = build_skeleton(llm.config, tower.config, row, image_token_id)
    model.model.vision_tower = tower
    model.model.language_model = getattr(llm, llm.base_model_prefix)
    model.lm_head = llm.get_output_embeddings()
    model.config.text_config = llm.config
    projector = model.model.multi_modal_projector.to_empty(device=llm.device).to(llm.dtype)
    if weights:
        _start_projector(projector, _word_size(llm.get_input_embeddings()), seed)
    model.tie_weights()
    composed: Vlm = model.eval()
    return composed


def build_skeleton(text_config: Any, vision_config: Any, row: VisionTower, image_token_id: int, **options: Any) -> Vlm:
    """Return a VLM without storage: its parts exist already, so a large model is not held twice.

    Parameters
    ----------
    row
        Says which layers the projector reads, and so whether this is a Llava or a VipLlava.
    options
        Further keys of the configuration.
    """
    common = {
        "vision_config": vision_config,
        "text_config": text_config,
        "image_token_index": image_token_id,
        "image_seq_length": row.image_tokens,
        "tie_word_embeddings": bool(text_config.tie_word_embeddings),
        **options,
    }
    build_config: Any = VipLlavaConfig if row.is_multi_layer else LlavaConfig
    with torch.device("meta"):
        if row.is_multi_layer:
            config = build_config(vision_feature_layer=list(row.feature_layers), **common)
            return VipLlavaForConditionalGeneration(config)
        strategy = row.select_strategy
        config = build_config(vision_feature_layer=row.feature_layer, vision_feature_select_strategy=strategy, **common)
        return LlavaForConditionalGeneration(config)


def _word_size(embeddings: Any) -> float:
    """Return the standard deviation of what stands for a word in front of the layers; Gemma scales its rows up."""
    some = torch.arange(min(64, len(embeddings.weight)), device=embeddings.weight.device)
    with torch.no_grad():
        scale = float(embeddings(some).float().norm() / embeddings.weight[some].float().norm())
    return float(embeddings.weight.detach().float().std()) * scale


def _start_projector(projector: Any, word_size: float, seed: int) -> None:
    """Draw the projector so that, on standardised features, its outputs are about as large as word embeddings.

    The second layer is scaled by (word_size / 0.3): GELU of unit-variance inputs through `fan_in**-0.5`
    weights comes out near 0.6, and outputs a little larger than words trained fastest in the pocket study.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = word_size / 0.3
    with torch.no_grad():
        for layer, factor in ((projector.linear_1, 1.0), (projector.linear_2, scale)):
            weight = torch.randn(layer.weight.shape, generator=generator) * layer.weight.shape[1] ** -0.5 * factor
            layer.weight.copy_(weight)
            if layer.bias is not None:
                layer.bias.zero_()
        if hasattr(projector, "projector_layernorm"):
            projector.projector_layernorm.reset_parameters()


def _build_generation_config(tokenizer: Any, stops: list[int]) -> Any:
    """Return greedy defaults that end an answer at `stops`."""
    build: Any = GenerationConfig
    return build(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops[0] if len(stops) == 1 else stops,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
