#!/bin/sh
# Rebuilds artifacts/hello-async.wasm; the same sources give the same bytes in any folder.
# Needs the WASM target once: rustup target add wasm32-wasip2
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
. "$root/examples/shop/modules/recipe.sh"
build_modules "$here"
collect hello_async hello-async "$here/artifacts"
write_record "$here/artifacts" examples/hello-async/build.sh examples/hello-async/src examples/hello-async/Cargo.toml examples/hello-async/Cargo.lock examples/shop/wit
