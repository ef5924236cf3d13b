#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes models/: small models in shapes that `caravan mkmodel` does not make, odd on purpose, and
the logits that reference.py finds for them. Needs numpy; the files are kept in the repository.

usage: make_models.py [NAME...]    (all by default)
"""
import json
import pathlib
import struct
import sys
import zlib

import numpy as np

import reference

OUT = pathlib.Path(__file__).resolve().parent / "models"
N_VOCAB, N_TOKENS = 301, 56
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
TYPES = {"F32": 0, "F16": 1}


# ---- the file

def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def kind_of(value):
    return {bool: BOOL, int: U32, float: F32, str: STRING}[type(value)]


def raw(kind, value):
    return string(value) if kind == STRING else \
        struct.pack("<" + {U32: "I", I32: "i", F32: "f", BOOL: "?"}[kind], value)


def entry(key, value):
    if not isinstance(value, list):
        return string(key) + struct.pack("<I", kind_of(value)) + raw(kind_of(value), value)
    kind = kind_of(value[0])
    return (string(key) + struct.pack("<IIQ", ARRAY, kind, len(value)) +
            b"".join(raw(kind, v) for v in value))


def vocabulary():
    """Specials, bytes, and fillers."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    fillers = [f"t{i}" for i in range(N_VOCAB - len(tokens))]
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens + fillers,
            "tokenizer.ggml.scores": [0.0] * N_VOCAB,
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(fillers),
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}


def write_gguf(path, arch, keys, tensors):
    """tensors: {name: (array, type)}"""
    keys = {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in keys.items()},
            **vocabulary()}
    data, infos = b"", b""
    for name, (values, type_) in tensors.items():
        infos += (string(name) + struct.pack("<I", values.ndim) +
                  struct.pack(f"<{values.ndim}Q", *reversed(values.shape)) +
                  struct.pack("<IQ", TYPES[type_], len(data)))
        data += values.astype("<f4" if type_ == "F32" else "<f2").tobytes()
        data += b"\0" * (-len(data) % 32)
    header = (b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) +
              b"".join(entry(k, v) for k, v in keys.items()) + infos)
    path.write_bytes(header + b"\0" * (-len(header) % 32) + data)


# ---- tensors

