# SPDX-License-Identifier: Apache-2.0
"""The llama4 architecture as the engine computes it (shard/arch.c, and section 3.3 of its sources):
norm after rotation, a layer without rotation every fourth, experts every second, one of them used,
its weight, a sigmoid, on its input, beside a shared one. Parameters have the names of GGUF's
tensors. Texts are shorter than a chunk of attention (8192), so that chunks are not seen here.
"""
import torch
import torch.nn.functional as F

LAYERS, EMBD, HEADS, KV_HEADS, HEAD = 6, 192, 4, 2, 64
FF, FF_EXPERT, EXPERTS, STEP, NOPE_EVERY = 256, 128, 8, 2, 4
EPS, BASE, CONTEXT = 1e-5, 1000.0, 1024


def has_experts(layer):
    return (layer + 1) % STEP == 0


def shapes(n_vocab):
    """{tensor: (experts,) rows, columns}; a vector has one number."""
    found = {"token_embd.weight": (n_vocab, EMBD), "output_norm.weight": (EMBD,),
             "output.weight": (n_vocab, EMBD)}
    for layer in range(LAYERS):
        own = {"attn_norm": (EMBD,), "attn_q": (HEADS * HEAD, EMBD),
               "attn_k": (KV_HEADS * HEAD, EMBD), "attn_v": (KV_HEADS * HEAD, EMBD),
               "attn_output": (EMBD, HEADS * HEAD), "ffn_norm": (EMBD,)}
        if has_experts(layer):
            own["ffn_gate_inp"] = (EXPERTS, EMBD)
            for name, stack in (("exps", (EXPERTS,)), ("shexp", ())):
                own.update({f"ffn_gate_{name}": (*stack, FF_EXPERT, EMBD),
                            f"ffn_up_{name}": (*stack, FF_EXPERT, EMBD),
                            f"ffn_down_{name}": (*stack, EMBD, FF_EXPERT)})
        else:
            own.update(ffn_gate=(FF, EMBD), ffn_up=(FF, EMBD), ffn_down=(EMBD, FF))
        found.update({f"blk.{layer}.{name}.weight": shape for name, shape in own.items()})
    return found


def start(name, shape, generator):
    if len(shape) == 1:
        return torch.ones(shape)
    if "token_embd" in name:
        std = 0.5
    elif "ffn_gate_inp" in name or name == "output.weight":
        std = 0.3 * shape[-1] ** -0.5
    elif "attn_output" in name or "ffn_down" in name:
        std = shape[-1] ** -0.5 * (2 * LAYERS) ** -0.5
    else:
        std = shape[-1] ** -0.5
    return torch.randn(shape, generator=generator) * std


def rms(x):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS)


def rotate(x, cos, sin):
    """Pairs of neighbours, [batch, heads, positions, values]."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Model(torch.nn.Module):
    def __init__(self, n_vocab, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.tensors = torch.nn.ParameterDict({
            name.replace(".", "/"): torch.nn.Parameter(start(name, shape, generator))
            for name, shape in shapes(n_vocab).items()})

    def tensor(self, name, layer=None):
        full = f"{name}.weight" if layer is None else f"blk.{layer}.{name}.weight"
        return self.tensors[full.replace(".", "/")]

    def named(self):
        """{GGUF's name: tensor}"""
        return {name.replace("/", "."): value.detach() for name, value in self.tensors.items()}

    def attention(self, layer, h, turn, mask):
        batch, length, _ = h.shape
        q, k, v = (F.linear(h, self.tensor(name, layer)).view(batch, length, -1, HEAD)
                   .transpose(1, 2) for name in ("attn_q", "attn_k", "attn_v"))
        if (layer + 1) % NOPE_EVERY:
            q, k = rms(rotate(q, *turn)), rms(rotate(k, *turn))
        each = HEADS // KV_HEADS
        q = q.reshape(batch, KV_HEADS, each * length, HEAD)
        scores = (q @ k.transpose(-1, -2) * HEAD ** -0.5).view(batch, HEADS, length, length)
        mixed = torch.softmax(scores + mask, -1).view(batch, KV_HEADS, each * length, length) @ v
        mixed = mixed.view(batch, HEADS, length, HEAD).transpose(1, 2).reshape(batch, length, -1)
        return F.linear(mixed, self.tensor("attn_output", layer))

    def dense(self, layer, h, suffix=""):
        gate, up = (F.linear(h, self.tensor(f"ffn_{name}{suffix}", layer))
                    for name in ("gate", "up"))
        return F.linear(F.silu(gate) * up, self.tensor("ffn_down" + suffix, layer))

    def experts(self, layer, h, logits):
        """Rows of one expert side by side."""
        best, chosen = logits.max(-1)
        order = torch.argsort(chosen, stable=True)
        counts = torch.bincount(chosen, minlength=EXPERTS).tolist()
        rows = (h * torch.sigmoid(best)[:, None]).index_select(0, order).split(counts)
        weights = zip(*(self.tensor(f"ffn_{name}_exps", layer).unbind(0)
                        for name in ("gate", "up", "down")))
        done = [F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
                for x, (gate, up, down) in zip(rows, weights)]
        return torch.cat(done).index_select(0, torch.argsort(order)), chosen

    def forward(self, ids, real=None):
        """(logits, what shows how evenly experts are used, [tokens of each expert] a MoE layer);
        real marks the ids that are no padding."""
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        length = ids.shape[1]
        at, pairs = (torch.arange(n, device=ids.device) for n in (length, HEAD // 2))
        angles = at[:, None] * BASE ** (-2.0 * pairs / HEAD)
        turn = torch.cos(angles), torch.sin(angles)
        mask = torch.full((length, length), float("-inf"), device=ids.device).triu(1)
        x = F.embedding(ids, self.tensor("token_embd"))
        uneven, used = 0.0, []
        for layer in range(LAYERS):
            h = rms(x) * self.tensor("attn_norm", layer)
            x = x + self.attention(layer, h, turn, mask)
            h = rms(x) * self.tensor("ffn_norm", layer)
            if not has_experts(layer):
                x = x + self.dense(layer, h)
                continue
            flat = h.flatten(0, 1)
            logits = F.linear(flat, self.tensor("ffn_gate_inp", layer))
            y, chosen = self.experts(layer, flat, logits)
            x = x + y.view_as(x) + self.dense(layer, h, "_shexp")
            rows = real.flatten()
            counts = torch.bincount(chosen[rows], minlength=EXPERTS)
            share = torch.softmax(logits[rows], -1).mean(0)
            uneven = uneven + EXPERTS * (counts / counts.sum() * share).sum()
            used.append(counts)
        h = rms(x) * self.tensor("output_norm")
        return F.linear(h, self.tensor("output")), uneven, torch.stack(used)
