"""Token ids of Hugging Face: tokenize_rows.py MODEL OUT LENGTH,LENGTH… NAME=FILE=COLUMN[+COLUMN]…

Writes OUT/NAME-LENGTH.txt: one row per line, ids | type ids. The files are TSV without quoting.
"""

import pathlib
import sys

from transformers import AutoTokenizer

model, out, lengths, files = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
tokenizer = AutoTokenizer.from_pretrained(model)
for length in map(int, lengths.split(",")):
    for file in files:
        name, path, columns = file.split("=")
        lines = pathlib.Path(path).read_bytes().decode().rstrip("\n").split("\n")
        header = lines[0].split("\t")
        rows = [line.split("\t") for line in lines[1:]]
        texts = [[row[header.index(column)] for row in rows] for column in columns.split("+")]
        made = tokenizer(*texts, truncation=True, max_length=length)
        with open(out / f"{name}-{length}.txt", "w") as reference:
            for ids, types in zip(made["input_ids"], made["token_type_ids"]):
                print(*ids, "|", *types, file=reference)
