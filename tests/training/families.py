"""Tiny random models of decoder-only text families, and the whole road with one of them: what `docs/models.md` tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ftkit.common.profiles import read_profiles
from ftkit.data.prompt import prompt_ids
from ftkit.data.task import load_task
from ftkit.evaluation.answer import BASE, TUNED, Answerer
from ftkit.evaluation.stream import Drafts, Streamer
from ftkit.models.adapter import load_adapter
from ftkit.models.families import share_in_4_bits, unfit_layers
from ftkit.models.four_bit import dequantize, linear_4bit_layers, weight_bytes
from ftkit.models.load import load_model
from ftkit.training.loss import completion_loss
from ftkit.training.plan import plan_training
from ftkit.training.proof import prove_loss
from ftkit.training.trainer import lora_config

VOCABULARY = 704
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.1,  # logits that differ: a scale or a cap that is left out shows
}
EXPERTS = {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
MLA = {
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "num_key_value_heads": 4,
}
HYBRID = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16}
MAMBA = {"state_size": 8, "conv_kernel": 4, "expand": 2}
# model type -> settings besides COMMON
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "mixtral": {**LOCAL_EXPERTS},
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 48},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "qwen3_next": {
        **EXPERTS,
        "head_dim": 16,
        "shared_expert_intermediate_size": 48,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "gemma": {"head_dim": 16},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 8,
        "final_logit_softcapping": 2.0,
        "attn_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "vaultgemma": {"head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16},
    "phi": {},
    "phi3": {},
    "phimoe": {**LOCAL_EXPERTS},
    "granite": {
        "logits_scaling": 8.0,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.0625,
        "residual_multiplier": 0.22,
    },
    "granitemoe": {**LOCAL_EXPERTS, "logits_scaling": 4.0},
    "granitemoehybrid": {
        **LOCAL_EXPERTS,
        **HYBRID,
        "logits_scaling": 4.0,
        "shared_intermediate_size": 48,
        "layer_types": ["mamba", "attention"],
    },
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 8},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "stablelm": {},
    "gpt2": {},
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "intermediate_size": 96,
    },
    "gptj": {"rotary_dim": 8},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_bigcode": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "bloom": {},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 2048},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "codegen": {"n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 8, "n_inner": 96, "n_positions": 2048},
    "xglm": {"d_model": 64, "attention_heads": 4, "num_layers": 2, "ffn_dim": 96},
    "biogpt": {},
    "starcoder2": {"sliding_window": 8},
    "smollm3": {},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "glm4_moe": {
        "head_dim": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "exaone4": {"sliding_window": 8, "sliding_window_pattern": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "nemotron": {},
    "gpt_oss": {**LOCAL_EXPERTS, "head_dim": 16, "sliding_window": 8},
    "deepseek_v2": {**MLA},
    "deepseek_v3": {**MLA},
    "mamba": MAMBA,
    "mamba2": {**MAMBA, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": MAMBA,
    "jamba": {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
        "use_mamba_kernels": False,
    },
    "bamba": {**HYBRID, "attn_layer_indices": [1]},
    "falcon_h1": {**HYBRID, "mamba_d_ssm": 128, "lm_head_multiplier": 0.25},
    "recurrent_gemma": {
        "lru_width": 64,
        "attention_window_size": 16,
        "block_types": ["recurrent", "attention"],
        "logits_soft_cap": 2.0,
    },
    "persimmon": {},
    "helium": {"head_dim": 16},
    "ernie4_5": {"head_dim": 16},
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 48,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
    "seed_oss": {"head_dim": 16},
    "apertus": {},
    "arcee": {},
    "hunyuan_v1_dense": {"head_dim": 16},
    "diffllama": {},
    "bitnet": {},
    "nanochat": {"final_logit_softcapping": 2.0},
    "minimax": {**LOCAL_EXPERTS, "layer_types": ["linear_attention", "full_attention"]},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 2048,
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
    },
    "rwkv": {"attention_hidden_size": 64, "context_length": 64},
    "xlstm": {"num_heads": 4, "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "output_logit_soft_cap": 2.0, "chunk_size": 8},
}

# families that cannot go the road: the error, and why
CANNOT = {
    "rwkv": (
        KeyError,
        "no training: it rescales its weights before it answers, which fails with an adapter on 4-bit weights",
    ),
    "xlstm": (RuntimeError, "no training: transformers' own forward fails in 16 bits, and its generation in 32"),
}


def tiny_model(family: str, **more: Any) -> PreTrainedModel:
    """A random model of a family in float32, the same each time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES[family], **more})
    return AutoModelForCausalLM.from_config(config)


