#!/usr/bin/env python3
"""Writes questions.json: questions about contexts that are not ASCII, in the JSON of SQuAD v2.0.

    python tests/golden/make_questions.py
"""

import json
from pathlib import Path

CONTEXTS = [
    ("Zürich liegt an der Limmat. Die größte Stadt der Schweiz heißt auf Französisch « Zurich », auf Italienisch "
     "Zurigo. Über 400 000 Menschen wohnen dort – naïve Schätzungen sagen ½ Million.",
     [("Welche Stadt ist die größte?", "Zürich"), ("Wie heißt sie auf Italienisch?", "Zurigo"),
      ("   What do naïve estimates say?", "½ Million"), ("Wer wohnt in Genf?", None)]),
    ("東京は日本の首都です。人口は約1400万人。Emoji: 👩‍🔬 and 🇨🇭 stand beside e\u0301 and \u1e9b\u0323 (combining). "
     "The price is 5\u202f€.",
     [("日本の首都は?", "東京"), ("How many people?", "1400万人"), ("Which emoji?", "👩‍🔬"), ("Price?", "5\u202f€"),
      ("What is combined?", "e\u0301")]),
    ("Ќирил напиша: «Здраво, свету!» İstanbul'da ﬁne ﬂags – 𝔘𝔫𝔦𝔠𝔬𝔡𝔢.",
     [("Што напиша?", "Здраво, свету!"), ("Which flags?", "ﬁne ﬂags"), ("Last word?", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢")]),
]


def main() -> None:
    paragraphs = []
    for number, (context, questions) in enumerate(CONTEXTS):
        qas = []
        for place, (question, answer) in enumerate(questions):
            answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
            entry = {"id": f"{number}-{place}", "question": question, "answers": answers, "is_impossible": answer is None}
            qas.append(entry)
        paragraphs.append({"context": context, "qas": qas})
    data = {"version": "v2.0", "data": [{"title": "beyond ASCII", "paragraphs": paragraphs}]}
    path = Path(__file__).resolve().parent / "questions.json"
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
