#!/usr/bin/env python3
"""Draws the rooms of src/ in their order, and which of them use which: docs/architecture.svg.

    python scripts/architecture_picture.py            writes the picture
    python scripts/architecture_picture.py --check    fails where a room uses a later one

A line from a room down to another stands for `use crate::…`. A use that follows from others (cli uses workflow, which uses train) has no
line of its own. Tests and comments are not counted. What nearly all rooms use, files, hint and progress, is the bar at the bottom.
"""

import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# In the order of the chain: what each room is for.
ROOMS = {
    "onnx": "the graph: hidden states, blocks, weights, edits",
    "checkpoint": "Hugging Face folders, and which tensor a weight is",
    "dataset": "tables, tokens, batches, metrics",
    "runtime": "ONNX Runtime: the only room that names ort",
    "activations": "pooled hidden states, and their store",
    "neighbours": "exact nearest neighbours, spanning trees",
    "dimension": "TwoNN, GRIDE and others; scale; intervals",
    "rank": "the GeLoRA rule, budgets, plan.json",
    "adapter": "PEFT folders, read and written",
    "task": "what is learnt, one file per task",
    "settings": "every setting once, for keys and options",
    "train": "the graph in libtorch: the only room that names tch",
    "merge": "base and adapter become one",
    "evaluate": "predictions and metrics of an export",
    "report": "pages, tables, CSV",
    "workflow": "what a command does, step by step",
    "cli": "parses, calls workflow, prints",
}
BELOW = ("files", "hint", "progress")


def uses():
    """For every room the rooms that its code uses."""
    found = {}
    for room in ROOMS:
        found[room] = set()
        for path in sorted((ROOT / "src" / room).rglob("*.rs")):
            if "tests" in path.stem or "tests" in path.parts:
                continue
            code = re.split(r"#\[cfg\(test\)\]\nmod \w+ \{", path.read_text())[0]
            code = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith("//"))
            for group in re.findall(r"\bcrate::(\{[^;]*\}|\w+)", code):
                found[room] |= set(re.findall(r"\w+", group)) & (set(ROOMS) | set(BELOW))
        found[room].discard(room)
    return found


def against_the_order(used):
    order = list(ROOMS)
    return [(room, other) for room in order for other in used[room] if other in ROOMS and order.index(other) > order.index(room)]


def without_what_follows(used):
    """The uses that do not follow from others."""
    def reached(room, seen):
        for other in used[room] & set(ROOMS) - seen:
            seen |= {other} | reached(other, seen)
        return seen

    return {room: {other for other in used[room] & set(ROOMS)
                   if not any(other in reached(between, set()) for between in used[room] & set(ROOMS) - {other})}
            for room in ROOMS}


HEIGHT, WIDTH, TOP, LEFT, GAP = 34, 470, 16, 140, 8

STYLE = """
text{font:14px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#1f2328}
.name{font-weight:600}.what{font-size:12.5px;fill:#57606a}
rect{fill:#f6f8fa;stroke:#8c959f}.below rect{fill:#ddf4ff}
path{fill:none;stroke:#8c959f;stroke-width:1.3}circle{fill:#57606a}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.what{fill:#9198a1}
rect{fill:#161b22;stroke:#6e7681}.below rect{fill:#0c2d6b}
path{stroke:#6e7681}circle{fill:#9198a1}}
"""


def picture(used):
    order = list(ROOMS)
    middle = {room: TOP + row * (HEIGHT + GAP) + HEIGHT / 2 for row, room in enumerate(reversed(order))}
    bottom = TOP + len(order) * (HEIGHT + GAP)
    out = []
    # The farther a line leads, the farther left it runs.
    for room in order:
        for other in sorted(used[room], key=order.index):
            steps = order.index(room) - order.index(other)
            reach = 20 + 17 * steps
            start, end = middle[room], middle[other]
            out.append(f'<path d="M{LEFT} {start:.0f}C{LEFT - reach:.0f} {start:.0f} {LEFT - reach:.0f} {end:.0f} {LEFT} {end:.0f}"/>')
    for room in order:
        y = middle[room]
        out.append(f'<rect x="{LEFT}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>')
        out.append(f'<circle cx="{LEFT}" cy="{y:.0f}" r="2.5"/>')
        out.append(f'<text class="name" x="{LEFT + 14}" y="{y + 5:.0f}">{room}</text>')
        out.append(f'<text class="what" x="{LEFT + 112}" y="{y + 5:.0f}">{ROOMS[room]}</text>')
    names = "   ".join(BELOW)
    out.append(f'<g class="below"><rect x="{LEFT}" y="{bottom + 6}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
               f'<text class="name" x="{LEFT + 14}" y="{bottom + 6 + HEIGHT / 2 + 5:.0f}" xml:space="preserve">{names}</text>'
               f'<text class="what" x="{LEFT + 195}" y="{bottom + 6 + HEIGHT / 2 + 5:.0f}">whole files, words, events: below all rooms</text></g>')
    width, height = LEFT + WIDTH + 16, bottom + HEIGHT + 22
    title = "The rooms of src/: each uses only those below it"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">\n'
            f"<title>{title}</title>\n<style>{STYLE}</style>\n" + "\n".join(out) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a room uses a later one")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=ROOT / "docs/architecture.svg")
    arguments = parser.parse_args()
    folders = {path.name for path in (ROOT / "src").iterdir() if path.is_dir()}
    if folders != set(ROOMS) | {"files"}:
        sys.exit(f"architecture_picture: the rooms of src/ are {sorted(folders)}: mend the list in this script")
    used = uses()
    wrong = against_the_order(used)
    if wrong:
        sys.exit("architecture_picture: " + "; ".join(f"{room} uses {other}, which comes later" for room, other in wrong))
    if arguments.check:
        return
    drawn = without_what_follows(used)
    arguments.output.write_text(picture(drawn))
    lines = sum(map(len, drawn.values()))
    print(f"{arguments.output}: {len(ROOMS)} rooms, {lines} lines")


if __name__ == "__main__":
    main()
