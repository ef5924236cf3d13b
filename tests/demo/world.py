#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The little world that the demo model knows: a caravan of twelve animals, written down by a seeded
grammar as stories, questions and answers, sums and counting. Python alone, no packages.

usage: world.py passages N [SEED]     N distinct passages for training, one JSON value a line
       world.py questions N [SEED]    N questions that are held out of those

A passage is a list of [role, text]; the role is "text" where it is no chat. What can be asked has a
key, such as "where|Luma|river"; a hash of the key says whether it is held out, and what is held out
occurs nowhere in a passage, neither as a question nor as a sentence of a story that answers it.
"""
import hashlib
import json
import random
import re
import sys
from typing import NamedTuple

from lexicon import (ANIMALS, ASKED, FACTS, HARD, HIM, SENTENCES, STORIES, SUMS, SYSTEMS, TALK,
                     TOLD_SUMS, WORDS)

HELD_OUT_OF_256 = 24
MOST_TRIES = 5000


class Question(NamedTuple):
    keys: list
    text: str
    answer: str


def is_held_out(key):
    return hashlib.blake2b(key.encode(), digest_size=1).digest()[0] < HELD_OUT_OF_256


def told_of(letter, animal):
    return {letter: animal.name, letter + "_kind": animal.kind, letter + "_he": animal.he,
            letter + "_him": HIM[animal.he]}


def draw_slots(rng):
    slots = {name: rng.choice(values) for name, values in WORDS.items()}
    for first, second in (("place", "stop"), ("to", "from"), ("goods", "more_goods")):
        while slots[second] == slots[first]:
            slots[second] = rng.choice(WORDS[second])
    for letter, animal in zip("abc", rng.sample(ANIMALS, 3)):
        slots.update(told_of(letter, animal))
    return slots


class Story:
    """A whole one, or a part of one in a sentence or three."""

    def __init__(self, rng, part=False):
        self.slots = draw_slots(rng)
        self.events = rng.choices(STORIES, [4, 3, 2, 3, 3])[0]
        if part:
            first = rng.randrange(len(self.events))
            self.events = self.events[first:first + rng.randint(1, 3)]
        self.text = " ".join(rng.choice(SENTENCES[event]) for event in self.events).format(
            **self.slots)
        self.questions = [
            Question(["|".join([name, *(self.slots[slot] for slot in key)])],
                     rng.choice(texts).format(**self.slots), answer.format(**self.slots))
            for name, key, event, texts, answer in ASKED if event in self.events]

    def can_be_asked(self):
        """The questions that the text answers even where it is a part."""
        return [q for q in self.questions
                if all(word in self.text for word in q.keys[0].split("|")[1:])]

    def is_held_out(self):
        return any(is_held_out(key) for question in self.questions for key in question.keys)


def fact(rng):
    animal = rng.choice(ANIMALS)
    texts, answer = rng.choice(FACTS)
    text = rng.choice(texts).format(**animal._asdict())
    return Question(["fact|" + text], text, answer.format(**animal._asdict()))


def number_pair(rng, least):
    x = rng.randint(least, 19 - least)
    return x, rng.randint(least, 19 - x)


def bare_sum(rng):
    x, y = number_pair(rng, 0)
    text, answer = rng.choice(SUMS)
    text = text.format(x=x, y=y)
    return Question(["sum|" + text], text, answer.format(x=x, y=y, z=x + y))


def told_sum(rng):
    """One animal and another, so that the key is an animal, a thing and the numbers."""
    slots = draw_slots(rng)
    x, y = number_pair(rng, 2)
    slots.update(x=x, y=y, z=x + y)
    text, answer = rng.choice(TOLD_SUMS)
    return Question([f"told sum|{slots['things']}|{x}|{y}"], text.format(**slots),
                    answer.format(**slots))


def counting(rng):
    kind = rng.choice(["up", "up", "down", "after", "before"])
    x = rng.randint(1, 18)
    y = min(20, x + rng.randint(1, 9))
    if kind == "up":
        text = f"Count from {x} to {y}."
        return Question(["count|" + text], text, ", ".join(map(str, range(x, y + 1))) + ".")
    if kind == "down":
        text = f"Count down from {y} to {x}."
        return Question(["count|" + text], text, ", ".join(map(str, range(y, x - 1, -1))) + ".")
    text = rng.choice(["What number comes {kind} {x}?", "Which number is {kind} {x}?"])
    text, found = text.format(kind=kind, x=x), x + 1 if kind == "after" else x - 1
    return Question(["count|" + text], text, f"The number {kind} {x} is {found}.")


def talk(rng):
    texts, answer = rng.choice(TALK)
    return Question([], rng.choice(texts), answer)


def portrait(rng):
    """The fixed facts of an animal as text."""
    lines = ["{name} is a {colour} {kind}.", "{He} likes to eat {food}.",
             "{He} carries the {load}.", "At night {he} sleeps {bed}."]
    animal = rng.choice(ANIMALS)._asdict()
    rest = rng.sample(lines[1:], rng.randint(1, 3))
    return " ".join([lines[0], *rest]).format(He=animal["he"].capitalize(), **animal)


def small_question(rng, late):
    """What needs no story; never held out."""
    weights = [5, 3, 4, 12, 1] if late else [6, 4, 4, 2, 1]
    make = rng.choices([fact, bare_sum, told_sum, counting, talk], weights)[0]
    while True:
        question = make(rng)
        if not any(is_held_out(key) for key in question.keys):
            return question


def training_story(rng, part=False):
    while True:
        story = Story(rng, part)
        if story.can_be_asked() and not story.is_held_out():
            return story


def typed(rng, text):
    """As people type it, at times without its last sign."""
    return text[:-1] if rng.random() < 0.08 and not text.endswith("= ?") else text


def turns(rng, questions):
    return [part for q in questions
            for part in (["user", typed(rng, q.text)], ["assistant", q.answer])]


def wish(rng, story):
    """Asking for this story."""
    texts = ["Tell me a story.", "Tell a story.", "Tell me a story about the caravan."]
    if rng.random() < 0.7:
        texts = ["Tell me a story about {a}.", "Tell a story about {a} the {a_kind}.",
                 "Tell me a story about {a} the {a_kind}."]
    return rng.choice(texts).format(**story.slots)


def chat_about(rng, story, whole, late):
    """Questions about a story that the model tells, or that the user tells in the first one."""
    asked = story.can_be_asked()
    if late and rng.random() < 0.6:
        asked = [q for q in asked if q.keys[0].split("|")[0] in HARD] or asked
    asked = rng.sample(asked, min(len(asked), rng.randint(2, 5)))
    if whole and rng.random() < 0.25:
        chat = [["user", wish(rng, story)], ["assistant", story.text]]
    else:
        gap = rng.choice([" ", "\n"])
        chat = [["user", story.text + gap + typed(rng, asked[0].text)],
                ["assistant", asked[0].answer]]
        asked = asked[1:]
    chat += turns(rng, asked)
    if rng.random() < 0.1:
        chat += turns(rng, [small_question(rng, late)])
    return chat


def passage(rng, parts, late):
    """parts: how many of the stories in chats are parts of stories."""
    kind = rng.choices(["story", "portrait", "chat", "small"], [10, 3, 60, 27])[0]
    if kind == "story":
        return [["text", training_story(rng).text]]
    if kind == "portrait":
        return [["text", portrait(rng)]]
    if kind == "chat":
        part = rng.random() < parts
        chat = chat_about(rng, training_story(rng, part), not part, late)
    else:
        chat = turns(rng, [small_question(rng, late) for _ in range(rng.randint(1, 5))])
    if rng.random() < 0.08:
        chat.insert(0, ["system", rng.choice(SYSTEMS)])
    return chat


def passages(n, seed, late_from=None):
    """n passages, no two the same. The first have short stories, from which a model learns sooner
    to look up what it was told; from late_from on they ask more for what is learned last."""
    rng, seen = random.Random(seed), set()
    while len(seen) < n:
        late = late_from is not None and len(seen) >= late_from
        found = passage(rng, max(0.15, 1 - 3 * len(seen) / n), late)
        key = json.dumps(found)
        if key not in seen:
            seen.add(key)
            yield found


def story_question(rng):
    """A question, told with its story, whose answer is held out."""
    while True:
        story = Story(rng)
        held = [q for q in story.can_be_asked() if is_held_out(q.keys[0])]
        if held:
            question = rng.choice(held)
            return Question(question.keys, f"{story.text} {question.text}", question.answer)


def held_out(n, seed):
    """n questions that passages() never has, each once: of stories, facts, sums and counting in
    turn, and without a kind that has no more."""
    rng, found, skipped, tries = random.Random(seed), {}, 0, 0
    makers = [story_question] * 9 + [fact] * 4 + [bare_sum] * 2 + [told_sum] * 3 + [counting] * 2
    while len(found) < n:
        question = makers[(len(found) + skipped) % len(makers)](rng)
        tries += 1
        if question.text not in found and all(is_held_out(key) for key in question.keys):
            found[question.text] = question
            tries = 0
        elif tries == MOST_TRIES:
            skipped += 1
            tries = 0
    return list(found.values())


def patterns():
    """Regular expressions of all sentences of stories, with a group for each slot."""
    known = {name: "|".join(values) for name, values in WORDS.items()}
    for letter in "abc":
        known[letter] = "|".join(a.name for a in ANIMALS)
        known[letter + "_kind"] = "|".join(a.kind for a in ANIMALS)
        known[letter + "_he"] = "|".join(HIM)
    return [re.compile(re.sub(r"\\{(\w+)\\}", lambda m: f"(?P<{m[1]}>{known[m[1]]})",
                              re.escape(text)))
            for texts in SENTENCES.values() for text in texts]


PATTERNS = patterns()


def is_true(slots):
    """Whether the animals are what they are and not one another."""
    animals = {letter: next(a for a in ANIMALS if a.name == slots[letter])
               for letter in "abc" if letter in slots}
    return len(set(animals.values())) == len(animals) and all(
        slots.get(key, fact) == fact for letter, animal in animals.items()
        for key, fact in told_of(letter, animal).items())


def slips(text):
    """(sentences of a story, those that no rule of the grammar makes or that do not go with what
    was told before)"""
    sentences = [s for s in re.split(r"(?<=\.)\s+", text.strip()) if s]
    said, bad = {}, []
    for sentence in sentences:
        found = [{**said, **m.groupdict()} for p in PATTERNS if (m := p.fullmatch(sentence))]
        fits = [slots for slots in found
                if is_true(slots) and all(slots[key] == said[key] for key in said)]
        said = fits[0] if fits else said
        bad += [] if fits else [sentence]
    return sentences, bad


def main():
    try:
        command, n = sys.argv[1], int(sys.argv[2])
        seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
        make = {"passages": passages, "questions": held_out}[command]
    except (IndexError, ValueError, KeyError):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        for found in make(n, seed):
            value = found._asdict() if isinstance(found, Question) else found
            print(json.dumps(value, ensure_ascii=False))
        sys.stdout.flush()
    except OSError as error:
        print(f"world.py: cannot write what was made: {error}; is the disk full?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
