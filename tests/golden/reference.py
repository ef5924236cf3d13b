# SPDX-License-Identifier: Apache-2.0
"""What a model computes, in double precision and as plainly as it can be said: a whole prompt at
once without a cache, latent attention decompressed, experts a token at a time. make_models.py makes
reference logits with it. It shares nothing with the engine; shard/arch.c names the definitions that
both follow. Arrays are [positions, ...]; a matrix's rows are its outputs.
"""
import numpy as np

NEOX = {"qwen3next", "qwen35", "gemma3", "gemma4", "gpt-oss", "glm4moe"}
NORM_AFTER_ATTENTION = {"qwen3next", "qwen35", "gpt-oss", "glm4moe"}
GEMMA = {"gemma3", "gemma4"}


class Model:
    """keys: metadata without the architecture's name; tensors: by name, as float64."""

    def __init__(self, arch, keys, tensors):
        self.arch, self.keys, self.tensors = arch, keys, tensors

    def key(self, name, fallback=None, layer=None):
        value = self.keys.get(name, fallback)
        return value[layer] if isinstance(value, list) else value

    def tensor(self, name, layer=None):
        """None where the model lacks it."""
        return self.tensors.get(name if layer is None else f"blk.{layer}.{name}")

    def linear(self, name, layer, x):
        y = x @ self.tensor(name + ".weight", layer).T
        bias = self.tensor(name + ".bias", layer)
        return y if bias is None else y + bias

    def norm(self, x, name=None, layer=None):
        """RMS norm; without a name or such a tensor, without weights."""
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) +
                        self.key("attention.layer_norm_rms_epsilon"))
        weight = None if name is None else self.tensor(name + ".weight", layer)
        return y if weight is None else y * weight


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def gelu(x):
    """The tanh form as a table of halves gives it, which kern_gelu_mul_fn explains."""
    half = np.clip(x, -10, 10).astype(np.float32).astype(np.float16).astype(float)
    y = 0.5 * half * (1 + np.tanh(np.sqrt(2 / np.pi) * (half + 0.044715 * half ** 3)))
    y = y.astype(np.float16).astype(float)
    return np.where(x <= -10, 0, np.where(x >= 10, x, y))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def activate(model, gate, up):
    if model.arch == "gpt-oss":
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        return gate * sigmoid(1.702 * gate) * (up + 1)
    return (gelu(gate) if model.arch in GEMMA else silu(gate)) * up


# ---- positions

