#!/bin/sh
# Rebuilds artifacts/web.wasm, catalog.wasm and notify.wasm; the same sources give the same bytes in any folder.
# Needs the WASM target once: rustup target add wasm32-wasip2
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
. "$here/recipe.sh"
build_modules "$here"
for module in catalog notify web; do
  collect "$module" "$module" "$here/../artifacts"
done
write_record "$here/../artifacts" examples/shop/modules/build.sh examples/shop/modules examples/shop/wit
