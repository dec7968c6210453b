# How a module is built so that its bytes depend on sources and toolchain alone. Sourced by the build.sh files.
#
# DODAI_ARTIFACTS names another folder for the results, so that a check can compare without changing the tree.

target=wasm32-wasip2
target_dir=${CARGO_TARGET_DIR:-$here/target}
digests=""
sizes=""

# build_modules FOLDER: builds the workspace there. No path of this machine gets into the code.
build_modules() {
  flags="--remap-path-prefix=$root=/dodai --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
  (cd "$1" && env -u CARGO_ENCODED_RUSTFLAGS RUSTFLAGS="$flags" CARGO_INCREMENTAL=0 \
    cargo build --quiet --locked --release --target "$target" --target-dir "$target_dir")
}

# collect CRATE NAME FOLDER: copies the artefact to FOLDER/NAME.wasm and remembers its digest.
collect() {
  out=${DODAI_ARTIFACTS:-$3}
  mkdir -p "$out"
  cp "$target_dir/$target/release/$1.wasm" "$out/$2.wasm"
  chmod 644 "$out/$2.wasm"
  sha256=$(sha256sum "$out/$2.wasm" | cut -d' ' -f1)
  bytes=$(wc -c < "$out/$2.wasm" | tr -d ' ')
  digests="$digests${digests:+,
}    \"$2\": \"$sha256\""
  sizes="$sizes${sizes:+,
}    \"$2\": $bytes"
  echo "$2.wasm  $bytes bytes  sha256 $sha256"
}

# sources FOLDER...: one digest over names and contents of all sources there, documents aside.
sources() {
  (cd "$root" && find "$@" -name target -prune -o -name artifacts -prune -o -type f ! -name '*.md' -print |
    LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1)
}

# write_record FOLDER COMMAND SOURCE_FOLDER...: artifacts.json, what was made of what, by what.
write_record() {
  out=${DODAI_ARTIFACTS:-$1}
  command=$2
  shift 2
  cat > "$out/artifacts.json" <<RECORD
{
  "bytes": {
$sizes
  },
  "command": "$command",
  "compiler": "$(cd "$root" && rustc --version)",
  "sha256": {
$digests
  },
  "sources": "$(sources "$@")",
  "target": "$target"
}
RECORD
}
