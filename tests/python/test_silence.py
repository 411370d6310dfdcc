"""Nothing leaves the box: an extraction opens no socket and writes no file but its outputs, however long it runs.

ONNX Runtime's telemetry begins some 20 seconds after the library is loaded: it looks up a host, and leaves files in the
temporary folder, in the cache of the user and in the working folder.
"""

import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from conftest import GELORA, ROOT

SECONDS = 32

LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
KILL, ALLOW, X86_64 = 0x80000000, 0x7FFF0000, 0xC000003E
SOCKET, CONNECT = 41, 42


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("then", ctypes.c_uint8), ("otherwise", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction))]


def without_sockets():
    """From here on the process, and what it starts, is killed (SIGSYS) when it asks for a socket. Needs no rights."""
    code = [(LOAD_WORD, 0, 0, 4), (JUMP_IF_EQUAL, 0, 4, X86_64), (LOAD_WORD, 0, 0, 0),
            (JUMP_IF_EQUAL, 1, 0, SOCKET), (JUMP_IF_EQUAL, 0, 1, CONNECT), (RETURN, 0, 0, KILL), (RETURN, 0, 0, ALLOW)]
    instructions = (Instruction * len(code))(*(Instruction(*line) for line in code))
    program = Program(len(code), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


@pytest.fixture(scope="module")
def filtered():
    if os.uname().machine != "x86_64":
        pytest.skip("the numbers of system calls are those of x86-64")
    tried = subprocess.run([sys.executable, "-c", "import socket; socket.socket()"], preexec_fn=without_sockets, capture_output=True)
    if b"no filter of system calls" in tried.stderr:
        pytest.skip("filters of system calls are not allowed here")
    assert tried.returncode == -signal.SIGSYS, "the filter lets sockets pass"


def tracer(tmp_path):
    """strace, where it is installed and allowed: then files that come and go are seen too."""
    command = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", "trace=network,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"]
    if shutil.which("strace") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        print("skipped: files are compared before and after only, strace is not here")
        return []
    return command


def written(trace, folder):
    """Paths that were made or opened for writing, outside /dev and /proc."""
    paths = set()
    for line in trace.read_text(errors="replace").splitlines():
        call = re.match(r"\d+\s+(\w+)\((.*)", line)
        if not call or re.search(r"= -1 E", line):
            continue
        name, arguments = call.groups()
        if name in ("open", "openat") and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", arguments):
            continue
        paths.update((folder / path) for path in re.findall(r'"((?:[^"\\]|\\.)*)"', arguments))
    return {path for path in paths if not str(path).startswith(("/dev/", "/proc/"))}


def test_an_extraction_opens_no_socket_and_writes_only_its_outputs(filtered, minilm, tmp_path):
    places = {name: tmp_path / name for name in ("home", "temporary", "cache", "here", "out")}
    for place in places.values():
        place.mkdir()
    lines = (ROOT / "examples/data/agreement_train.tsv").read_text().splitlines()[1:]
    sentences = [line.split("\t")[0] for line in lines]
    # Long texts, all different: more than the time is enough for.
    texts = [" ".join(sentences[(7 * row + 31 * part) % len(sentences)] for part in range(12)) + f" {row}" for row in range(12_000)]
    data = tmp_path / "rows.tsv"
    data.write_text("sentence\n" + "".join(text + "\n" for text in texts))
    environment = {**os.environ, "HOME": str(places["home"]), "TMPDIR": str(places["temporary"]), "XDG_CACHE_HOME": str(places["cache"])}
    # The program sees to it by itself.
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    trace = tracer(tmp_path)
    command = [*trace, "timeout", "--preserve-status", "--signal", "TERM", str(SECONDS), str(GELORA), "extract", str(minilm), "--data", str(data),
               "--text", "sentence", "-o", str(places["out"] / "store"), "--device", "cpu", "--threads", "1"]
    if "ORT_DYLIB_PATH" not in environment:
        environment["ORT_DYLIB_PATH"] = str(ROOT / ".venv/onnxruntime")
    done = subprocess.run(command, cwd=places["here"], env=environment, preexec_fn=without_sockets, capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, f"{done.returncode}: not stopped half-way (-31 or 159: it asked for a socket)\n{done.stderr}"
    assert "stopped; run the same command again" in done.stderr
    left = {name: sorted(str(path.relative_to(place)) for path in place.rglob("*")) for name, place in places.items() if name != "out"}
    assert left == {"home": [], "temporary": [], "cache": [], "here": []}
    assert [path.name for path in places["out"].iterdir()] == ["store"]
    if trace:
        calls = (tmp_path / "trace").read_text(errors="replace")
        assert re.search(r"\b(socket|connect|sendto|sendmsg|bind)\(", calls) is None
        outside = {path for path in written(tmp_path / "trace", places["here"]) if not path.resolve().is_relative_to(places["out"].resolve())}
        assert outside == set()
        assert any("manifest.json" in str(path) for path in written(tmp_path / "trace", places["here"])), "the trace saw nothing"
