"""Makes what scripts/gpu_check.sh works on, with nothing but torch, transformers and tokenizers (the package `onnx` may be
missing): a BERT with random weights, exported with its hidden states, its tokenizer, and a table of random sentences.

    python make_model.py OUT --layers 12 --width 768 --rows 4096
"""

import argparse
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import export_onnx

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in "bdgklmnprst"]


def make_tokenizer(path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                             special_tokens=special)
    tokenizer.save(str(path))
    return len(tokens)


def export_without_onnx_package():
    """The exporter asks for the package `onnx` only to add functions written in onnxscript, of which there are none here."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

        onnx_proto_utils._add_onnxscript_fn = lambda model, custom_opsets: model


def make_model(folder, layers, width, vocabulary):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
                                     num_attention_heads=width // 64 or 1, intermediate_size=4 * width, num_labels=2)
    config._attn_implementation = "eager"
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        # Fresh weights of 0.02 hardly move a sentence: make every layer do something.
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(2.0)
    export_without_onnx_package()
    export_onnx.export_graph(model, folder / "model.onnx", "classic")
    model.save_pretrained(folder)


def make_rows(path, rows, source):
    """Sentences of 4 to 40 words; the label says whether an early word of the alphabet comes first."""
    lines = ["sentence\tlabel"]
    for _ in range(rows):
        words = [source.choice(WORDS) for _ in range(source.randint(4, 40))]
        lines.append(f"{' '.join(words)}\t{int(words[0] < 'm')}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--training-rows", type=int, default=512)
    arguments = parser.parse_args()
    export_onnx.be_quiet()
    model = arguments.out / "model"
    model.mkdir(parents=True, exist_ok=True)
    vocabulary = make_tokenizer(model / "tokenizer.json")
    make_model(model, arguments.layers, arguments.width, vocabulary)
    source = random.Random(0)
    make_rows(arguments.out / "rows.tsv", arguments.rows, source)
    # The first rows of the same table: for a warm start, and for what the CPU computes too.
    lines = (arguments.out / "rows.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, rows in (("few", arguments.rows // 8), ("compared", min(256, arguments.rows // 2))):
        (arguments.out / f"{name}.tsv").write_text("".join(lines[: rows + 1]), encoding="utf-8")
    make_rows(arguments.out / "train.tsv", arguments.training_rows, source)
    print(f"{model}: BERT, {arguments.layers} layers, {arguments.width} wide, random weights; {arguments.rows} rows")


if __name__ == "__main__":
    main()
