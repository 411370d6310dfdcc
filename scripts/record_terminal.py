#!/usr/bin/env python3
"""Records a real run of gelora in a terminal as an SVG that plays once and then shows the end of the session.

    python scripts/record_terminal.py --gelora target/release/gelora

writes docs/terminal.svg. The commands run in a pseudo-terminal, one after the other, in the root of the repository; what they
write, with its colours, is what the picture shows, and it shows it when it came; only commands that took longer than four seconds
are played faster. The model is the encoder of the quick
start (scripts/quickstart.sh puts it there); `--model onnx/tiny_encoder` takes the one of the tests, whose weights are random.
Results go to --work and are removed first, so that nothing is taken from an earlier run.
"""

import argparse
import codecs
import fcntl
import html
import os
import pathlib
import pty
import re
import select
import shutil
import struct
import sys
import termios
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

TRAIN = "--data examples/data/agreement_train.tsv --text sentence --label label"
DEV = "examples/data/agreement_dev.tsv"
SESSION = [
    "gelora inspect {model}",
    "gelora plan {model} " + TRAIN + " \\\n    -o {work}",
    "gelora train {model} --plan {work} \\\n    " + TRAIN + " \\\n    --validation " + DEV + " -o {work}/adapter",
    "gelora merge {model} {work}/adapter -o {work}/merged",
    "gelora evaluate {work}/merged --data " + DEV + " --text sentence --label label",
]

# Pixels, and seconds on the screen.
CHARACTER, LINE, MARGIN, BAR = 7.8, 17, 14, 26
LONGEST_COMMAND, AFTER_COMMAND, AFTER_RESULT, FRAME = 4.0, 0.8, 1.5, 0.1

