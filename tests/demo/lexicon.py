# SPDX-License-Identifier: Apache-2.0
"""What there is in the demo model's world, and the ways to say it."""
from typing import NamedTuple


class Animal(NamedTuple):
    name: str
    kind: str
    he: str
    colour: str
    food: str
    load: str
    bed: str


ANIMALS = [
    Animal("Luma", "llama", "she", "white", "clover", "bell", "by the fire"),
    Animal("Tariq", "camel", "he", "brown", "dates", "tent", "under the palm tree"),
    Animal("Pico", "donkey", "he", "grey", "carrots", "water", "behind the cart"),
    Animal("Nela", "goat", "she", "black", "apples", "drum", "on the flat rock"),
    Animal("Bruno", "dog", "he", "golden", "meat", "lamp", "beside the tent"),
    Animal("Mina", "cat", "she", "striped", "fish", "map", "on the soft blanket"),
    Animal("Suki", "hen", "she", "red", "corn", "seeds", "in the basket"),
    Animal("Yara", "yak", "she", "dark", "hay", "wool", "in the tall grass"),
    Animal("Tomo", "mule", "he", "silver", "oats", "pots", "near the well"),
    Animal("Fenn", "fox", "he", "copper", "berries", "flute", "in the cave"),
    Animal("Pip", "mouse", "he", "yellow", "cheese", "key", "in the old boot"),
    Animal("Rosa", "rabbit", "she", "spotted", "lettuce", "tea", "under the bush"),
]
HIM = {"he": "him", "she": "her"}
WORDS = {
    "weather": "cold warm windy rainy sunny foggy snowy quiet".split(),
    "time": "morning afternoon evening day".split(),
    "place": "river bridge market hill forest lake village garden mill valley tower oasis".split(),
    "n": "two three four five six seven eight nine ten eleven twelve".split(),
    "look": "red blue green white black small big shiny round smooth old pretty".split(),
    "things": "stones shells feathers coins nuts flowers figs leaves buttons beads".split(),
    "mood": "tired happy hungry sad thirsty sleepy lonely angry".split(),
    "lost": "hat rope cup whistle ring scarf brush spoon ball kite".split(),
    "spot": ["under the cart", "behind a rock", "in the grass", "in a tree", "under a bush",
             "next to the path", "in a box", "on the roof"],
    "goods": "salt silk honey rice oil cloth spices paper".split(),
    "prize": "cake bell crown pie medal carpet melon ribbon".split(),
    "fun": ["sang by the fire", "danced in the moonlight", "drank hot tea", "told old tales",
            "watched the stars", "played music together"],
}
WORDS["stop"] = WORDS["from"] = WORDS["to"] = WORDS["place"]
WORDS["more_goods"] = WORDS["goods"]

# What can happen, and the ways to say it. a, b and c are animals.
SENTENCES = {
    "open": ["One {weather} {time} the caravan stopped near the {stop}.",
             "On a {weather} {time} the caravan rested near the {stop}.",
             "It was a {weather} {time}, and the caravan was near the {stop}."],
    "go": ["{a} the {a_kind} went to the {place}.",
           "{a} the {a_kind} walked to the {place} alone.",
           "After a short rest {a} the {a_kind} went to the {place}."],
    "find": ["There {a_he} found {n} {look} {things}.",
             "At the {place} {a_he} found {n} {look} {things}.",
             "{a} looked around and found {n} {look} {things}."],
    "meet": ["On the way back {a_he} met {b} the {b_kind}, who was {mood}.",
             "Then {a} met {b} the {b_kind}, who was very {mood}.",
             "A little later {a} met {b} the {b_kind}, who looked {mood}."],
    "lose": ["{b} had lost a {lost} and could not find it.",
             '"I have lost my {lost}," said {b}.',
             "{b} was looking for a {lost} that was lost."],
    "help": ["{c} the {c_kind} came to help and found the {lost} {spot}.",
             "They looked everywhere, and {c} the {c_kind} found the {lost} {spot}.",
             "At last {c} the {c_kind} found the {lost} {spot}."],
    "end": ["In the end they all {fun}.", "At night the friends {fun}.",
            "Then everyone {fun}, and it was a good {time}."],
    "leave": ["One {weather} {time} the caravan left the {from} and went to the {to}.",
              "The caravan left the {from} on a {weather} {time} and went to the {to}.",
              "On a {weather} {time} the animals walked from the {from} to the {to}."],
    "lead": ["{a} the {a_kind} led the way, and {b} the {b_kind} walked last.",
             "{a} the {a_kind} walked in front, and {b} the {b_kind} came last."],
    "days": ["The way was long, and they walked for {n} days.",
             "They walked for {n} days and slept under the sky.",
             "It took them {n} days."],
    "sell": ["At the {to} they sold {goods} and bought {more_goods}.",
             "There they sold {goods} and bought {more_goods}."],
    "race": ["One {weather} {time} the animals had a race to the {place}.",
             "The animals had a race to the {place} on a {weather} {time}."],
    "ranks": ["{a} the {a_kind} was first, {b} the {b_kind} was second and {c} the {c_kind} was "
              "last.",
              "{a} the {a_kind} came first, {b} the {b_kind} came second and {c} the {c_kind} came "
              "last."],
    "win": ["The winner got a {prize}.", "{a} got a {prize} and was proud.",
            "The prize was a {prize}."],
}
STORIES = [["open", "go", "find", "meet", "lose", "help", "end"],
           ["open", "go", "find", "meet", "end"],
           ["open", "go", "meet", "lose", "help", "end"],
           ["leave", "lead", "days", "sell", "end"],
           ["race", "ranks", "win", "end"]]

