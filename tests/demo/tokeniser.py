# SPDX-License-Identifier: Apache-2.0
"""A byte-level BPE tokeniser as GGUF has it (tokenizer.ggml.model gpt2, pre llama4): training and
encoding. The pattern that cuts text before BPE is llama4's for ASCII, which is all the world has.
"""
import collections
import re

SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>"]
BOS, EOS, HEADER_START, HEADER_END, EOT = range(5)
CUT = re.compile(r"[^\r\nA-Za-z0-9]?[A-Z]*[a-z]+(?:'s|'t|'re|'ve|'m|'ll|'d)?"
                 r"|[^\r\nA-Za-z0-9]?[A-Z]+[a-z]*(?:'s|'t|'re|'ve|'m|'ll|'d)?"
                 r"|[0-9]{1,3}| ?[^\sA-Za-z0-9]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_letters():
    """The letter that stands for each byte in the file."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


LETTERS = byte_letters()


def letters_of(text):
    return "".join(LETTERS[b] for b in text.encode())


def train(texts, n_tokens):
    """The merges, the most frequent pair first; of equally frequent ones the first in order."""
    counts = collections.Counter(piece for text in texts for piece in CUT.findall(text))
    words = [(list(letters_of(piece)), n) for piece, n in counts.items()]
    merges = []
    while len(SPECIALS) + 256 + len(merges) < n_tokens:
        pairs = collections.Counter()
        for word, n in words:
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            raise ValueError(f"the texts have pairs for only {len(merges)} merges")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, _ in words:
            merge(word, best)
    return merges


def merge(word, pair):
    """Joins the pair wherever it occurs, from the left."""
    i = 0
    while i < len(word) - 1:
        if (word[i], word[i + 1]) == pair:
            word[i:i + 2] = [pair[0] + pair[1]]
        i += 1


class Tokeniser:
    def __init__(self, merges):
        self.merges = [tuple(pair) for pair in merges]
        self.tokens = SPECIALS + sorted(LETTERS.values()) + [a + b for a, b in self.merges]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks = {pair: i for i, pair in enumerate(self.merges)}
        self.known = {}
        self.bytes = {letter: b for b, letter in LETTERS.items()}

    def piece(self, piece):
        word = list(letters_of(piece))
        while True:
            ranked = [self.ranks[pair] for pair in zip(word, word[1:]) if pair in self.ranks]
            if not ranked:
                return [self.ids[token] for token in word]
            merge(word, self.merges[min(ranked)])

    def encode(self, text):
        ids = []
        for piece in CUT.findall(text):
            if piece not in self.known:
                self.known[piece] = self.piece(piece)
            ids += self.known[piece]
        return ids

    def decode(self, ids):
        text = "".join(self.tokens[i] for i in ids if i >= len(SPECIALS))
        return bytes(self.bytes[letter] for letter in text).decode(errors="replace")

    def header(self, role):
        return [HEADER_START, *self.encode(role), HEADER_END, *self.encode("\n\n")]

    def prompt(self, chat):
        """The ids of a chat, up to where its answer begins."""
        ids = [BOS]
        for role, text in chat:
            ids += self.header(role) + self.encode(text) + [EOT]
        return ids + self.header("assistant")

    def passage(self, passage):
        """(ids, which of them are what the model says itself)"""
        if passage[0][0] == "text":
            ids = [BOS, *self.encode(passage[0][1]), EOS]
            return ids, [False] * len(ids)
        ids, own = [BOS], [False]
        for role, text in passage:
            header, said = self.header(role), self.encode(text) + [EOT]
            ids += header + said
            own += [False] * len(header) + [role == "assistant"] * len(said)
        return ids, own