BACKGROUND, FOREGROUND, PROMPT = "#1e2228", "#d7dae0", "#98c379"
COLOURS = ["#5c6370", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0"]


class Screen:
    """A terminal without an end: lines of (character, style), and a cursor."""

    def __init__(self, columns):
        self.columns, self.lines, self.row, self.column = columns, [[]], 0, 0
        self.style = {}
        self.rest = ""

    def feed(self, text):
        text = self.rest + text
        self.rest = ""
        place = 0
        while place < len(text):
            character = text[place]
            if character == "\x1b":
                found = re.match(r"\x1b(?:\[([0-9;?]*)([A-Za-z])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78M])", text[place:])
                if found is None:
                    self.rest = text[place:]
                    return
                if found.group(2):
                    self.control(found.group(1), found.group(2))
                place += found.end()
                continue
            self.put(character)
            place += 1

    def put(self, character):
        if character == "\n":
            self.row += 1
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character >= " ":
            if self.column == self.columns:
                self.row, self.column = self.row + 1, 0
            self.reach()
            line = self.lines[self.row]
            line.extend([(" ", ())] * (self.column + 1 - len(line)))
            line[self.column] = (character, tuple(sorted(self.style.items())))
            self.column += 1
        self.reach()

    def reach(self):
        while len(self.lines) <= self.row:
            self.lines.append([])

    def control(self, parameters, letter):
        numbers = [int(number) if number else 0 for number in parameters.strip("?").split(";")]
        count = max(1, numbers[0])
        if letter == "A":
            self.row = max(0, self.row - count)
        elif letter == "B":
            self.row += count
        elif letter == "C":
            self.column = min(self.columns - 1, self.column + count)
        elif letter == "D":
            self.column = max(0, self.column - count)
        elif letter == "G":
            self.column = count - 1
        elif letter == "K":
            line = self.lines[self.row]
            del line[0 if numbers[0] == 2 else self.column:]
        elif letter == "J":
            del self.lines[self.row + 1:]
            del self.lines[self.row][self.column:]
        elif letter == "m":
            self.colour(numbers)
        self.reach()

    def colour(self, numbers):
        numbers = iter(numbers)
        for number in numbers:
            if number == 0:
                self.style = {}
            elif number in (1, 2):
                self.style[{1: "bold", 2: "dim"}[number]] = True
            elif number == 22:
                self.style.pop("bold", None)
                self.style.pop("dim", None)
            elif 30 <= number <= 37:
                self.style["colour"] = number - 30
            elif 90 <= number <= 97:
                self.style["colour"] = number - 90
            elif number == 38:
                if next(numbers, 0) == 5:
                    self.style["colour"] = next(numbers, 7) % 8
            elif number == 39:
                self.style.pop("colour", None)

    def shot(self):
        return [tuple(line) for line in self.lines]


def run(command, environment, columns):
    """Runs a command in a pseudo-terminal; yields (seconds since its start, text), and at the end its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe("bash", ["bash", "-c", command], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    start, told = time.monotonic(), []
    while True:
        select.select([terminal], [], [])
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            break
        told.append((time.monotonic() - start, decoder.decode(chunk)))
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return told, os.waitstatus_to_exitcode(status)


def record(commands, environment, columns):
    """The session as frames: (time on the screen, lines)."""
    screen, now = Screen(columns), 0.3
    frames = []
    for command in commands:
        screen.style = {"prompt": True}
        screen.feed("$ ")
        screen.style = {"bold": True}
        screen.feed(command.replace("\n", "\r\n"))
        screen.style = {}
        frames.append((now, screen.shot()))
        now += AFTER_COMMAND
        screen.feed("\r\n")
        told, code = run(command, environment, columns)
        if code != 0:
            sys.exit(f"record_terminal: `{command}` ended with {code}: {''.join(text for _, text in told)}")
        speed = max(1.0, told[-1][0] / LONGEST_COMMAND) if told else 1.0
        for at, text in told:
            screen.feed(text)
            if now + at / speed - frames[-1][0] >= FRAME:
                frames.append((now + at / speed, screen.shot()))
        now += told[-1][0] / speed if told else 0.0
        screen.column = 0
        if screen.lines[screen.row]:
            screen.feed("\r\n")
        screen.feed("\r\n")
        frames.append((now, screen.shot()))
        now += AFTER_RESULT
    return frames


def spans(frames):
    """Every version of every line with the time it appears and the time it goes (None: it stays)."""
    open_since, found = {}, []
    for at, lines in frames:
        for row in range(max(len(lines), len(open_since))):
            line = lines[row] if row < len(lines) else ()
            since, shown = open_since.get(row, (0.0, ()))
            if line != shown:
                if shown and at > since:
                    found.append((row, shown, since, at))
                open_since[row] = (at, line)
    found.extend((row, line, since, None) for row, (since, line) in open_since.items() if line)
    return found


def text_runs(line):
    """A line as <text> elements of one style each; every one says how wide it is, whatever the font."""
    runs = []
    for column, (character, style) in enumerate(line):
        # Not across several spaces, which many programs would show as one.
        if runs and runs[-1][1] == style and not runs[-1][2].endswith("  "):
            runs[-1][2] += character
        else:
            runs.append([column, style, character])
    for column, style, text in runs:
        stripped = text.lstrip(" ")
        column, text = column + len(text) - len(stripped), stripped.rstrip(" ")
        if not text:
            continue
        style = dict(style)
        attributes = ""
        if style.get("prompt"):
            attributes += f' fill="{PROMPT}"'
        elif "colour" in style:
            attributes += f' fill="{COLOURS[style["colour"]]}"'
        if style.get("bold"):
            attributes += ' font-weight="bold"'
        if style.get("dim"):
            attributes += ' opacity=".65"'
        yield f'<text x="{column * CHARACTER:.1f}" textLength="{len(text) * CHARACTER:.1f}"{attributes}>{html.escape(text, quote=False)}</text>'


def scrolling(frames, rows):
    """When the window moves, and by how many lines it has moved then."""
    steps = [(0.0, 0)]
    for at, lines in frames:
        used = len(lines) - (1 if not lines[-1] else 0)
        moved = max(steps[-1][1], used - rows)
        if moved != steps[-1][1]:
            steps.append((at, moved))
    return steps


def svg(frames, columns, rows, title):
    width, height = columns * CHARACTER + 2 * MARGIN, rows * LINE + BAR + MARGIN
    steps, end = scrolling(frames, rows), frames[-1][0]
    keys = "".join(f"{100 * at / end:.3f}%{{transform:translateY({-moved * LINE}px)}}" for at, moved in steps)
    last = -steps[-1][1] * LINE
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img">',
        f"<title>{html.escape(title)}</title>",
        "<style>",
        f"text{{white-space:pre;font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}}",
        # Without animation (print, reduced motion, other programs) the end of the session is seen.
        "@keyframes appear{from{visibility:hidden}to{visibility:visible}}",
        "@keyframes pass{from,to{visibility:visible}}",
        f"@keyframes scroll{{{keys}100%{{transform:translateY({last}px)}}}}",
        ".stays{animation:appear 1ms backwards}.passes{visibility:hidden;animation-name:pass}",
        f".all{{animation:scroll {end:.2f}s step-end}}",
        "@media (prefers-reduced-motion:reduce){.stays,.passes,.all{animation:none}}",
        "</style>",
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="{BACKGROUND}"/>',
        '<g fill="#5c6370"><circle cx="18" cy="14" r="5"/><circle cx="35" cy="14" r="5"/><circle cx="52" cy="14" r="5"/></g>',
        f'<clipPath id="window"><rect x="0" y="{BAR}" width="{width:.0f}" height="{rows * LINE + 4}"/></clipPath>',
        f'<g clip-path="url(#window)"><g transform="translate({MARGIN} {BAR})" fill="{FOREGROUND}"><g class="all" transform="translate(0 {last})">',
    ]
    for row, line, since, until in sorted(spans(frames), key=lambda span: (span[0], span[2])):
        texts = "".join(text_runs(line))
        if not texts:
            continue
        kind = "stays" if until is None else "passes"
        timing = f"animation-delay:{since:.2f}s" + ("" if until is None else f";animation-duration:{until - since:.2f}s")
        out.append(f'<g transform="translate(0 {row * LINE + 13})"><g class="{kind}" style="{timing}">{texts}</g></g>')
    out.append("</g></g></g></svg>")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gelora", type=pathlib.Path, default=ROOT / "target/release/gelora", help="the program to record")
    parser.add_argument("--model", default="build/quickstart/model", help="the model folder, relative to the repository")
    parser.add_argument("--work", default="build/recording", help="where the commands write, relative to the repository")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=ROOT / "docs/terminal.svg")
    parser.add_argument("--columns", type=int, default=116)
    parser.add_argument("--rows", type=int, default=32, help="lines that are seen at once")
    arguments = parser.parse_args()
    if not arguments.gelora.is_file():
        sys.exit(f"record_terminal: {arguments.gelora} is not there: build it (cargo build --release), or name it with --gelora")
    if not (ROOT / arguments.model / "model.onnx").is_file():
        sys.exit(f"record_terminal: {arguments.model} holds no model.onnx: run ./scripts/quickstart.sh, or name another with --model")
    shutil.rmtree(ROOT / arguments.work, ignore_errors=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "GELORA_LOG", "COLUMNS")}
    environment |= {"TERM": "xterm-256color", "PATH": f"{arguments.gelora.resolve().parent}:{os.environ['PATH']}"}
    commands = [command.format(model=arguments.model, work=arguments.work) for command in SESSION]
    frames = record(commands, environment, arguments.columns)
    title = f"A recorded session: gelora inspect, plan, train, merge and evaluate on {arguments.model} with examples/data"
    arguments.output.write_text(svg(frames, arguments.columns, arguments.rows, title))
    print(f"{arguments.output}: {frames[-1][0]:.0f} s, {len(frames)} frames, {arguments.output.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
