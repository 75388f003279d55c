# What the scripts of the node share. They define `fail MESSAGE`, which ends them, and `patience`, in seconds.

# Waits until a command succeeds: `until_true WHAT COMMAND...`.
until_true() {
  local what=$1 end=$((SECONDS + patience))
  shift
  while [ $SECONDS -lt $end ]; do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.2
  done
  fail "it does not happen in $patience s: $what"
}
