#!/usr/bin/env bash
# Runs a package in a Debian root with nothing on it: as a user without a home, without a network, from a read-only folder.
# Plans, trains (where the package does), merges and evaluates the tiny encoder of onnx/. Needs root rights.
#
#   debootstrap --variant=minbase bullseye /tmp/empty-root        (glibc 2.31; any Debian will do)
#   sudo ./scripts/package/try.sh build/package/gelora-VERSION-linux-x86_64-cpu /tmp/empty-root
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

fail() { printf 'try: %s\n' "$*" >&2; exit 1; }
package=${1:?name the folder of a package} root=${2:?name the folder of a root system}
[ -x "$package/gelora" ] || fail "$package is no package: make one with ./scripts/package.sh"
[ -x "$root/bin/sh" ] || fail "$root is no root system: make one with debootstrap"
[ "$(id -u)" = 0 ] || fail "entering another root needs root rights: run it with sudo"

# A build machine's tools in the root would make it no test.
for program in python3 cc rustc; do
    [ ! -e "$root/usr/bin/$program" ] || fail "$root has $program: take an empty root"
done

work=$root/tmp/try
rm -rf "$work"
mkdir -p "$root/opt/gelora" "$work"
cp -r onnx/tiny_encoder "$work/model"
# Words of one to four letters; the label says whether the first begins with a vowel.
awk 'BEGIN { srand(1); print "text\tlabel"
    for (row = 0; row < 400; row++) { text = ""
        for (word = 0; word < 4 + int(rand() * 5); word++) { letters = ""
            for (letter = 0; letter < 1 + int(rand() * 4); letter++) letters = letters sprintf("%c", 97 + int(rand() * 26))
            text = text (word ? " " : "") letters }
        print text "\t" (substr(text, 1, 1) ~ /[aeiou]/ ? 1 : 0) } }' >"$work/rows.tsv"
chown -R 12345:12345 "$work"

cat >"$work/all.sh" <<'ALL'
set -e
cd /tmp/try
PATH=/usr/bin:/bin
gelora=/opt/gelora/gelora
say() { printf '\n== %s\n' "$*"; "$@"; }
if touch /opt/gelora/x 2>/dev/null; then echo "the package can be written to" >&2; exit 1; fi
say $gelora doctor
say $gelora -q plan model --data rows.tsv --text text --label label -o out
if [ -e /opt/gelora/gelora-train ]; then
    say $gelora -q train model --plan out --data rows.tsv --validation rows.tsv --text text --label label --epochs 2 -o out/adapter
    say $gelora -q merge model out/adapter -o out/merged
    say $gelora -q evaluate out/merged --data rows.tsv --text text --label label
else
    say $gelora -q evaluate model --data rows.tsv --text text --label label
    if $gelora train model --plan out --data rows.tsv --text text --label label -o out/adapter; then exit 1; fi
fi
ALL

# Mounts and the network end with the namespace.
unshare --mount --net --pid --fork bash -c '
    set -e
    mount --bind "$1" "$2/opt/gelora"
    mount -o remount,bind,ro "$2/opt/gelora"
    mount -t proc proc "$2/proc"
    exec env -i "$(command -v chroot)" --userspec=12345:12345 "$2" /bin/sh /tmp/try/all.sh' - "$(realpath "$package")" "$(realpath "$root")"
ldd=$(chroot "$root" ldd --version | head -n 1)
printf '\ntry: all of it worked in %s (%s)\n' "$root" "$ldd"
