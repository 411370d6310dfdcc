"""Tiny tokenizers of many classes and settings, with the tokens that AutoTokenizer makes: tokenizer_matrix.py OUT

Writes OUT/NAME/ for every case (tokenizer.json and the files beside it) and OUT/NAME/expected.json: a list of objects with
text, pair (or null), max_length, input_ids, token_type_ids (or null), attention_mask; or {"fails": why} where AutoTokenizer
cannot load the folder.
"""

import json
import pathlib
import shutil
import sys
import warnings

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

warnings.filterwarnings("ignore")
OUT = pathlib.Path(sys.argv[1])

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéüñ0123456789.,!?'\"-<>[]|_中国日本"
WORDS = ["the", "The", "cat", "cafe", "café", "dog", "ing", "ran", "rán", "NASA", "a", "I"]

TEXTS = [
    ("The cat ran", None), ("the café NASA", None), ("THE CAFÉ", None), (" leading and  double spaces ", None),
    ("中国 the日本cat", None), ("", None), ("   ", None), ("a", None), ("don't stop, don't!", None), ("tab\there\nnew\r\nline", None),
    ("[CLS] the [SEP] <s> cat </s> <new> x", None), ("<mask> cat [MASK] dog", None), ("caf\u0065\u0301 \ufb01ne Ⅳ ``quoted'' text", None),
    ("the cat ran and the dog ran " * 8, None), ("unknown \u2603 snowman \U0001f600", None), ("<|endoftext|> the <unk> [UNK]", None),
    ("The cat", "the dog ran"), ("the cat ran " * 6, "a dog"), ("a", "The Café ran and the cat ran " * 5), ("中国", " cat"),
]
LENGTHS = [64, 9]
# Longer than what gelora tokenizes in one piece. Of pairs of long texts the library keeps all combinations of what it cuts off.
DIVIDED = ["BertTokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "XLMRobertaTokenizer", "DebertaV2Tokenizer"]
LONG_TEXTS = [
    ("the cat, ran and don't <s> NASA café " * 1800, None),
]


def word_piece():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<pad>", "<s>", "</s>", "<mask>", "<unk>", "<sep>", "<cls>"]
    pieces += list(LETTERS) + ["##" + letter for letter in LETTERS] + WORDS[1:] + ["the", "##ing"]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def byte_bpe(specials):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("r", "a"), ("ra", "n"), ("Ġ", "ran"), ("d", "o")]
    pieces = specials + alphabet + ["".join(merge) for merge in merges]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, merges


def piece_bpe(specials):
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("c", "a"), ("ca", "t"), ("▁", "cat"), ("r", "a"), ("ra", "n"), ("▁", "ran")]
    pieces = specials + [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *LETTERS] + ["".join(merge) for merge in merges]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, merges