def batch(left: bool = False) -> dict[str, torch.Tensor]:
    """Three rows, the second of them padded; the loss falls on each row's last tokens."""
    ids = torch.randint(3, 300, (3, 24), generator=torch.Generator().manual_seed(1))
    mask, labels = torch.ones_like(ids), ids.clone()
    labels[:, :12] = labels[2, :15] = -100
    ids[1, 19:] = mask[1, 19:] = 0
    labels[1, 19:] = -100
    if left:
        for tensor in (ids, mask, labels):
            tensor[1] = tensor[1].roll(5)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@dataclass(frozen=True)
class Road:
    """How far a family came: shares, numbers of layers, and gaps of logits as shares of the largest."""

    family: str
    model: str
    attention: str
    loss: str
    packed: int  # layers in 4 bits
    share: float  # of the weights in 4 bits, embeddings left out
    planned: float  # weights in memory: planned over measured
    adapted: int  # layers with an adapter
    unfit: int  # linear layers without one
    learned: bool  # every adapter has a gradient, and a step lowers the loss
    reloaded: float
    merged: float
    by_names: bool  # base and tuned are told apart by row
    cached: bool  # streamed with a cache
    streamed: bool  # the same text as in a batch


def take_road(family: str, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Road:
    """Load, adapt, train for a step, save, load again, merge, generate: with the kit's functions, in float32."""
    tiny_model(family).save_pretrained(folder / "base")
    name, profile = str(folder / "base"), read_profiles()["ci"].with_changes(rank=4, dtype="float32", learning_rate=1e-2)
    base = load_model(name, "float32")
    planned = plan_training(profile.with_changes(model=name), [24]).parts["weights"] * 1e6 / weight_bytes(base)
    share, packed, unfit = share_in_4_bits(base), len(linear_4bit_layers(base)), unfit_layers(base)
    torch.manual_seed(2)
    model = get_peft_model(base, lora_config(profile, unfit), autocast_adapter_dtype=False)
    with torch.no_grad():
        proof = prove_loss(base.eval(), batch(), {"completion": completion_loss})
    learned = _learn(model, profile.learning_rate)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    want = _logits(model)
    again = load_adapter(load_model(name, "float32"), folder / "adapter")
    reloaded = _gap(_logits(again), want)
    tuned = load_adapter(dequantize(load_model(name, "float32")), folder / "adapter").eval()
    answerer = Answerer(load_task("desk"), tuned, tokenizer, max_new_tokens=4)
    batched, alone = _answers(answerer)
    tuned.merge_and_unload(safe_merge=True).save_pretrained(folder / "merged")
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    return Road(
        family=family,
        model=type(base).__name__,
        attention=base.config._attn_implementation,
        loss=proof.way,
        packed=packed,
        share=share,
        planned=planned,
        adapted=sum(hasattr(module, "lora_A") for module in model.modules()),
        unfit=len(unfit),
        learned=learned,
        reloaded=reloaded,
        merged=_gap(_logits(merged), want),
        by_names=bool(answerer._by_names),
        cached=alone[1],
        streamed=batched == alone[0],
    )


def _learn(model: PeftModel, rate: float) -> bool:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=rate)
    losses = []
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        torch.manual_seed(5)  # the same dropout
        loss = completion_loss(model.get_base_model(), batch())
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    model.eval()
    return losses[1] < losses[0] and all(p.grad is not None for _, p in trained)


def _logits(model: Any) -> torch.Tensor:
    inputs = batch()
    with torch.inference_mode():
        return model.eval()(input_ids=inputs["input_ids"][:1], use_cache=False).logits.float()


def _gap(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def _answers(answerer: Answerer) -> tuple[list[str], tuple[list[str], bool]]:
    """Two prompts of different lengths answered by both sides: in batches, and streamed one by one."""
    chats = [[{"role": "user", "content": text}] for text in ("Table for 4 on Friday?", "Where are you?")]
    answers = {side: answerer.complete(chats, side) for side in (TUNED, BASE)}
    model, tokenizer = answerer.model, answerer.tokenizer
    penalty = model.generation_config.repetition_penalty or 1.0
    streamer = Streamer(model, model.config, tokenizer, answerer.ends, penalty, Drafts([]))
    alone = []
    for chat in chats:
        growing = streamer.begin(prompt_ids(tokenizer, chat), 4, 0.0)
        while not growing.over:
            growing.step()
        alone.append(growing.answer(TUNED).text)
    answerer.worker.shutdown()
    return answers[TUNED], (alone, streamer.remembers)
