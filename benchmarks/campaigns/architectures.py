"""Tiny `transformers` architectures, built from their configurations: nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from tests.models import Recipe
from tests.models.precision import Precision
from tests.models.recipe import Batch, generator

VOCABULARY: Final = 96
NUM_TOKENS: Final = 16
NUM_CLASSES: Final = 3
SIDE: Final = 32

_TEXT: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SEQ2SEQ: Final = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_T5: Final = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_PICTURE: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
    "num_labels": NUM_CLASSES,
}
_SPEECH: Final = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "num_feat_extract_layers": 2,
    "pad_token_id": 0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One architecture.

    Parameters
    ----------
    name
        Its ``model_type`` in transformers.
    head
        Name of the ``AutoModelFor...`` class that builds it.
    config
        Fields of its configuration.
    inputs
        ``inputs(seed, step)`` returns named tensors, as the model's ``forward`` takes them.
    precisions
        Those in which the architecture itself runs on a CPU.
    """

    name: str
    head: str
    config: dict[str, Any] = field(default_factory=dict)
    inputs: Callable[[int, int], dict[str, Tensor]]
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "bf16_autocast")


def _tokens(seed: int, step: int) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (2, NUM_TOKENS), generator=generator(seed, step))
    return {"input_ids": ids, "labels": ids.clone()}


def _pictures(seed: int, step: int) -> dict[str, Tensor]:
    random = generator(seed, step)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=random)
    return {"pixel_values": pixels, "labels": torch.randint(NUM_CLASSES, (2,), generator=random)}


def _segmented(seed: int, step: int) -> dict[str, Tensor]:
    random = generator(seed, step)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=random)
    return {"pixel_values": pixels, "labels": torch.randint(NUM_CLASSES, (2, SIDE, SIDE), generator=random)}


def _captioned(seed: int, step: int) -> dict[str, Tensor]:
    random = generator(seed, step)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=random)
    return {"input_ids": _tokens(seed, step)["input_ids"], "pixel_values": pixels}


def _waveform(seed: int, step: int) -> dict[str, Tensor]:
    random = generator(seed, step)
    wave = torch.randn(2, 640, generator=random)
    return {"input_values": wave, "labels": torch.randint(3, VOCABULARY, (2, 6), generator=random)}


def _spectrum(seed: int, step: int) -> dict[str, Tensor]:
    random = generator(seed, step)
    bands = torch.randn(2, 16, 40, generator=random)
    return {"input_features": bands, "labels": torch.randint(3, VOCABULARY, (2, NUM_TOKENS), generator=random)}


def _causal(name: str, **config: Any) -> Architecture:
    return Architecture(name=name, head="CausalLM", config=_TEXT | config, inputs=_tokens)


def _masked(name: str, **config: Any) -> Architecture:
    return Architecture(name=name, head="MaskedLM", config=_TEXT | config, inputs=_tokens)


def _translation(name: str, base: dict[str, Any] = _SEQ2SEQ, **config: Any) -> Architecture:
    return Architecture(name=name, head="Seq2SeqLM", config=base | config, inputs=_tokens)


def _picture(name: str, base: dict[str, Any] = _PICTURE, **config: Any) -> Architecture:
    return Architecture(name=name, head="ImageClassification", config=base | config, inputs=_pictures)


_STAGES: Final = {"image_size": SIDE, "num_labels": NUM_CLASSES}
_TOWER: Final = {key: _PICTURE[key] for key in _PICTURE if key != "num_labels"}
_EXPERTS: Final = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

_CAUSAL: Final = """
    gpt2 llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi phi3 bloom gpt_neox stablelm olmo olmo2 mamba
    starcoder2 cohere cohere2 granite nemotron persimmon mpt biogpt glm glm4 smollm3 helium exaone4 ernie4_5
    bitnet diffllama openai-gpt falcon_mamba rwkv
"""
_MASKED: Final = """
    bert roberta albert electra deberta-v2 mpnet xlm camembert ibert nystromformer roformer rembert modernbert
    megatron-bert yoso ernie esm data2vec-text
"""

