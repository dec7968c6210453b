#!/bin/sh
# Sets the example up in network namespaces of its own, and takes it down again. Needs root.
#
#   legacy.sh up        nginx, the stock server and a place for clients; no Dodai
#   legacy.sh intercept Dodai beside the clients and beside nginx, and rules that lead connections to it
#   legacy.sh release   takes the rules and Dodai away
#   legacy.sh down      takes everything away
#   legacy.sh in NAME COMMAND...  runs a command in one of the namespaces: client, web, stock
#
# DODAI is the program (default: dodai), LEGACY_STATE where files are kept (default: /run/dodai-legacy), LEGACY_TAG
# what the names of the namespaces begin with (default: legacy).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dodai=${DODAI:-dodai}
# Only root writes below /run: nobody else can have put something in its way.
state=${LEGACY_STATE:-/run/dodai-legacy}
tag=${LEGACY_TAG:-legacy}
PATH=$PATH:/usr/sbin:/sbin

in_ns() {
  name=$1
  shift
  ip netns exec "$tag-$name" "$@"
}

# Starts a program in a namespace; its process id and output are files in the state folder.
start() {
  name=$1
  namespace=$2
  shift 2
  ip netns exec "$tag-$namespace" "$@" >"$state/$name.log" 2>&1 </dev/null &
  echo $! >"$state/$name.pid"
}

# Ends a program that `start` started, and waits for its end.
stop() {
  [ -f "$state/$1.pid" ] || return 0
  pid=$(cat "$state/$1.pid")
  kill "$pid" 2>/dev/null || true
  tries=0
  while kill -0 "$pid" 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 200 ] || { kill -9 "$pid" 2>/dev/null || true; break; }
    sleep 0.1
  done
  rm -f "$state/$1.pid"
}

# Waits until a command succeeds.
until_ok() {
  what=$1
  shift
  tries=0
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { echo "legacy.sh: not in time: $what; see $state" >&2; exit 1; }
    sleep 0.1
  done
}

up() {
  mkdir -p "$state/nginx/tmp"
  # A switch in a namespace of its own: nothing of the machine's network is touched.
  ip netns add "$tag-switch"
  ip -n "$tag-switch" link add switch type bridge
  ip -n "$tag-switch" link set switch up
  host=1
  for name in client web stock; do
    ip netns add "$tag-$name"
    ip -n "$tag-$name" link set lo up
    ip -n "$tag-$name" link add eth0 type veth peer name "$name" netns "$tag-switch"
    ip -n "$tag-switch" link set "$name" master switch up
    ip -n "$tag-$name" address add "10.92.0.$host/24" dev eth0
    ip -n "$tag-$name" link set eth0 up
    host=$((host + 1))
  done
  # The names that the client has always used; `ip netns exec` shows this file as /etc/hosts.
  mkdir -p "/etc/netns/$tag-client"
  printf '127.0.0.1 localhost\n10.92.0.2 web\n10.92.0.3 stock\n' >"/etc/netns/$tag-client/hosts"
  start nginx web nginx -p "$state/nginx" -c "$here/nginx.conf"
  start stock stock python3 "$here/stock.py" 8000
  until_ok "nginx answers" in_ns client curl -sf http://web/
  until_ok "the stock server answers" in_ns client curl -s http://stock:8000/
}

intercept() {
  for side in client web; do
    start "base-$side" "$side" "$dodai" base --from "$here/$side" --data "$state/$side" \
      --admin 127.0.0.1:7070 --metrics 127.0.0.1:7071 --threads 1
    until_ok "the base beside $side is ready" grep -q "management API" "$state/base-$side.log"
  done
  in_ns client "$dodai" intercept install
  in_ns web "$dodai" intercept install --no-outbound --inbound-ports 80
}

release() {
  for side in client web; do
    in_ns "$side" "$dodai" intercept remove
    stop "base-$side"
  done
}

down() {
  for name in base-client base-web nginx stock; do
    stop "$name"
  done
  for name in client web stock switch; do
    ip netns delete "$tag-$name" 2>/dev/null || true
  done
  rm -rf "/etc/netns/$tag-client" "$state"
}

case ${1:-} in
  up | intercept | release | down) "$1" ;;
  in)
    shift
    in_ns "$@"
    ;;
  *)
    sed -n '2,10p' "$0" >&2
    exit 2
    ;;
esac