def yarn(model, angles, n_rot, base):
    """(angles a position, factor of cos and sin)"""
    factor = model.key("rope.scaling.factor")
    length = model.key("rope.scaling.original_context_length")
    multiplier = model.key("rope.scaling.yarn_log_multiplier", 0)

    def pair(turns):
        return n_rot * np.log(length / (2 * np.pi * turns)) / (2 * np.log(base))
    low, high = max(0, np.floor(pair(32))), min(n_rot - 1, np.ceil(pair(1)))
    slow = np.clip((np.arange(n_rot // 2) - low) / max(0.001, high - low), 0, 1)
    gain = (1 + 0.1 * np.log(factor)) / (1 + 0.1 * multiplier * np.log(factor))
    return angles * (1 - slow + slow / factor), gain


def rope(model, x, windowed=False):
    """Rotates the first values of each head, [positions, heads, values]."""
    own = windowed and model.arch in GEMMA
    suffix = "_swa" if own else ""
    n_rot = model.key("rope.dimension_count" + suffix, x.shape[-1])
    base = model.key("rope.freq_base" + suffix, 10000.0)
    angles, gain = base ** (-2.0 * np.arange(n_rot // 2) / n_rot), 1.0
    scaling = None if own else model.key("rope.scaling.type")
    if not own and model.tensor("rope_freqs.weight") is not None:
        angles = angles / model.tensor("rope_freqs.weight")
    if scaling == "linear":
        angles = angles / model.key("rope.scaling.factor")
    if scaling == "yarn":
        angles, gain = yarn(model, angles, n_rot, base)
    if "attention.kv_lora_rank" in model.keys:
        gain = 1.0  # the scores' scale has it
    turn = np.exp(1j * np.arange(len(x))[:, None] * angles)[:, None] * gain
    y = x.copy()
    real, imaginary = ((slice(0, n_rot // 2), slice(n_rot // 2, n_rot)) if model.arch in NEOX else
                       (slice(0, n_rot, 2), slice(1, n_rot, 2)))
    turned = (x[..., real] + 1j * x[..., imaginary]) * turn
    y[..., real], y[..., imaginary] = turned.real, turned.imag
    return y


def temperature(model, q):
    scale = model.key("attention.temperature_scale", 0)
    if not scale:
        return q
    steps = np.arange(len(q)) // model.key("rope.scaling.original_context_length")
    return q * (1 + scale * np.log(1 + steps))[:, None, None]


# ---- attention

def attend(q, k, v, scale, window=None, sinks=None):
    at = np.arange(len(q))
    back = at[:, None] - at
    seen = (back >= 0) & (back < (window or len(q)))
    out = []
    for head in range(q.shape[1]):
        kv = head // (q.shape[1] // k.shape[1])
        scores = np.where(seen, q[:, head] @ k[:, kv].T * scale, -np.inf)
        if sinks is not None:
            scores = np.concatenate([scores, np.full((len(q), 1), sinks[head])], 1)
        out.append(softmax(scores)[:, :len(q)] @ v[:, kv])
    return np.concatenate(out, 1)


def window_of(model, layer):
    """None where a layer sees everything."""
    window = model.key("attention.sliding_window")
    usual = {"gemma3": 6, "gpt-oss": 2}.get(model.arch)
    pattern = model.keys.get("attention.sliding_window_pattern", usual)
    if isinstance(pattern, list):
        return window if pattern[layer] else None
    return window if window and layer % pattern < pattern - 1 else None


def attention(model, layer, h):
    window, n = window_of(model, layer), len(h)
    n_head = model.key("attention.head_count", layer=layer)
    n_kv = model.key("attention.head_count_kv", layer=layer)
    q = model.linear("attn_q", layer, h).reshape(n, n_head, -1)
    k = model.linear("attn_k", layer, h).reshape(n, n_kv, -1)
    v = k if model.tensor("attn_v.weight", layer) is None else \
        model.linear("attn_v", layer, h).reshape(n, n_kv, -1)
    gate = 1
    if "ssm.state_size" in model.keys:
        q, gate = np.split(q, 2, -1)
        gate = sigmoid(gate).reshape(n, -1)
    if model.tensor("attn_q_norm.weight", layer) is not None:
        q, k = model.norm(q, "attn_q_norm", layer), model.norm(k, "attn_k_norm", layer)
    if model.arch == "gemma4":
        v = model.norm(v)
    q, k = rope(model, q, window is not None), rope(model, k, window is not None)
    scale = 1.0 if model.arch == "gemma4" else q.shape[-1] ** -0.5
    mixed = attend(temperature(model, q), k, v, scale, window,
                   model.tensor("attn_sinks.weight", layer))
    return model.linear("attn_output", layer, mixed * gate)


def latent_attention(model, layer, h):
    n, rank = len(h), model.key("attention.kv_lora_rank")
    n_head, n_rot = model.key("attention.head_count"), model.key("rope.dimension_count")
    width = model.key("attention.key_length_mla")
    if model.key("attention.q_lora_rank"):
        compressed = model.norm(model.linear("attn_q_a", layer, h), "attn_q_a_norm", layer)
        q = model.linear("attn_q_b", layer, compressed)
    else:
        q = model.linear("attn_q", layer, h)
    q = q.reshape(n, n_head, width)
    q = np.concatenate([q[..., :-n_rot], rope(model, q[..., -n_rot:])], -1)
    row = model.linear("attn_kv_a_mqa", layer, h)
    c = model.norm(row[:, :rank], "attn_kv_a_norm", layer)
    turned = rope(model, row[:, None, rank:])
    k = np.einsum("hri,tr->thi", model.tensor("attn_k_b.weight", layer), c)
    k = np.concatenate([k, np.repeat(turned, n_head, 1)], -1)
    v = np.einsum("hir,tr->thi", model.tensor("attn_v_b.weight", layer), c)
    factor = model.key("rope.scaling.factor", 1.0)
    stretch = 1 + model.key("rope.scaling.yarn_log_multiplier", 0) * np.log(factor)
    return model.linear("attn_output", layer, attend(temperature(model, q), k, v,
                                                     stretch ** 2 * width ** -0.5))


def delta_net(model, layer, h):
    n, taps = len(h), model.key("ssm.conv_kernel")
    n_k, n_v = model.key("ssm.group_count"), model.key("ssm.time_step_rank")
    dim, each = model.key("ssm.state_size"), n_v // n_k
    qkv = model.linear("attn_qkv", layer, h)
    padded = np.concatenate([np.zeros((taps - 1, qkv.shape[1])), qkv])
    kernel = model.tensor("ssm_conv1d.weight", layer)
    qkv = silu(sum(padded[i:i + n] * kernel[:, i] for i in range(taps)))
    q, k, v = (part.reshape(n, -1, dim) for part in np.split(qkv, [n_k * dim, 2 * n_k * dim], 1))
    q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
    if model.arch == "qwen3next":  # a K head's V heads are neighbours, its betas before its alphas
        k_head = np.arange(n_v) // each
        both = model.linear("ssm_ba", layer, h).reshape(n, n_k, 2 * each)
        beta, alpha = (part.reshape(n, n_v) for part in np.split(both, 2, -1))
    else:
        k_head = np.arange(n_v) % n_k
        beta, alpha = (model.linear(name, layer, h) for name in ("ssm_beta", "ssm_alpha"))
    decay = np.exp(model.tensor("ssm_a", layer) *
                   np.logaddexp(0, alpha + model.tensor("ssm_dt.bias", layer)))
    state, out = np.zeros((n_v, dim, dim)), np.empty((n, n_v, dim))
    for t in range(n):
        key, query = k[t, k_head], q[t, k_head] * dim ** -0.5
        state *= decay[t][:, None, None]
        error = sigmoid(beta[t])[:, None] * (v[t] - np.einsum("hkv,hk->hv", state, key))
        state += key[:, :, None] * error[:, None]
        out[t] = np.einsum("hkv,hk->hv", state, query)
    z = silu(model.linear("attn_gate", layer, h)).reshape(n, n_v, dim)
    return model.linear("ssm_out", layer, (model.norm(out, "ssm_norm", layer) * z).reshape(n, -1))


def is_recurrent(model, layer):
    if "ssm.state_size" not in model.keys:
        return False
    said = model.key("attention.recurrent_layers", layer=layer)
    return (layer + 1) % model.key("full_attention_interval", 4) != 0 if said is None else said


# ---- feed-forward

def dense(model, layer, h, suffix=""):
    gate, up = (model.linear(f"ffn_{name}{suffix}", layer, h) for name in ("gate", "up"))
    return model.linear("ffn_down" + suffix, layer, activate(model, gate, up))


def expert(model, layer, x, number):
    def product(name, x):
        bias = model.tensor(name + ".bias", layer)
        y = model.tensor(name + ".weight", layer)[number] @ x
        return y if bias is None else y + bias[number]
    if model.tensor("ffn_gate_up_exps.weight", layer) is not None:
        gate, up = np.split(product("ffn_gate_up_exps", x), 2)
    else:
        gate, up = product("ffn_gate_exps", x), product("ffn_up_exps", x)
    return product("ffn_down_exps", activate(model, gate, up))


def best(values, n):
    return np.argsort(-values, kind="stable")[:n]


def choose(model, layer, logits):
    """[(expert, weight)] of one position."""
    by_sigmoid = model.key("expert_gating_func", 1) == 2
    scores = sigmoid(logits) if by_sigmoid else softmax(logits)
    bias = model.tensor("exp_probs_b.bias", layer)
    ranked = scores if bias is None else scores + bias
    n_groups = model.key("expert_group_count", 1)
    if n_groups > 1:
        groups = ranked.reshape(n_groups, -1)
        top = -np.sort(-groups, 1)
        worth = top[:, :2].sum(1) if by_sigmoid else top[:, 0]
        kept = np.isin(np.arange(n_groups), best(worth, model.key("expert_group_used_count")))
        ranked = np.where(kept[:, None], groups, -np.inf).ravel()
    chosen = best(ranked, model.key("expert_used_count"))
    weights = softmax(logits[chosen]) if model.arch == "gpt-oss" else scores[chosen]
    if model.key("expert_weights_norm", model.arch not in ("gpt-oss", "deepseek2", "mistral4")):
        weights = weights / weights.sum()
    factors = model.tensor("ffn_down_exps.scale", layer)
    weights = weights * model.key("expert_weights_scale", 1.0)
    return zip(chosen, weights if factors is None else weights * factors[chosen])


def experts(model, layer, h, logits):
    return np.stack([sum(weight * expert(model, layer, h[t], number)
                         for number, weight in choose(model, layer, logits[t]))
                     for t in range(len(h))])


def feed_forward(model, layer, x):
    """What the branch gives, from the residual."""
    name = "post_attention_norm" if model.arch in NORM_AFTER_ATTENTION else "ffn_norm"
    h = model.norm(x, name, layer)
    if model.tensor("ffn_gate_inp.weight", layer) is None:
        return dense(model, layer, h)
    if model.arch == "gemma4":
        routed = model.norm(x) * model.tensor("ffn_gate_inp.scale", layer) * x.shape[1] ** -0.5
        inner = experts(model, layer, model.norm(x, "pre_ffw_norm_2", layer),
                        model.linear("ffn_gate_inp", layer, routed))
        return (model.norm(dense(model, layer, h), "post_ffw_norm_1", layer) +
                model.norm(inner, "post_ffw_norm_2", layer))
    y = experts(model, layer, h, model.linear("ffn_gate_inp", layer, h))
    if model.tensor("ffn_gate_shexp.weight", layer) is None:
        return y
    gate = model.tensor("ffn_gate_inp_shexp.weight", layer)
    shared = dense(model, layer, h, "_shexp")
    return y + (shared if gate is None else shared * sigmoid(h @ gate)[:, None])


def logits(model, ids):
    """[positions, vocabulary]"""
    x = model.tensor("token_embd.weight")[ids]
    if model.arch in GEMMA:
        x = x * x.shape[1] ** 0.5
    n_layers = model.key("block_count") - model.key("nextn_predict_layers", 0)
    for layer in range(n_layers):
        h = model.norm(x, "attn_norm", layer)
        if "attention.kv_lora_rank" in model.keys:
            y = latent_attention(model, layer, h)
        else:
            y = (delta_net if is_recurrent(model, layer) else attention)(model, layer, h)
        x = x + (model.norm(y, "post_attention_norm", layer) if model.arch in GEMMA else y)
        y = feed_forward(model, layer, x)
        x = x + (model.norm(y, "post_ffw_norm", layer) if model.arch in GEMMA else y)
        scale = model.tensor("layer_output_scale.weight", layer)
        x = x if scale is None else x * scale[0]
    output = model.tensor("output.weight")
    y = model.norm(x, "output_norm") @ (model.tensor("token_embd.weight") if output is None
                                        else output).T
    cap = model.key("final_logit_softcapping")
    return cap * np.tanh(y / cap) if cap else y