def unigram(specials):
    pieces = [(special, 0.0) for special in specials]
    pieces += [("▁", -3.0)] + [(letter, -6.0 - index / 100) for index, letter in enumerate(LETTERS)]
    pieces += [("▁" + word, -4.0 - index / 10) for index, word in enumerate(WORDS)] + [(word, -5.0 - index / 10) for index, word in enumerate(WORDS)]
    return list(dict(pieces).items())


ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
ALBERT = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
CLASSES = {
    "BertTokenizer": ("bert", word_piece),
    "DistilBertTokenizer": ("distilbert", word_piece),
    "ConvBertTokenizer": ("convbert", word_piece),
    "MPNetTokenizer": ("mpnet", word_piece),
    "FunnelTokenizer": ("funnel", word_piece),
    "RobertaTokenizer": ("roberta", lambda: byte_bpe(ROBERTA)),
    "GPT2Tokenizer": ("gpt2", lambda: byte_bpe(["<|endoftext|>"])),
    "CodeGenTokenizer": ("codegen", lambda: byte_bpe(["<|endoftext|>"])),
    "GPTNeoXTokenizer": ("gpt_neox", lambda: byte_bpe(["<|endoftext|>", "<|padding|>"])),
    "DebertaTokenizer": ("deberta", lambda: byte_bpe(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])),
    "Qwen2Tokenizer": ("qwen3", lambda: byte_bpe(["<|endoftext|>"])),
    "Qwen3_5Tokenizer": ("qwen3_5", lambda: byte_bpe(["<|endoftext|>"])),
    "LlamaTokenizer": ("llama", lambda: piece_bpe(["<unk>", "<s>", "</s>"])),
    "GemmaTokenizer": ("gemma", lambda: piece_bpe(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])),
    "XLMRobertaTokenizer": ("xlm-roberta", lambda: unigram(["<s>", "<pad>", "</s>", "<unk>"])),
    "AlbertTokenizer": ("albert", lambda: unigram(ALBERT)),
    "FNetTokenizer": ("fnet", lambda: unigram(ALBERT)),
    "DebertaV2Tokenizer": ("deberta-v2", lambda: unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"])),
    "T5Tokenizer": ("t5", lambda: unigram(["<pad>", "</s>", "<unk>"])),
    "XLNetTokenizer": ("xlnet", lambda: unigram(["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"])),
    "CamembertTokenizer": ("camembert", lambda: unigram(["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"])),
    "BigBirdTokenizer": ("big_bird", lambda: unigram(["<unk>", "<s>", "</s>", "<pad>", "[SEP]", "[MASK]", "[CLS]"])),
    "RemBertTokenizer": ("rembert", lambda: unigram(["<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])),
    "BarthezTokenizer": ("barthez", lambda: unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])),
}

SETTINGS = {
    "plain": {},
    "cased": {"do_lower_case": False},
    "lower": {"do_lower_case": True},
    "lower-with-accents": {"do_lower_case": True, "strip_accents": False, "keep_accents": True},
    "cased-without-accents": {"do_lower_case": False, "strip_accents": True, "keep_accents": False},
    "chinese-words": {"tokenize_chinese_chars": False},
    "prefix": {"add_prefix_space": True},
    "no-prefix": {"add_prefix_space": False},
    "bos-eos": {"add_bos_token": True, "add_eos_token": True},
    "no-bos": {"add_bos_token": False, "add_eos_token": False},
    "left": {"padding_side": "left", "truncation_side": "left"},
    "short": {"model_max_length": 8},
    "type-ids": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    "no-type-ids": {"model_input_names": ["input_ids", "attention_mask"]},
    "other-cls": {"cls_token": "<new>", "sep_token": "[X]", "bos_token": "<new>", "eos_token": "[X]"},
    "other-mask": {"mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": True, "rstrip": True, "normalized": False, "single_word": False, "special": True}},
    "additional": {"additional_special_tokens": ["<new>", "dog"]},
    "extra": {"extra_special_tokens": ["<new>"]},
    "extra-named": {"extra_special_tokens": {"image_token": "<new>"}},
    "split-special": {"split_special_tokens": True},
    "legacy": {"legacy": True},
    "punctuation": {"split_by_punct": True},
    "few-extra-ids": {"extra_ids": 3},
    "new-pad": {"pad_token": "<new>"},
    "nulls": {"strip_accents": None, "add_prefix_space": None, "pad_token": None},
    "decoder": {"added_tokens_decoder": {"300": {"content": "cat", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False, "special": False},
                                         "301": {"content": "[SEP]", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}}},
}


