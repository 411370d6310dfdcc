#!/usr/bin/env bash
# Makes a folder, and a .tar.zst of it, that runs on a machine with nothing on it: no Python, no compiler, no network.
#
#   ./scripts/package.sh plan     plans, merges and evaluates on the CPU; no libtorch
#   ./scripts/package.sh cpu      trains too, on the CPU
#   ./scripts/package.sh cuda     trains and extracts on NVIDIA GPUs too (needs only the driver there)
#   ./scripts/package.sh KIND -o FOLDER      where to write; by default build/package
#   GELORA_HOST_GLIBC=1 …         links against this machine's glibc, not against an old one
#
# The programs are linked against glibc 2.28 (2018: RHEL 8, Debian 10, Ubuntu 20.04) by the linker of the Python package ziglang,
# which has the symbols of old versions. gelora-train also needs a libstdc++ of GCC 9 or newer (Debian 11, Ubuntu 20.04).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

GLIBC=2.28
ZIG=0.15.2
ONNXRUNTIME_GPU=1.30.0

fail() { printf 'package: %s\n' "$*" >&2; exit 1; }
say() { printf '%s\n' "$*"; }

kind=${1:-}
case $kind in
    plan | cpu | cuda) shift ;;
    *) fail "name what to make: plan, cpu or cuda" ;;
esac
out=build/package
if [ "${1:-}" = -o ]; then
    [ -n "${2:-}" ] || fail "-o wants a folder"
    out=$2
    shift 2
fi
[ $# = 0 ] || fail "\"$1\" is not understood: package.sh KIND [-o FOLDER]"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "packages are made on Linux on x86-64, this is $(uname -sm)"
for tool in strip tar zstd objdump; do
    command -v $tool >/dev/null || fail "\`$tool\` is not there: install it, e.g. \`apt install binutils tar zstd\`"
done
./scripts/setup.sh

version=$(sed -nE 's/^version *= *"(.*)"/\1/p' Cargo.toml | head -n 1)
name=gelora-$version-linux-x86_64-$kind
folder=$out/$name
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
work=build/package/work
mkdir -p "$out" "$work"

# --- programs ---------------------------------------------------------------------------------------------------

# Compilers stay those of this machine; only the last step, linking, is against old symbols.
set_up_linker() {
    [ -z "${GELORA_HOST_GLIBC:-}" ] || return 0
    if ! "$work/zig/bin/python" -m ziglang version >/dev/null 2>&1; then
        .venv/bin/python -m venv --clear "$work/zig"
        "$work/zig/bin/pip" install --quiet --disable-pip-version-check "ziglang==$ZIG" ||
            fail "ziglang could not be installed; GELORA_HOST_GLIBC=1 does without it, for machines with this glibc or a newer one"
    fi
    # libstdc++ is what libtorch is built with, where zig would take LLVM's. Its headers read a variable that came in 2.32.
    printf 'char __libc_single_threaded = 0;\n' >"$work/single_threaded.c"
    cc -c -O2 -fPIC "$work/single_threaded.c" -o "$work/single_threaded.o"
    local here
    here=$(cd "$work" && pwd)
    cat >"$work/linker" <<LINKER
#!/usr/bin/env bash
arguments=()
for argument in "\$@"; do
    case \$argument in
        -lstdc++) arguments+=("$(c++ -print-file-name=libstdc++.so)" "$here/single_threaded.o") ;;
        -lgcc_s) [ -z "\$GELORA_LIBGCC" ] && arguments+=(-lunwind) || arguments+=("$(cc -print-file-name=libgcc_s.so.1)" -Wl,--allow-shlib-undefined) ;;
        # What libtorch brings itself, and the choice of another linker.
        -lgomp | -fuse-ld=*) ;;
        *) arguments+=("\$argument") ;;
    esac
done
exec "$here/zig/bin/python" -m ziglang cc -target x86_64-linux-gnu.$GLIBC "\${arguments[@]}"
LINKER
    chmod +x "$work/linker"
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=$here/linker
}

# In a folder of their own: another linker would build everything in target/ anew.
build() {
    GELORA_PACKAGE=1 cargo build --release --locked --target-dir "$work/target" "$@" || fail "cargo could not build it: see above"
}