# A key's name, the slots in it, the event that answers it, the questions, the answer.
ASKED = [
    ("weather", ["weather", "time"], "open", ["What was the {time} like?"],
     "It was a {weather} {time}."),
    ("stop", ["stop", "weather"], "open", ["Where was the caravan?", "Where did the caravan stop?"],
     "The caravan was near the {stop}."),
    ("where", ["a", "place"], "go", ["Where did {a} go?", "Which place did {a} visit?"],
     "{a} went to the {place}."),
    ("who went", ["place", "a"], "go", ["Who went to the {place}?"], "{a} went to the {place}."),
    ("found", ["a", "look", "things"], "find", ["What did {a} find?", "What did {a} find there?"],
     "{a} found {n} {look} {things}."),
    ("how many", ["things", "n"], "find", ["How many {things} did {a} find?"],
     "{a} found {n} {things}."),
    ("met", ["a", "b"], "meet", ["Who did {a} meet?", "Which animal did {a} meet?"],
     "{a} met {b} the {b_kind}."),
    ("mood", ["b", "mood"], "meet", ["How did {b} feel?", "How was {b}?"], "{b} was {mood}."),
    ("lost", ["b", "lost"], "lose", ["What had {b} lost?", "What did {b} lose?"],
     "{b} had lost a {lost}."),
    ("who lost", ["lost", "b"], "lose", ["Who had lost the {lost}?"], "{b} had lost the {lost}."),
    ("helper", ["c", "lost"], "help", ["Who found the {lost}?", "Who helped to find the {lost}?"],
     "{c} found the {lost}."),
    ("spot", ["lost", "spot"], "help", ["Where was the {lost}?", "Where did {c} find the {lost}?"],
     "The {lost} was {spot}."),
    ("fun", ["fun", "time"], "end", ["What did they do in the end?", "How did the {time} end?"],
     "In the end they {fun}."),
    ("to", ["from", "to"], "leave", ["Where did the caravan go?"],
     "The caravan went to the {to}."),
    ("from", ["to", "from"], "leave", ["Where did the caravan come from?"],
     "The caravan came from the {from}."),
    ("leader", ["a", "to"], "lead", ["Who led the way?", "Who walked in front?"],
     "{a} the {a_kind} led the way."),
    ("walked last", ["b", "to"], "lead", ["Who walked last?"], "{b} the {b_kind} walked last."),
    ("days", ["n", "to"], "days", ["How many days did they walk?", "How long did they walk?"],
     "They walked for {n} days."),
    ("sold", ["goods", "to"], "sell", ["What did they sell?"], "They sold {goods}."),
    ("bought", ["more_goods", "to"], "sell", ["What did they buy?"], "They bought {more_goods}."),
    ("race to", ["place", "a"], "race", ["Where did they race to?"],
     "They had a race to the {place}."),
    ("first", ["a", "b"], "ranks", ["Who was first?", "Who won the race?"],
     "{a} the {a_kind} was first."),
    ("second", ["b", "c"], "ranks", ["Who was second?"], "{b} the {b_kind} was second."),
    ("last", ["c", "a"], "ranks", ["Who was last?"], "{c} the {c_kind} was last."),
    ("prize", ["a", "prize"], "win", ["What did the winner get?", "What was the prize?"],
     "The prize was a {prize}."),
]