ARCHITECTURES: Final[tuple[Architecture, ...]] = (
    *(_causal(name) for name in _CAUSAL.split()),
    _causal("qwen3_moe", **_EXPERTS),
    _causal("qwen2_moe", **_EXPERTS, shared_expert_intermediate_size=32),
    _causal("mixtral", num_local_experts=4),
    _causal("olmoe", num_experts=4, num_experts_per_tok=2),
    _causal("granitemoe", num_local_experts=4),
    _causal("gpt_oss", num_local_experts=4),
    _causal("opt", ffn_dim=64, word_embed_proj_dim=32),
    _causal("gptj", rotary_dim=4),
    _causal("codegen", rotary_dim=4),
    _causal("gpt_neo", num_layers=2, attention_types=[[["global", "local"], 1]], window_size=8),
    _causal("xglm", ffn_dim=64),
    _causal("ctrl", dff=64),
    Architecture(
        name="falcon",
        head="CausalLM",
        config={key: value for key, value in _TEXT.items() if key != "head_dim"},
        inputs=_tokens,
    ),
    _causal(
        "deepseek_v3",
        **_EXPERTS,
        num_key_value_heads=4,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        n_shared_experts=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    _causal("mamba2", num_heads=8, head_dim=8, expand=2, state_size=16, n_groups=1, chunk_size=8, use_conv_bias=True),
    *(_masked(name) for name in _MASKED.split()),
    # Its mask is filled with the least float32, which no autocast dtype holds; FFTs know no bfloat16.
    Architecture(name="deberta", head="MaskedLM", config=_TEXT, inputs=_tokens, precisions=("fp32", "bf16")),
    Architecture(name="fnet", head="MaskedLM", config=_TEXT, inputs=_tokens, precisions=("fp32", "bf16_autocast")),
    _masked("distilbert", hidden_dim=64),
    _masked("convbert", embedding_size=32),
    _masked("layoutlm", max_2d_position_embeddings=64),
    _masked("longformer", attention_window=8),
    _masked("big_bird", attention_type="original_full"),
    Architecture(
        name="funnel",
        head="MaskedLM",
        config={
            "vocab_size": VOCABULARY,
            "block_sizes": [1, 1],
            "d_model": 32,
            "n_head": 4,
            "d_head": 8,
            "d_inner": 64,
        },
        inputs=_tokens,
    ),
    _masked(
        "squeezebert", embedding_size=32, q_groups=2, k_groups=2, v_groups=2, intermediate_groups=2, output_groups=2
    ),
    _masked(
        "reformer",
        attention_head_size=8,
        axial_pos_shape=(4, 4),
        axial_pos_embds_dim=(16, 16),
        attn_layers=["local", "lsh"],
        local_attn_chunk_length=8,
        lsh_attn_chunk_length=8,
        num_buckets=2,
        feed_forward_size=64,
        is_decoder=False,
        hash_seed=0,
    ),
    *(_translation(name) for name in ("bart", "mbart", "pegasus", "marian", "blenderbot", "m2m_100", "plbart")),
    *(_translation(name, _T5) for name in ("t5", "mt5", "switch_transformers")),
    _translation("bigbird_pegasus", attention_type="original_full"),
    _translation("led", attention_window=8, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64),
    *(_picture(name) for name in ("vit", "beit", "dinov2", "vit_msn", "data2vec-vision")),
    _picture("swin", _STAGES, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=2, patch_size=4),
    _picture("swinv2", _STAGES, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=2, patch_size=4),
    _picture("convnext", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4),
    _picture("convnextv2", hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4),
    _picture("resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    _picture("regnet", _STAGES, layer_type="x", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4),
    _picture(
        "poolformer",
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_encoder_blocks=2,
        patch_sizes=[7, 3],
        strides=[4, 2],
        padding=[2, 1],
    ),
    _picture("pvt", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2]),
    _picture("mobilevit", hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32], patch_size=2),
    Architecture(
        name="segformer",
        head="SemanticSegmentation",
        config={
            "num_labels": NUM_CLASSES,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "decoder_hidden_size": 16,
        },
        inputs=_segmented,
    ),
    *(
        Architecture(
            name=name,
            head="Model",
            config={
                "text_config": _TEXT | {"projection_dim": 16},
                "vision_config": _TOWER | {"projection_dim": 16},
                "projection_dim": 16,
            },
            inputs=_captioned,
        )
        for name in ("clip", "siglip")
    ),
    *(
        Architecture(name=name, head="CTC", config=_SPEECH, inputs=_waveform)
        for name in ("wav2vec2", "hubert", "wavlm")
    ),
    Architecture(
        name="whisper",
        head="SpeechSeq2Seq",
        config=_SEQ2SEQ
        | {
            "num_mel_bins": 16,
            "max_source_positions": 20,
            "max_target_positions": 32,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        inputs=_spectrum,
    ),
)


def _automatic_class(head: str) -> Any:
    import transformers

    return getattr(transformers, "AutoModel" if head == "Model" else f"AutoModelFor{head}")


def build_architecture(architecture: Architecture, seed: int = 0) -> Recipe:
    """Return model, batch function and loss function; the global random state is set to ``seed``."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(architecture.name, **architecture.config)
    model: nn.Module = _automatic_class(architecture.head).from_config(config, dtype=torch.float32).train()
    names = tuple(architecture.inputs(seed, 0))

    def batch(step: int) -> Batch:
        return tuple(architecture.inputs(seed, step).values())

    def loss(model: nn.Module, tensors: Batch) -> Tensor:
        inputs = dict(zip(names, tensors, strict=True))
        if architecture.head == "Model":
            inputs["return_loss"] = True  # type: ignore[assignment]
        result: Tensor = model(**inputs).loss
        return result

    return Recipe(model, batch, loss)
