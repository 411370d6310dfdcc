#!/usr/bin/env python3
"""Draws some questions of a SQuAD file, with their contexts, into a smaller file.

    scripts/bench/squad_part.py train-v1.1.json part.json --questions 3000 --longest 430
"""

import argparse
import json
import pathlib
import random


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--questions", type=int, required=True, metavar="N")
    parser.add_argument("--longest", type=int, metavar="CHARACTERS", help="only contexts of at most so many characters")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = json.loads(arguments.source.read_text(encoding="utf-8"))
    places = [(article, number, question)
              for article, content in enumerate(data["data"])
              for number, paragraph in enumerate(content["paragraphs"])
              if arguments.longest is None or len(paragraph["context"]) <= arguments.longest
              for question in range(len(paragraph["qas"]))]
    random.Random(arguments.seed).shuffle(places)
    paragraphs = {}
    for article, number, question in sorted(places[:arguments.questions]):
        paragraph = data["data"][article]["paragraphs"][number]
        kept = paragraphs.setdefault((article, number), {"context": paragraph["context"], "qas": []})
        kept["qas"].append(paragraph["qas"][question])
    part = {"version": data.get("version", ""), "data": [{"title": "part", "paragraphs": list(paragraphs.values())}]}
    arguments.target.write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