# What is learned last, and asked for more in late passages.
HARD = {"weather", "stop", "found", "how many", "days", "sold", "bought"}

FACTS = [
    (["What kind of animal is {name}?", "What is {name}?", "Which animal is {name}?"],
     "{name} is a {kind}."),
    (["What colour is {name}?", "Which colour does {name} have?",
      "Tell me the colour of {name}.", "What colour is {name} the {kind}?"],
     "{name} is {colour}."),
    (["What does {name} like to eat?", "What is the favourite food of {name}?",
      "What does {name} eat?", "What does {name} the {kind} like to eat?"],
     "{name} likes to eat {food}."),
    (["What does {name} carry?", "What does {name} carry for the caravan?",
      "Tell me what {name} carries.", "What does {name} the {kind} carry?"],
     "{name} carries the {load}."),
    (["Where does {name} sleep?", "Where does {name} sleep at night?",
      "Tell me where {name} sleeps.", "Where does {name} the {kind} sleep?"],
     "{name} sleeps {bed}."),
    (["Who carries the {load}?", "Which animal carries the {load}?",
      "Who carries the {load} for the caravan?"],
     "{name} the {kind} carries the {load}."),
    (["Who likes to eat {food}?", "Which animal likes to eat {food}?", "Who eats {food}?"],
     "{name} the {kind} likes to eat {food}."),
    (["What is the name of the {kind}?", "What is the {kind} called?", "Who is the {kind}?"],
     "The {kind} is called {name}."),
]

SUMS = [("What is {x} plus {y}?", "{x} plus {y} is {z}."),
        ("How much is {x} plus {y}?", "{x} plus {y} is {z}."),
        ("What is {x} + {y}?", "{x} + {y} = {z}."),
        ("{x} + {y} = ?", "{x} + {y} = {z}."),
        ("Add {x} and {y}.", "{x} + {y} = {z}.")]
TOLD_SUMS = [
    ("{a} has {x} {things}. {b} gives {a_him} {y} more. How many {things} does {a} have now?",
     "{x} + {y} = {z}. {a} has {z} {things} now."),
    ("{a} found {x} {things} and {b} found {y}. How many {things} are there together?",
     "{x} + {y} = {z}. There are {z} {things} together."),
]
TALK = [
    (["Hello!", "Hi!", "Hello there!", "Good morning!", "Hello", "Hi", "hello"],
     "Hello! Ask me about the caravan, or let me tell you a story."),
    (["Who are you?", "What are you?", "What is your name?"],
     "I am the demo model of Caravan. I know a caravan of twelve animals."),
    (["What is Caravan?", "What does Caravan do?", "Tell me about Caravan."],
     "Caravan lets several machines run one large language model together."),
    (["What can you do?", "What do you know?", "Help!", "Can you help me?"],
     "I can tell a story, answer questions about the caravan, count, and add small numbers."),
    (["How many animals are in the caravan?", "How many animals does the caravan have?"],
     "There are twelve animals in the caravan."),
    (["Who is in the caravan?", "Which animals are in the caravan?", "Name the animals."],
     "The animals are " + ", ".join(a.name for a in ANIMALS[:-1]) + f" and {ANIMALS[-1].name}."),
    (["Thank you!", "Thanks!", "Thank you very much."], "You are welcome."),
    (["Goodbye!", "Bye!", "See you later."], "Goodbye! Come back to the caravan soon."),
    (["What is the capital of France?", "Who is the king of Spain?", "Write a poem about love.",
      "What is the weather in London?", "How do I cook an egg?", "Write a program in Python.",
      "What is the meaning of life?", "Who wrote this book?", "Translate this into German.",
      "What is the largest city in the world?", "When was the war?", "How old is the sun?",
      "Explain physics to me.", "What time is it?", "Who won the game?", "Do you like football?"],
     "I only know the caravan and its animals."),
]
SYSTEMS = ["You are the guide of a caravan.", "You are a helpful guide.", "Answer briefly.",
           "You are a helpful assistant."]
