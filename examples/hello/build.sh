#!/bin/sh
# Rebuilds artifacts/hello-v1.wasm and hello-v2.wasm; the same sources give the same bytes in any folder.
# Needs the WASM target once: rustup target add wasm32-wasip2
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/examples/shop/modules/recipe.sh"
for version in v1 v2; do
  HELLO_VERSION=$version build_modules "$here"
  collect hello "hello-$version" "$here/artifacts"
done
write_record "$here/artifacts" examples/hello/build.sh examples/hello/src examples/hello/Cargo.toml examples/hello/Cargo.lock examples/shop/wit
