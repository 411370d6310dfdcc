#!/usr/bin/env python3
"""Makes the sample data set of the quick start: English sentences in which the verb agrees with its subject (label 1)
or does not (label 0). Other nouns stand between the two, so the nearest noun is a bad guide.

    python examples/data/make_agreement.py     writes agreement_train.tsv and agreement_dev.tsv beside this script

The same files come out every time. No sentence of one file is in the other, not even with the other label.
"""

import pathlib
import random

TRAIN_ROWS, DEV_ROWS, SEED = 4000, 500, 20

PEOPLE = """author guest teacher farmer doctor lawyer neighbour pilot singer painter student banker baker clerk dancer driver
editor guard hunter judge miner nurse officer poet queen sailor servant soldier tailor visitor waiter writer
man woman child wife lady""".split()
THINGS = """book box bridge car chair cup door engine garden hat house key lamp letter map mirror picture plate poem road
ship shirt song stone story table ticket tower tree wall window basket knife shelf""".split()
IRREGULAR = {"box": "boxes", "story": "stories", "man": "men", "woman": "women", "child": "children", "knife": "knives",
             "wife": "wives", "shelf": "shelves", "lady": "ladies"}

# Verbs with a singular and with a plural subject.
BE, PAST, HAVE = ("is", "are"), ("was", "were"), ("has", "have")
TRANSITIVE = """admires avoids blames follows greets helps hates ignores knows likes meets pays praises trusts visits
remembers""".split()
ALONE = "sleeps laughs waits sings runs complains travels works walks smiles listens leaves".split()
OF_THINGS = "falls breaks shines remains matters helps disappears moves shakes".split()

MANNER = ["often", "again", "every day", "at night", "too much", "before lunch", "all the time", "very slowly", "after dark"]
PERSONAL = "happy tired famous angry late ready young honest clever rich".split()
MATERIAL = "old new broken clean dirty heavy red cheap lost empty".split()
PARTICIPLES = ["been sold", "been painted", "been moved", "been forgotten", "been stolen", "been found"]
DEEDS = ["arrived", "gone home", "been ill", "been sleeping", "lost the game", "changed a lot"]
PLACES = ["near", "behind", "beside", "under", "above", "next to", "in front of"]
COMPANY = ["with", "near", "behind", "next to", "in front of", "opposite"]


def plural(noun):
    return IRREGULAR.get(noun, noun + "s")


def present(verb):
    """Both forms of the present tense, from the third person singular."""
    return verb, verb[:-1]


