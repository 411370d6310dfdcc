#!/usr/bin/env bash
# Every check that a change has to pass: formatting, clippy, tests and documentation in both feature sets (with and without
# `train`), then the interoperability tests in Python.
#
#   ./scripts/test.sh             all of it
#   ./scripts/test.sh python      one part: format, clippy, rust, docs, python
#   ./scripts/test.sh exports     all of docs/exports.md, of which the others examine a part (half an hour)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

part=${1:-all}
case $part in
    all | format | clippy | rust | docs | python | exports) ;;
    *) echo "test: no part is called \"$part\": name one of format, clippy, rust, docs, python, exports" >&2; exit 1 ;;
esac

# Where everything that a test could need is here, none may be skipped for want of it.
if [ -d ../shared/data ] && [ -d ../shared/models ] && [ -d ../shared/golden ]; then
    export GELORA_REQUIRE_ALL=${GELORA_REQUIRE_ALL:-1}
fi

wanted() { [ "$part" = all ] || [ "$part" = "$1" ]; }

run() {
    printf '\n== %s\n' "$*"
    local start=$SECONDS
    "$@" || { printf 'test: failed: %s\n' "$*" >&2; exit 1; }
    printf -- '-- %s s\n' "$((SECONDS - start))"
}

# cargo shows what a passing test printed only when asked, and then shows too much: keep the totals and what was skipped.
tests() {
    local log=target/test-output.txt
    mkdir -p target
    if ! cargo test --locked "$@" -- --show-output 2>&1 | tee "$log" | grep --line-buffered -E '^(test result|     Running|   Doc-tests)'; then
        cat "$log"
        return 1
    fi
    grep -oE '^skipped: .*' "$log" | sort | uniq -c | sed -E 's/^ *([0-9]+) skipped: (.*)/   skipped in \1 tests: \2/' || true
}

if [ "$part" = all ] || [ "$part" = python ] || [ ! -e .venv/libtorch/lib ]; then
    run ./scripts/setup.sh
fi
if wanted format; then
    run cargo fmt --check
fi
if wanted clippy; then
    run cargo clippy --locked --all-targets -- -D warnings
    run cargo clippy --locked --all-targets --no-default-features -- -D warnings
fi
if wanted rust; then
    run tests
    run tests --no-default-features
fi
if wanted docs; then
    run env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
    run env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --no-default-features
fi
if wanted python; then
    run cargo build --locked
    run .venv/bin/python -m pytest -q -rs tests/python
fi
if [ "$part" = exports ]; then
    run cargo test --locked --test it -- --ignored families::
fi
printf '\nall of it passed (%s min)\n' "$((SECONDS / 60))"