class Maker:
    """Fills the tensors that an architecture has, from its keys."""

    def __init__(self, name, arch, keys, type_):
        self.arch, self.keys, self.type = arch, keys, type_
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.model = reference.Model(arch, keys, {})
        self.tensors = {}
        self.embd = keys["embedding_length"]

    def key(self, name, fallback=None, layer=None):
        return self.model.key(name, fallback, layer)

    def matrix(self, name, *shape, gain=1.0):
        values = self.random.standard_normal(shape) * gain / np.sqrt(shape[-1])
        self.tensors[name + ".weight"] = values, self.type

    def floats(self, name, values):
        self.tensors[name] = np.asarray(values, float), "F32"

    def vector(self, name, *shape, spread=0.3):
        self.floats(name, self.random.standard_normal(shape) * spread)

    def norms(self, prefix, **widths):
        for name, width in widths.items():
            self.floats(f"{prefix}{name}.weight", self.random.uniform(0.7, 1.3, width))

    def attention(self, p, layer):
        n_head = self.key("attention.head_count", layer=layer)
        n_kv = self.key("attention.head_count_kv", layer=layer)
        windowed = reference.window_of(self.model, layer) is not None
        suffix = "_swa" if windowed and self.arch == "gemma4" else ""
        dim, dim_v = (self.key(f"attention.{name}_length{suffix}") for name in ("key", "value"))
        gated = 2 if "ssm.state_size" in self.keys else 1
        self.matrix(p + "attn_q", gated * n_head * dim, self.embd, gain=2)
        self.matrix(p + "attn_k", n_kv * dim, self.embd, gain=2)
        if windowed or self.arch != "gemma4":
            self.matrix(p + "attn_v", n_kv * dim_v, self.embd)
        self.matrix(p + "attn_output", self.embd, n_head * dim_v)
        if self.arch in ("gemma3", "gemma4", "qwen3next", "qwen35"):
            self.norms(p, attn_q_norm=dim, attn_k_norm=dim)
        if self.arch in ("glm4moe", "gpt-oss"):
            for name, width in (("q", n_head * dim), ("k", n_kv * dim), ("v", n_kv * dim_v)):
                self.vector(f"{p}attn_{name}.bias", width)
        if self.arch == "gpt-oss":
            self.vector(p + "attn_output.bias", self.embd)
            self.vector(p + "attn_sinks.weight", n_head, spread=1)

    def latent_attention(self, p):
        n_head, rank = self.key("attention.head_count"), self.key("attention.kv_lora_rank")
        n_rot, q_rank = self.key("rope.dimension_count"), self.key("attention.q_lora_rank")
        width, dim_v = (self.key(f"attention.{name}_length_mla") for name in ("key", "value"))
        if q_rank:
            self.matrix(p + "attn_q_a", q_rank, self.embd)
            self.norms(p, attn_q_a_norm=q_rank)
            self.matrix(p + "attn_q_b", n_head * width, q_rank, gain=2)
        else:
            self.matrix(p + "attn_q", n_head * width, self.embd, gain=2)
        self.matrix(p + "attn_kv_a_mqa", rank + n_rot, self.embd, gain=2)
        self.norms(p, attn_kv_a_norm=rank)
        self.matrix(p + "attn_k_b", n_head, rank, width - n_rot)
        self.matrix(p + "attn_v_b", n_head, dim_v, rank)
        self.matrix(p + "attn_output", self.embd, n_head * dim_v)

    def delta_net(self, p):
        n_k, n_v = self.key("ssm.group_count"), self.key("ssm.time_step_rank")
        dim = self.key("ssm.state_size")
        channels = (2 * n_k + n_v) * dim
        self.matrix(p + "attn_qkv", channels, self.embd)
        self.matrix(p + "attn_gate", n_v * dim, self.embd)
        self.vector(p + "ssm_conv1d.weight", channels, self.key("ssm.conv_kernel"), spread=0.5)
        self.vector(p + "ssm_dt.bias", n_v, spread=1)
        self.floats(p + "ssm_a", -np.exp(np.linspace(-1.5, 1.5, n_v)))
        if self.arch == "qwen3next":
            self.matrix(p + "ssm_ba", 2 * n_v, self.embd)
        else:
            self.matrix(p + "ssm_beta", n_v, self.embd)
            self.matrix(p + "ssm_alpha", n_v, self.embd)
        self.norms(p, ssm_norm=dim)
        self.matrix(p + "ssm_out", self.embd, n_v * dim)

    def dense(self, p, width, suffix=""):
        self.matrix(p + "ffn_gate" + suffix, width, self.embd)
        self.matrix(p + "ffn_up" + suffix, width, self.embd)
        self.matrix(p + "ffn_down" + suffix, self.embd, width)

    def experts(self, p):
        n, width = self.key("expert_count"), self.key("expert_feed_forward_length")
        self.vector(p + "ffn_gate_inp.weight", n, self.embd, spread=2 * self.embd ** -0.5)
        if self.arch == "gemma4":
            self.matrix(p + "ffn_gate_up_exps", n, 2 * width, self.embd)
            self.floats(p + "ffn_gate_inp.scale", self.random.uniform(1, 8, self.embd))
            self.floats(p + "ffn_down_exps.scale", self.random.uniform(0.5, 1.5, n))
            self.norms(p, pre_ffw_norm_2=self.embd, post_ffw_norm_1=self.embd,
                       post_ffw_norm_2=self.embd)
        else:
            self.matrix(p + "ffn_gate_exps", n, width, self.embd)
            self.matrix(p + "ffn_up_exps", n, width, self.embd)
        self.matrix(p + "ffn_down_exps", n, self.embd, width)
        if self.key("expert_gating_func") == 2:
            self.vector(p + "exp_probs_b.bias", n)
        if self.arch == "gpt-oss":
            self.vector(p + "ffn_gate_inp.bias", n)
            for name, outputs in (("gate", width), ("up", width), ("down", self.embd)):
                self.vector(f"{p}ffn_{name}_exps.bias", n, outputs)
        shared = self.key("expert_shared_feed_forward_length",
                          width * self.key("expert_shared_count", 0))
        if shared:
            self.dense(p, shared, "_shexp")
        if self.arch == "qwen3next":
            self.vector(p + "ffn_gate_inp_shexp.weight", self.embd)

    def layer(self, layer):
        p = f"blk.{layer}."
        if layer >= self.key("block_count") - self.key("nextn_predict_layers", 0):
            self.matrix(p + "nextn.eh_proj", self.embd, 2 * self.embd)
            return
        norms = ["attn_norm"]
        norms += ["post_attention_norm"] if self.arch in reference.NORM_AFTER_ATTENTION else \
            ["ffn_norm"]
        norms += ["post_attention_norm", "post_ffw_norm"] if self.arch in reference.GEMMA else []
        self.norms(p, **{name: self.embd for name in norms})
        if "attention.kv_lora_rank" in self.keys:
            self.latent_attention(p)
        elif reference.is_recurrent(self.model, layer):
            self.delta_net(p)
        else:
            self.attention(p, layer)
        moe = "expert_count" in self.keys and layer >= self.key("leading_dense_block_count", 0)
        if moe:
            self.experts(p)
        if not moe or self.arch == "gemma4":
            self.dense(p, self.key("feed_forward_length", layer=layer))
        if self.arch == "gemma4":
            self.floats(p + "layer_output_scale.weight", [0.4 + 0.1 * layer])

    def make(self, tied, freqs):
        self.tensors["token_embd.weight"] = (
            self.random.standard_normal((N_VOCAB, self.embd)), self.type)
        self.norms("", output_norm=self.embd)
        if not tied:
            self.matrix("output", N_VOCAB, self.embd, gain=4)
        if freqs:
            self.floats("rope_freqs.weight", freqs)
        for layer in range(self.key("block_count")):
            self.layer(layer)
        return self.tensors


