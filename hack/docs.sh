#!/bin/sh
# Writes what is made from the tables in the code: `docs.sh TCODER`. A list in a document stands between a comment with
# its name and one that says `end`.
set -eu

[ $# -eq 1 ] || { echo "usage: docs.sh TCODER" >&2; exit 2; }
tcoder=$1
cd "$(dirname "$0")/.."

"$tcoder" configuration > docs/configuration.md
"$tcoder" choices page > web/app/choices.js

# list FILE NAME
list() {
  text=$("$tcoder" choices "$2")
  awk -v name="$2" -v text="$text" '
    index($0, "<!-- " name ":") == 1 { print; print text; inside = 1 }
    $0 == "<!-- end -->" { inside = 0 }
    !inside' "$1" > "$1.new"
  mv "$1.new" "$1"
}
list README.md presets
list docs/api.md entries
