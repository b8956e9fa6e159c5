#!/usr/bin/env bash
# Make the hashed locks anew from pyproject.toml and constraints.txt; needs uv and the Python Package Index.
# Every file of each release is listed, so that one lock serves every platform and every Python from 3.11 on.
set -euo pipefail
cd "$(dirname "$0")/.."
export UV_CUSTOM_COMPILE_COMMAND="requirements/lock.sh"

lock() {
  uv --no-config pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
    --annotation-style line "$@" >/dev/null
}
without() { sed -nE 's/^([a-z0-9._-]+)==.*/--no-emit-package=\1/p' "$1" | grep -E "$2" | sort -u; }

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
core=(--constraint constraints.txt --extra test --extra serve pyproject.toml)
lock "${core[@]}" --output-file "$folder/whole.txt"

# Which build of torch is right depends on the machine: it and what only its builds for CUDA need stand apart.
mapfile -t torch < <(without "$folder/whole.txt" '=(torch|triton|cuda-.*|nvidia-.*)$')
lock "${core[@]}" "${torch[@]}" --output-file "$folder/lock.txt"
mapfile -t rest < <(without "$folder/lock.txt" .)
printf 'torch\n' >"$folder/torch.in"
(cd "$folder" && lock --constraint "$OLDPWD/constraints.txt" "${rest[@]}" --output-file torch.txt torch.in)
lock --output-file "$folder/build.txt" requirements/build.in

for name in lock torch build; do
  {
    echo "# Made by requirements/lock.sh; how it is used: docs/supply-chain.md."
    grep -v '^# ' "$folder/$name.txt" | sed -E 's/, -c [^,]*constraints.txt//; s/-c [^,]*constraints.txt, //'
  } >"$folder/$name.done"
  mv "$folder/$name.done" "requirements/$name.txt"
done