# ---- the models

def keys(layers, embd, heads, kv, dim, n_rot=None, dim_v=None, **more):
    found = {"block_count": layers, "context_length": 4096, "embedding_length": embd,
             "attention.head_count": heads, "attention.head_count_kv": kv,
             "attention.key_length": dim, "attention.value_length": dim_v or dim,
             "rope.dimension_count": n_rot or dim, "attention.layer_norm_rms_epsilon": 1e-6}
    return {**found, **{name.replace("__", "."): value for name, value in more.items()}}


def experts(n, used, width, **more):
    return {"expert_count": n, "expert_used_count": used, "expert_feed_forward_length": width,
            **more}


def yarn(factor, length, multiplier):
    return {"rope.scaling.type": "yarn", "rope.scaling.factor": factor,
            "rope.scaling.original_context_length": length,
            "rope.scaling.yarn_log_multiplier": multiplier}


def latent(q_rank, rank, nope, n_rot, dim_v):
    rows = {"attention.key_length": rank + n_rot, "attention.value_length": rank,
            "attention.key_length_mla": nope + n_rot, "attention.value_length_mla": dim_v,
            "attention.kv_lora_rank": rank, "rope.dimension_count": n_rot}
    return {**rows, "attention.q_lora_rank": q_rank} if q_rank else rows


def delta(n_k, n_v, dim, taps):
    return {"ssm.group_count": n_k, "ssm.time_step_rank": n_v, "ssm.state_size": dim,
            "ssm.inner_size": n_v * dim, "ssm.conv_kernel": taps}


GEMMA4_WINDOWS = [True, False, True, True]