class Writer:
    """Draws sentences. Every construction returns a sentence with a gap, the two verbs that could fill it (singular, plural),
    and the number of its subject (0 singular, 1 plural)."""

    def __init__(self, source):
        self.source = source

    def choose(self, values):
        return self.source.choice(values)

    def kind(self):
        return self.choose(["people", "things"])

    def number(self):
        return self.source.randrange(2)

    def noun(self, kind, number):
        noun = self.choose(PEOPLE if kind == "people" else THINGS)
        return plural(noun) if number else noun

    def adjective(self, kind):
        return self.choose(PERSONAL if kind == "people" else MATERIAL)

    def phrase(self, kind, number):
        adjective = self.adjective(kind) + " " if self.source.random() < 0.2 else ""
        return f"the {adjective}{self.noun(kind, number)}"

    def modifier(self, kind):
        """A place or a company, with a noun of its own that has nothing to do with the verb."""
        if kind == "people":
            return f"{self.choose(COMPANY)} {self.phrase(self.kind(), self.number())}"
        return f"{self.choose(PLACES)} {self.phrase('things', self.number())}"

    def predicate(self, kind):
        """What the subject is or does: (verbs, rest of the sentence)."""
        style = self.source.randrange(4)
        if style == 0:
            return self.choose([BE, PAST]), self.adjective(kind)
        if style == 1:
            return HAVE, self.choose(DEEDS if kind == "people" else PARTICIPLES)
        if style == 2 and kind == "people":
            return present(self.choose(TRANSITIVE)), self.phrase("people", self.number())
        return present(self.choose(ALONE if kind == "people" else OF_THINGS)), self.choose(MANNER)

    def modified(self, modifiers):
        """the key near the cabinets ___ lost"""
        kind, number = self.kind(), self.number()
        subject = " ".join([self.phrase(kind, number)] + [self.modifier(kind) for _ in range(modifiers)])
        verbs, rest = self.predicate(kind)
        return f"{subject} {{}} {rest}", verbs, number

    def who_clause(self):
        """the girl who knows the men ___ tired; the gap is one of the two verbs"""
        number = self.number()
        inner = present(self.choose(TRANSITIVE))
        verbs, rest = self.predicate("people")
        start, other = f"{self.phrase('people', number)} who", self.phrase("people", self.number())
        if self.source.random() < 0.25:
            return f"{start} {{}} {other} {verbs[number]} {rest}", inner, number
        return f"{start} {inner[number]} {other} {{}} {rest}", verbs, number

    def that_clause(self):
        """the girl that the men know ___ tired; the gap is one of the two verbs"""
        number, other_number = self.number(), self.number()
        inner = present(self.choose(TRANSITIVE))
        verbs, rest = self.predicate("people")
        start = f"{self.phrase('people', number)} that {self.phrase('people', other_number)}"
        if self.source.random() < 0.25:
            return f"{start} {{}} {verbs[number]} {rest}", inner, other_number
        return f"{start} {inner[other_number]} {{}} {rest}", verbs, number

    def inverted(self):
        """behind the houses ___ the tower"""
        number = self.number()
        verbs = self.choose([BE, PAST, present("stands"), present("lies")])
        return f"{self.modifier('things')} {{}} {self.phrase('things', number)}", verbs, number

    def question(self):
        """___ the tower behind the houses old"""
        number, kind = self.number(), self.kind()
        verbs = self.choose([BE, PAST])
        return f"{{}} {self.phrase(kind, number)} {self.modifier(kind)} {self.adjective(kind)}", verbs, number

    def quantified(self):
        """one of the keys ___ lost; both of the keys ___ lost"""
        kind, number = self.kind(), self.number()
        verbs, rest = self.predicate(kind)
        quantifier = self.choose([["one", "each", "every one"], ["both", "many", "several", "two"]][number])
        return f"{quantifier} of {self.phrase(kind, 1)} {{}} {rest}", verbs, number

    def sentence(self):
        construction = self.choose(CONSTRUCTIONS)
        sentence, verbs, number = construction(self)
        mark = "?" if construction is Writer.question else "."
        right, wrong = (sentence.format(verbs[n]) + mark for n in (number, 1 - number))
        return right[0].upper() + right[1:], wrong[0].upper() + wrong[1:]


CONSTRUCTIONS = [
    lambda writer: writer.modified(0),
    lambda writer: writer.modified(1),
    lambda writer: writer.modified(1),
    lambda writer: writer.modified(2),
    Writer.who_clause,
    Writer.that_clause,
    Writer.inverted,
    Writer.question,
    Writer.quantified,
]


def make(rows, writer, seen):
    """`rows` different sentences, half of them right; `seen` holds the right versions that are taken."""
    lines = []
    while len(lines) < rows:
        right, wrong = writer.sentence()
        if right in seen:
            continue
        seen.add(right)
        label = len(lines) % 2
        lines.append(f"{right if label else wrong}\t{label}")
    writer.source.shuffle(lines)
    return lines


def main():
    writer, seen = Writer(random.Random(SEED)), set()
    folder = pathlib.Path(__file__).parent
    for name, rows in (("agreement_train.tsv", TRAIN_ROWS), ("agreement_dev.tsv", DEV_ROWS)):
        lines = ["sentence\tlabel"] + make(rows, writer, seen)
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        print(f"{folder / name}: {rows} rows")


if __name__ == "__main__":
    main()
