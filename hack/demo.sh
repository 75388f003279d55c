#!/bin/sh
# One video through the whole system: `tcoder up`, two jobs, and what came out as ffprobe sees it.
# Called by `make demo`. FILE names a video of your own; without it a clip is generated.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
tcoder=${TCODER:-${CARGO_TARGET_DIR:-$root/target}/debug/tcoder}
cd "$root"
out=demo-output
work=$(mktemp -d)
up=

finish() {
  code=$?
  trap - EXIT INT TERM
  if [ -n "$up" ]; then
    kill -INT "$up" 2>/dev/null || true
    wait "$up" 2>/dev/null || true
  fi
  if [ "$code" != 0 ] && [ -s "$work/log" ]; then
    echo "The demo failed. The end of the system's log:" >&2
    tail -n 15 "$work/log" >&2
  fi
  rm -rf "$work"
  exit "$code"
}
trap finish EXIT INT TERM

say() { printf '\n== %s\n' "$1"; }

# A clip of an earlier demo may be the FILE of this one.
mkdir -p "$out"
rm -rf "$out/web-optimized" "$out/hls-adaptive"

if [ -n "${FILE:-}" ]; then
  video=$FILE
  [ -f "$video" ] || { echo "FILE=$video is not a file." >&2; exit 1; }
else
  say "Making a clip, demo-output/clip.mp4: 12 s of 1080p with sound"
  video=$out/clip.mp4
  ffmpeg -nostdin -loglevel error -y \
    -f lavfi -i "testsrc2=size=1920x1080:rate=25:duration=12" \
    -f lavfi -i "sine=frequency=330:beep_factor=4:duration=12" \
    -c:v libx264 -preset veryfast -pix_fmt yuv420p -c:a aac -shortest "$video"
fi

say "Starting the system: queue, storage, API and a worker"
"$tcoder" up --data "$work/data" --listen 127.0.0.1:0 >"$work/out" 2>"$work/log" &
up=$!
# The last line of its greeting, so that all before it is there.
until grep -q '^Press Ctrl-C' "$work/out"; do
  kill -0 "$up" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.1
done
sed -n 's/^  \([A-Za-z]\)/  \1/p' "$work/out" | grep -E '^  (API|storage|queue|workers)'
TCODER_URL=$(sed -n 's/^  API *//p' "$work/out")
export TCODER_URL

say "web-optimized, 720p 360p 144p: upload, encode, download"
"$tcoder" submit "$video" --preset web-optimized --quality 720p,360p,144p --wait --output "$out/web-optimized"
say "hls-adaptive: upload, encode, download"
"$tcoder" submit "$video" --preset hls-adaptive --quality 720p,360p,144p --wait --output "$out/hls-adaptive"

say "Stopping"
kill -INT "$up"
wait "$up"
up=
tail -n 1 "$work/out"

say "What lies in ./demo-output, as ffprobe sees it"
row() { printf '%-28s %-10s %-6s %-6s %8s %12s\n' "$@"; }
field() { printf '%s\n' "$facts" | sed -n "s/^$1=//p" | head -n 1; }
row file picture video audio length bytes
cd "$out"
for file in web-optimized/*.mp4 hls-adaptive/*p/index.m3u8; do
  [ -f "$file" ] || continue
  facts=$(ffprobe -v error -select_streams v:0 -of default=noprint_wrappers=1 \
    -show_entries stream=codec_name,width,height:format=duration "$file")
  # Adaptive HLS shares one audio playlist among its qualities.
  sound=$file
  case $file in hls-adaptive/*) [ -f hls-adaptive/audio/index.m3u8 ] && sound=hls-adaptive/audio/index.m3u8 ;; esac
  audio=$(ffprobe -v error -select_streams a:0 -of default=noprint_wrappers=1:nokey=1 \
    -show_entries stream=codec_name "$sound" | head -n 1)
  case $file in *.m3u8) bytes=$(cat "${file%/*}"/*.m4s "${file%/*}"/*.mp4 | wc -c) ;; *) bytes=$(wc -c <"$file") ;; esac
  row "$file" "$(field width)x$(field height)" "$(field codec_name)" "${audio:--}" \
    "$(printf '%.2f s' "$(field duration)")" "$bytes"
done
printf '\nPlay one:  ffplay demo-output/hls-adaptive/master.m3u8\n'
printf 'Keep the system running:  %s up\n' "${tcoder#"$root"/}"