set_up_linker
rm -rf "$folder"
mkdir -p "$folder/lib" "$folder/LICENSES"
say "building gelora, which is not linked against libtorch"
build --no-default-features --features parquet
install -m 755 "$work/target/release/gelora" "$folder/gelora"
if [ "$kind" != plan ]; then
    say "building gelora-train, which is"
    GELORA_LIBGCC=1 build
    install -m 755 "$work/target/release/gelora" "$folder/gelora-train"
fi

# --- libraries --------------------------------------------------------------------------------------------------

copy() {
    local file
    for file in "$@"; do
        [ -e "$file" ] || fail "$file is not there: remove .venv and run ./scripts/setup.sh"
        install -m 755 "$file" "$folder/lib/"
    done
}

nvidia=$packages/nvidia
case $kind in
    plan | cpu) copy .venv/onnxruntime/libonnxruntime.so.1.30.0 ;;
    cuda)
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --only-binary=:all: \
            --target "$work/onnxruntime-gpu" "onnxruntime-gpu==$ONNXRUNTIME_GPU" || fail "onnxruntime-gpu could not be downloaded"
        copy "$work"/onnxruntime-gpu/onnxruntime/capi/libonnxruntime.so.* \
            "$work"/onnxruntime-gpu/onnxruntime/capi/libonnxruntime_providers_{shared,cuda}.so ;;
esac
if [ "$kind" != plan ]; then
    # This libtorch can use a GPU, and asks for these two small libraries of NVIDIA's even where there is none.
    copy "$packages"/torch/lib/{libtorch_cpu.so,libc10.so,libgomp.so.1} "$nvidia"/cu13/lib/{libcudart.so.13,libcupti.so.13}
    # Where `gelora doctor` looks for the version of libtorch.
    .venv/bin/python -c 'import importlib.metadata; print(importlib.metadata.version("torch"))' >"$folder/build-version"
fi
if [ "$kind" = cuda ]; then
    copy "$packages"/torch/lib/{libtorch_cuda.so,libc10_cuda.so,libtorch_cuda_linalg.so,libtorch_nvshmem.so,libcaffe2_nvrtc.so}
    copy "$nvidia"/cu13/lib/{libcublas.so.13,libcublasLt.so.13,libcufft.so.12,libcurand.so.10,libcusolver.so.12,libcusparse.so.12} \
        "$nvidia"/cu13/lib/{libnvJitLink.so.13,libnvrtc.so.13,libcufile.so.0} "$nvidia"/cu13/lib/libnvrtc-builtins.so.13.*
    copy "$nvidia"/cudnn/lib/*.so.9 "$nvidia"/cusparselt/lib/libcusparseLt.so.0 "$nvidia"/nccl/lib/libnccl.so.2 \
        "$nvidia"/nvshmem/lib/libnvshmem_host.so.3
fi
find "$folder/gelora" "$folder/lib" -type f ! -name 'libcu*' ! -name 'libnv*' ! -name 'libnccl*' -exec strip --strip-unneeded {} +
[ ! -e "$folder/gelora-train" ] || strip --strip-unneeded "$folder/gelora-train"

# --- documents --------------------------------------------------------------------------------------------------

.venv/bin/python scripts/package/licences.py "$kind" "$folder/LICENSES"
sed -e "s/@NAME@/$name/g" -e "s/@VERSION@/$version/g" "scripts/package/README-$kind.md" >"$folder/README.md"
mkdir -p "$folder/share/man/man1" "$folder/share/completions"
"$folder/gelora" -q man "$folder/share/man/man1"
for shell in bash zsh fish; do
    "$folder/gelora" completions $shell >"$folder/share/completions/gelora.$shell"
done

# --- check and pack ---------------------------------------------------------------------------------------------

newest() { objdump -T "$1" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1; }
for file in "$folder"/gelora* "$folder"/lib/*; do
    needed=$(newest "$file")
    if [ -z "${GELORA_HOST_GLIBC:-}" ] && [ "$(printf 'GLIBC_%s\n%s\n' $GLIBC "$needed" | sort -V | tail -n 1)" != "GLIBC_$GLIBC" ]; then
        fail "$file needs $needed, and the package promises $GLIBC"
    fi
done
tar -C "$out" --sort=name --owner=0 --group=0 --numeric-owner -cf - "$name" | zstd -q -f -T0 "-${GELORA_PACKAGE_LEVEL:-19}" -o "$folder.tar.zst"
say "$folder: $(du -sm "$folder" | cut -f 1) MB, packed $(du -m "$folder.tar.zst" | cut -f 1) MB"
