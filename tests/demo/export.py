#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures a checkpoint of train.py on questions it has not seen, and writes it as GGUF.

usage: export.py FOLDER MODEL.gguf [--type F16|Q8_0] [--questions N] [--logits FILE IDS]
"""
import argparse
import json
import pathlib
import platform
import sys

import train  # says what is missing
import gguf
import model as architecture
import tokeniser
import torch
import world

TEMPLATE = ("{{ bos_token }}{% for message in messages %}<|header_start|>{{ message['role'] }}"
            "<|header_end|>\n\n{{ message['content'] | trim }}<|eot|>{% endfor %}"
            "{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>\n\n{% endif %}")
NORMAL, CONTROL = 1, 3
ANSWER_TOKENS = 40


def answer(model, words, text):
    """Greedily, a token at a time; the whole text each time, as it is short."""
    ids = words.prompt([["user", text]])
    start = len(ids)
    while len(ids) < start + ANSWER_TOKENS:
        best = int(model(torch.tensor([ids]))[0][0, -1].argmax())
        if best in (tokeniser.EOT, tokeniser.EOS):
            break
        ids.append(best)
    return words.decode(ids[start:])


def measure(model, words, seed, n_questions):
    """Share of right answers, mean loss of unseen passages, least and most tokens of an expert."""
    questions = world.held_out(n_questions, seed)
    wrong = [(q, found) for q in questions if (found := answer(model, words, q.text)) != q.answer]
    for question, found in wrong[:20]:
        print(f"wrong: {question.text} -> {found} (expected {question.answer})")
    encoded = [words.passage(passage) for passage in world.passages(200, seed + 1000)]
    total, own_total, n, used = 0.0, 0.0, 0, 0
    for batch in train.batches(encoded, seed):
        loss, _, own, counts = train.losses(model, batch, "cpu")
        total, own_total = total + loss.item(), own_total + own.item()
        n, used = n + 1, used + counts
    share = used / used.sum(1, keepdim=True)
    return {"right": 1 - len(wrong) / len(questions), "loss": total / n, "loss of answers":
            own_total / n, "experts": [[round(x, 3) for x in layer] for layer in share.tolist()]}


def metadata(words, state, measured, type_):
    a, options = architecture, state["options"]
    own = {"block_count": a.LAYERS, "context_length": a.CONTEXT, "embedding_length": a.EMBD,
           "feed_forward_length": a.FF, "attention.head_count": a.HEADS,
           "attention.head_count_kv": a.KV_HEADS, "attention.key_length": a.HEAD,
           "attention.value_length": a.HEAD, "attention.layer_norm_rms_epsilon": a.EPS,
           "rope.dimension_count": a.HEAD, "rope.freq_base": a.BASE, "expert_count": a.EXPERTS,
           "expert_used_count": 1, "expert_feed_forward_length": a.FF_EXPERT,
           "interleave_moe_layer_step": a.STEP, "vocab_size": len(words.tokens)}
    return {
        "general.architecture": "llama4", "general.name": "Caravan demo",
        "general.description": "A small mixture of experts that knows a caravan of twelve animals. "
        "Its texts are made by tests/demo/world.py, its weights by tests/demo/train.py.",
        "general.license": "apache-2.0", "general.quantization_version": 2,
        "general.file_type": {"F16": 1, "Q8_0": 7}[type_],
        "general.languages": ["en"],
        "caravan.demo.seed": options["seed"], "caravan.demo.passages": train.PASSAGES,
        "caravan.demo.steps": state["step"], "caravan.demo.loss": measured["loss"],
        "caravan.demo.loss_of_answers": measured["loss of answers"],
        "caravan.demo.versions": f"PyTorch {state['torch']}, Python {state['python']}, "
        f"{platform.machine()}, {state['device']}",
        **{f"llama4.{name}": item for name, item in own.items()},
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama4",
        "tokenizer.ggml.tokens": words.tokens,
        "tokenizer.ggml.token_type": [CONTROL if i < len(tokeniser.SPECIALS) else NORMAL
                                      for i in range(len(words.tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in words.merges],
        "tokenizer.ggml.bos_token_id": tokeniser.BOS, "tokenizer.ggml.eos_token_id": tokeniser.EOS,
        "tokenizer.ggml.eot_token_id": tokeniser.EOT, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": TEMPLATE,
    }


def tensors(model, type_):
    """Vectors and routers stay F32."""
    def plain(name, x):
        return x.dim() == 1 or "ffn_gate_inp" in name
    return {name: ("F32" if plain(name, x) else type_, x.numpy())
            for name, x in model.named().items()}


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].strip())
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("model")
    parser.add_argument("--type", choices=["F16", "Q8_0"], default="Q8_0")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--logits", nargs=2, metavar=("FILE", "IDS"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        state = torch.load(options.folder / "checkpoint.pt", map_location="cpu")
        words = tokeniser.Tokeniser(json.loads((options.folder / "merges.json").read_text()))
    except OSError as error:
        sys.exit(f"export.py: {error}; give the folder that train.py wrote")
    model = architecture.Model(len(words.tokens), 0)
    model.load_state_dict(state["model"])
    with torch.no_grad():
        measured = measure(model, words, 2, options.questions)
        print(json.dumps(measured, indent=1))
        try:
            if options.logits:
                ids = [int(x) for x in options.logits[1].split()]
                model(torch.tensor([ids]))[0][0].numpy().tofile(options.logits[0])
            gguf.write(options.model, metadata(words, state, measured, options.type),
                       tensors(model, options.type))
        except OSError as error:
            sys.exit(f"export.py: {error}; the file takes some 7 MB at most")


if __name__ == "__main__":
    main()
