#!/usr/bin/env bash
# Screenshots of a page at the widths of a phone, a tablet and a desk, in dark, and as on paper, with a real browser (chromium):
# what to look at after a change of the report.
#
#   ./scripts/look_at_report.sh out/report.html build/look
set -euo pipefail

if [ $# -ne 2 ]; then
    echo "look_at_report: give the page and a folder for the pictures" >&2
    exit 1
fi
page=$(realpath "$1")
mkdir -p "$2"
folder=$(realpath "$2")
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "look_at_report: no chromium is installed; on Debian: apt-get install chromium" >&2
    exit 1
}

shot() { # NAME WIDTH OPTIONS…
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size="$2,3600" \
        --screenshot="$folder/$1.png" "${@:3}" "file://$page" 2>/dev/null
    echo "$folder/$1.png"
}

shot phone 390
shot tablet 820
shot desk 1280
shot dark 1280 --blink-settings=preferredColorScheme=0
"$browser" --headless --no-sandbox --disable-gpu --print-to-pdf="$folder/paper.pdf" "file://$page" 2>/dev/null
echo "$folder/paper.pdf"