def case(name, files, tokenizer_json, texts=TEXTS):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tokenizer_json)
    for file, content in files.items():
        if content is not None:
            (folder / file).write_text(json.dumps(content))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = []
        for length in LENGTHS:
            for text, pair in texts if texts is TEXTS or length == LENGTHS[0] else []:
                made = tokenizer(text, pair, truncation=True, max_length=length)
                rows.append({"text": text, "pair": pair, "max_length": length, "input_ids": made["input_ids"],
                             "token_type_ids": made.get("token_type_ids"), "attention_mask": made.get("attention_mask")})
        result = {"class": type(tokenizer).__name__, "pad": tokenizer.pad_token_id, "rows": rows}
    except Exception as error:
        result = {"fails": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    (folder / "expected.json").write_text(json.dumps(result))


def main():
    for name, (model_type, make) in CLASSES.items():
        made = make()
        parts = {"vocab": made[0], "merges": made[1]} if isinstance(made, tuple) else {"vocab": made}
        base = getattr(transformers, name)(**parts)
        source = OUT / "source"
        shutil.rmtree(source, ignore_errors=True)
        base.save_pretrained(source)
        written = (source / "tokenizer.json").read_text()
        saved = json.loads((source / "tokenizer_config.json").read_text())
        if name in ("GPT2Tokenizer", "LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer"):
            # As the published files have it: a post-processor of the file's own.
            own = json.loads(written)
            first = base.bos_token or base.eos_token
            single = [{"SpecialToken": {"id": first, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
            pair = single + [{"SpecialToken": {"id": first, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
            ids = {first: {"id": first, "ids": [base.convert_tokens_to_ids(first)], "tokens": [first]}}
            own["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids}
            written = json.dumps(own)
        model = {"model_type": model_type}
        for setting, changes in SETTINGS.items():
            case(f"{name}-{setting}", {"tokenizer_config.json": {**saved, **changes}, "config.json": model}, written)
        bare = {"tokenizer_class": name}
        for setting in ("plain", "left") if name in DIVIDED else ():
            case(f"{name}-long-{setting}", {"tokenizer_config.json": {**saved, **SETTINGS[setting]}, "config.json": model}, written, LONG_TEXTS)
        case(f"{name}-bare", {"tokenizer_config.json": bare, "config.json": model}, written)
        case(f"{name}-fast", {"tokenizer_config.json": {"tokenizer_class": name + "Fast"}, "config.json": model}, written)
        case(f"{name}-by-model", {"config.json": model}, written)
        case(f"{name}-by-model-config", {"config.json": {**model, "tokenizer_class": name}}, written)
        case(f"{name}-other-model", {"tokenizer_config.json": bare, "config.json": {"model_type": "modernbert"}}, written)
        case(f"{name}-electra", {"tokenizer_config.json": bare, "config.json": {"model_type": "electra"}}, written)
        for own in ("PreTrainedTokenizerFast", "SomethingElse"):
            changes = {"tokenizer_class": own, "do_lower_case": True, "add_prefix_space": True, "cls_token": "<new>"}
            case(f"{name}-as-{own}", {"tokenizer_config.json": changes, "config.json": model}, written)
        case(f"{name}-map", {"tokenizer_config.json": bare, "config.json": model, "special_tokens_map.json": {
            "mask_token": {"content": "[MASK]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False},
            "additional_special_tokens": ["<new>"]}, "added_tokens.json": {"dog": 400}}, written)
        # The file is not what the class would have written.
        other = json.loads(written)
        other["normalizer"], other["truncation"] = None, {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        other["padding"] = {"strategy": {"Fixed": 12}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 5, "pad_type_id": 1, "pad_token": "<pad>"}
        other["post_processor"] = None
        case(f"{name}-stripped", {"tokenizer_config.json": bare, "config.json": model}, json.dumps(other))
        case(f"{name}-stripped-as-file", {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}, "config.json": model}, json.dumps(other))
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2, "[CLS]": 3, "[SEP]": 4, "[PAD]": 5}, unk_token="[UNK]"))
    words.pre_tokenizer, words.normalizer = pre_tokenizers.Whitespace(), normalizers.Lowercase()
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)])
    for name in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        case(f"words-{name}", {"tokenizer_config.json": {"tokenizer_class": name}, "config.json": {"model_type": "bert"}}, words.to_str())
    shutil.rmtree(OUT / "source", ignore_errors=True)


main()
