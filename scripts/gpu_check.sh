#!/usr/bin/env bash
# Checks a built gelora on a machine with an NVIDIA GPU, without internet and without a Rust toolchain: where the matrix
# products ran, whether activations and training steps agree with the CPU, and rows per second against PyTorch. Ends with one table.
#
#   scripts/gpu_check.sh --gelora target/release/gelora --ort-lib DIR/libonnxruntime.so.1.30.0 --libtorch DIR
#
#   --gelora FILE    the built program                                       [target/release/gelora]
#   --ort-lib FILE   libonnxruntime; its CUDA provider lies beside it         [found as gelora finds it]
#   --libtorch DIR   libtorch, or the folder of the Python package torch      [that of --python]
#   --python FILE    a Python with torch, transformers and tokenizers         [.venv/bin/python, else python3]
#   --out DIR        for everything that is written                           [build/gpu_check]
#   --device NAME    cuda or cuda:N                                           [cuda]
#   --rows N         sentences of the extraction                              [16384]
#   --cpu            tiny sizes, and the CPU in the GPU's place: tests the script itself
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

fail() { printf 'gpu_check: %s\n' "$*" >&2; exit 1; }

gelora=target/release/gelora ort_lib="" libtorch="" python="" out=build/gpu_check device=cuda rows=16384 tiny=""
while [ $# -gt 0 ]; do
    case $1 in
        --gelora | --ort-lib | --libtorch | --python | --out | --device | --rows)
            [ $# -ge 2 ] || fail "$1 needs a value: see the first lines of $0"
            name=${1#--}
            printf -v "${name//-/_}" '%s' "$2"
            shift 2
            ;;
        --cpu) tiny=yes device=cpu rows=600; shift ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) fail "no option is called $1: see $0 --help" ;;
    esac
done

[ -x "$gelora" ] || fail "$gelora is not there: name the built program with --gelora"
if [ -z "$python" ]; then
    python=.venv/bin/python
    [ -x "$python" ] || python=python3
fi
"$python" -c 'import torch, transformers, tokenizers' 2>/dev/null ||
    fail "$python lacks torch, transformers or tokenizers: name another one with --python"
if [ -z "$libtorch" ]; then
    libtorch=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)')
fi
[ -d "$libtorch/lib" ] || fail "$libtorch/lib is not there: name the folder of libtorch with --libtorch"
if [ -z "$tiny" ]; then
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || fail "PyTorch sees no GPU here: --cpu tests the script without one"
fi

# libtorch where the program was not built, and the CUDA libraries that come with the Python packages of NVIDIA.
nvidia=$("$python" -c '
import glob, os, sysconfig
print(":".join(sorted(glob.glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", "*", "lib")))))')
export LD_LIBRARY_PATH="$libtorch/lib${nvidia:+:$nvidia}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export TOKENIZERS_PARALLELISM=false
options=(--quiet ${ort_lib:+--ort-lib "$ort_lib"})

mkdir -p "$out"
# Results of an earlier check would be taken for done.
rm -rf "$out/store-cpu" "$out/store-device" "$out/store-warm" "$out/run-cpu" "$out/run-device"
sizes=(--layers 12 --width 768 --rows "$rows" --training-rows 1024)
[ -z "$tiny" ] || sizes=(--layers 2 --width 64 --rows "$rows" --training-rows 128)
echo "== the model"
"$python" scripts/gpu_check/make_model.py "$out" "${sizes[@]}"

# Prints how many seconds the rest of the line took.
seconds() { "$python" -c 'import subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.perf_counter() - start)
sys.exit(done.returncode)' "$@"; }

extract() { # device table store
    seconds "$gelora" extract "$out/model" --data "$out/$2.tsv" --text sentence -o "$out/$3" --device "$1" "${options[@]}"
}

echo "== activations on $device and on the CPU"
# Starting the device takes seconds that say nothing about its speed: two sizes, and the rows and seconds between them.
extract "$device" few store-warm >/dev/null
rm -rf "$out/store-warm"
few=$(extract "$device" few store-warm)
many=$(extract "$device" rows store-device)
extract cpu compared store-cpu >/dev/null

echo "== training on $device and on the CPU"
steps=8
for place in cpu device; do
    where=$device
    [ "$place" = device ] || where=cpu
    # The plan is made on the CPU both times, so that both train the same adapter.
    cat >"$out/$place.toml" <<TOML
model.path = "model"
data = { train = "train.tsv", dev = "compared.tsv", text = "sentence", label = "label" }
plan = { subsamples = 0 }
train = { maximum_steps = $steps, log_every = 1, learning_rate = 5e-5 }
output.folder = "run-$place"
device = { inference = "cpu", training = "$where" }
TOML
    "$gelora" run "$out/$place.toml" "${options[@]}" >/dev/null
done
# The rate comes from a longer run.
sed -e "s/maximum_steps = $steps, log_every = 1/maximum_steps = 40, log_every = 10/" -e 's/run-device/run-rate/' "$out/device.toml" >"$out/rate.toml"
rm -rf "$out/run-rate"
"$gelora" run "$out/rate.toml" "${options[@]}" >/dev/null

echo "== the same in PyTorch"
"$python" scripts/gpu_check/pytorch_reference.py "$out" --device "$device" >"$out/pytorch.json"
"$python" scripts/gpu_check/pytorch_reference.py "$out" --device "$device" --tf32 >"$out/pytorch-tf32.json"

"$python" scripts/gpu_check/compare.py "$out" --device "$device" --few-seconds "$few" --many-seconds "$many"
