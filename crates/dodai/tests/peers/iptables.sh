#!/bin/sh
# Stands for the tools of iptables in tests: writes down how it is called and keeps nothing. Files beside it make it
# answer: `found` that rules are there already, `NAME.fails` that NAME fails, `NAME.says` that it lists nothing and why.
cd "$(dirname "$0")"
name=$(basename "$0")
echo "$name $*" >> calls
case $name in
*-restore) cat > "$name.text"; [ ! -e "$name.fails" ] || { echo refused >&2; exit 1; } ;;
*-save) [ ! -e found ] || printf '*nat\n:OUTPUT ACCEPT [0:0]\n:DODAI_OUTPUT - [0:0]\n-A OUTPUT -p tcp -j DODAI_OUTPUT\n-A DODAI_OUTPUT -j RETURN\nCOMMIT\n' ;;
*)
  case "$*" in
  *-C*) [ -e found ] ;;
  *-D*|*-F*|*-X*) exit 1 ;;
  *-S*) [ ! -e "$name.says" ] || { cat "$name.says" >&2; exit 3; } ;;
  esac ;;
esac
