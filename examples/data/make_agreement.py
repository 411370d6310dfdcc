#!/usr/bin/env python3
"""Makes the sample data set of the quick start: English sentences in which the verb agrees with its subject (label 1)
or does not (label 0). In a good part of them another noun stands between the two, so the nearest noun is a bad guide.

    python examples/data/make_agreement.py     writes agreement_train.tsv and agreement_dev.tsv beside this script

The same files come out every time. No sentence of one file is in the other, not even with the other label.
"""

import pathlib
import random

TRAIN_ROWS, DEV_ROWS, SEED = 4000, 500, 20

PEOPLE = """author teacher doctor neighbour singer student baker dancer editor hunter miner officer queen servant
tailor waiter man child lady""".split()
THINGS = "book bridge chair door garden house lamp map picture poem ship song story ticket tree window knife".split()
IRREGULAR = {"story": "stories", "man": "men", "child": "children", "knife": "knives", "lady": "ladies"}

# Verbs with a singular and with a plural subject.
BE, PAST, HAVE = ("is", "are"), ("was", "were"), ("has", "have")
TRANSITIVE = "admires follows hates likes praises remembers".split()
ALONE = "sleeps waits runs travels walks listens".split()
OF_THINGS = "falls shines matters disappears shakes".split()

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

    def plain(self):
        """the key ___ lost"""
        kind, number = self.kind(), self.number()
        verbs, rest = self.predicate(kind)
        return f"{self.phrase(kind, number)} {{}} {rest}", verbs, number

    def with_modifier(self):
        """the key near the cabinets ___ lost"""
        kind, number = self.kind(), self.number()
        verbs, rest = self.predicate(kind)
        return f"{self.phrase(kind, number)} {self.modifier(kind)} {{}} {rest}", verbs, number

    def quantified(self):
        """one of the keys ___ lost; both of the keys ___ lost"""
        kind, number = self.kind(), self.number()
        verbs, rest = self.predicate(kind)
        quantifier = self.choose([["one", "each", "every one"], ["both", "many", "several", "two"]][number])
        return f"{quantifier} of {self.phrase(kind, 1)} {{}} {rest}", verbs, number

    def sentence(self):
        """The right and the wrong version of one sentence."""
        sentence, verbs, number = self.choose(CONSTRUCTIONS)(self)
        right, wrong = (sentence.format(verbs[n]) + "." for n in (number, 1 - number))
        return right[0].upper() + right[1:], wrong[0].upper() + wrong[1:]


# Mostly plain sentences, from which agreement can be learned; in the others another noun stands before the verb.
CONSTRUCTIONS = 5 * [Writer.plain] + 3 * [Writer.with_modifier] + [Writer.quantified]


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
