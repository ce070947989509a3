#!/usr/bin/env bash
# stop-all.sh FOLDER: stops every test server whose state lies inside FOLDER, also where the folder was removed since.
set -euo pipefail

(($# == 1)) || { echo "Usage: $0 FOLDER" >&2; exit 2; }
folder=$(realpath -m -- "$1")

# common.sh says what the mark is.
{ cat /proc/[0-9]*/environ 2>/dev/null || true; } | tr '\0' '\n' | sed -n 's/^IMGDEX_TEST_SERVICE=//p' | sort -u |
    while IFS=: read -r service dir; do
        [[ $dir == "$folder"/* ]] || continue
        "$(dirname "${BASH_SOURCE[0]}")/$service.sh" stop "$dir"
    done