# name: (architecture, keys, type, whether the output is the embedding, rope_freqs)
MODELS = {
    "llama-by-layer": ("llama", keys(3, 37, [4, 6, 2], [2, 3, 1], 6, dim_v=10,
                                     feed_forward_length=[33, 50, 17]), "F32", True, [1, 2, 3]),
    "gemma3": ("gemma3", {
        **keys(4, 24, 3, 1, 20, feed_forward_length=37, rope__freq_base=1e6,
               attention__sliding_window=7, attention__sliding_window_pattern=3),
        "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}, "F16", True, None),
    "gemma4-experts": ("gemma4", {
        **keys(4, 26, 4, [2, 1, 2, 2], 12, feed_forward_length=29, rope__freq_base=1e6,
               attention__sliding_window=9, final_logit_softcapping=30.0),
        **experts(5, 2, 11), "attention.sliding_window_pattern": GEMMA4_WINDOWS,
        "attention.key_length_swa": 8, "attention.value_length_swa": 8,
        "rope.dimension_count_swa": 8}, "F16", True, [1, 1, 1e30, 1e30, 1e30, 1e30]),
    "gpt-oss": ("gpt-oss", {
        **keys(3, 30, 5, 1, 14, feed_forward_length=13, rope__freq_base=150000.0,
               attention__sliding_window=5), **experts(5, 3, 13), **yarn(32.0, 64, 0.0)},
        "F16", False, None),
    "glm4moe": ("glm4moe", {
        **keys(4, 28, 6, 1, 14, n_rot=6, feed_forward_length=31, leading_dense_block_count=2,
               nextn_predict_layers=1),
        **experts(7, 3, 15, expert_gating_func=2, expert_shared_count=2, expert_weights_scale=1.5)},
        "F16", False, None),
    "mistral3": ("mistral3", {
        **keys(2, 30, 6, 2, 10, feed_forward_length=41, rope__freq_base=1e6,
               attention__temperature_scale=0.2), **yarn(4.0, 16, 1.0)}, "F16", False, None),
    "mistral4": ("mistral4", {
        **keys(2, 26, 3, 1, 0, feed_forward_length=19, attention__temperature_scale=0.2),
        **latent(12, 20, 10, 6, 9), **yarn(4.0, 16, 0.1),
        **experts(5, 2, 13, expert_weights_norm=True, expert_shared_count=1)}, "F16", False, None),
    "deepseek2-v2": ("deepseek2", {
        **keys(3, 26, 17, 1, 0, feed_forward_length=19, leading_dense_block_count=1),
        **latent(0, 31, 7, 8, 9),
        **experts(12, 3, 13, expert_group_count=4, expert_group_used_count=2,
                  expert_weights_scale=2.0, expert_shared_count=2)}, "F16", False, None),
    "deepseek2-v3": ("deepseek2", {
        **keys(2, 26, 3, 1, 0, feed_forward_length=19, leading_dense_block_count=1),
        **latent(22, 18, 9, 6, 16), **yarn(8.0, 16, 0.1),
        **experts(9, 4, 13, expert_gating_func=2, expert_group_count=3, expert_group_used_count=2,
                  expert_weights_norm=True, expert_weights_scale=2.5, expert_shared_count=1)},
        "F16", False, None),
    "qwen3next": ("qwen3next", {
        **keys(4, 26, 3, 1, 14, n_rot=6, rope__freq_base=1e7, full_attention_interval=3),
        **delta(2, 6, 9, 3), **experts(5, 3, 13, expert_shared_feed_forward_length=11)},
        "F16", False, None),
    "qwen35": ("qwen35", {
        **keys(4, 26, 5, 5, 12, n_rot=4, feed_forward_length=29, rope__freq_base=1e7,
               nextn_predict_layers=1),
        **delta(2, 4, 12, 4), "attention.recurrent_layers": [True, False, True, False]},
        "F16", True, None),
}


def stored(values, type_):
    """What is left of the values in a file."""
    return values.astype(np.float32 if type_ == "F32" else np.float16).astype(float)


def make(name):
    arch, metadata, type_, tied, freqs = MODELS[name]
    tensors = Maker(name, arch, metadata, type_).make(tied, freqs)
    metadata = {k: [float(np.float32(x)) if isinstance(x, float) else x for x in v]
                if isinstance(v, list) else float(np.float32(v)) if isinstance(v, float) else v
                for k, v in metadata.items()}
    model = reference.Model(arch, metadata, {k: stored(*v) for k, v in tensors.items()})
    ids = np.random.default_rng(1).integers(3, N_VOCAB, N_TOKENS)
    rows = [*range(0, N_TOKENS, 5), N_TOKENS - 1]
    logits = reference.logits(model, ids)[rows].astype("<f4")
    assert np.isfinite(logits).all(), name
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    write_gguf(folder / "model.gguf", arch, metadata, tensors)
    (folder / "logits.f32").write_bytes(logits.tobytes())
    # A half of gelu's table that a last bit turns makes more of a difference than all sums.
    limit = 1e-6 if arch in reference.GEMMA else 1e-9
    case = {"vocab": N_VOCAB, "nmse_limit": limit, "rows": rows, "tokens": ids.tolist()}
    (folder / "case.json").write_text(json.dumps(case) + "\n")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    for wanted in sys.argv[1:] or MODELS:
        make(wanted)
