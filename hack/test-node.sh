#!/bin/bash
# tcoder on a node of Kubernetes: containerd, runc, kubelet, scheduler, controller manager, kube-proxy and the API server of
# hack/envtest.sh, in namespaces (network, mounts, processes) that end with this script. hack/node/checks.sh is what is
# tested. No registry is needed: hack/node/images.sh makes the images from programs of this machine.
#
#   test-node.sh           runs it
#   test-node.sh --check   says in one line why this machine cannot run it, and fails, or succeeds
#   test-node.sh --shell   starts the node and a shell with kubectl, without the checks
#
# It builds tcoder, unless TCODER names the program. NODE_KEEP_LOGS names a folder, which must not exist yet, for the logs of the
# node.
set -euo pipefail
cd "$(dirname "$0")/.."

cannot() {
  echo "The tests on a node do not run here: $1"
  exit 1
}
[ "$(uname -s)" = Linux ] || cannot "they need Linux"
[ "$(id -u)" = 0 ] || cannot "they need root"
grep -qw memory /proc/cgroups || cannot "the kernel has no memory cgroup"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  # In most containers it cannot: there the root has processes, and the kernel refuses.
  grep -qw memory /sys/fs/cgroup/cgroup.subtree_control || {
    { echo +memory >/sys/fs/cgroup/cgroup.subtree_control && echo -memory >/sys/fs/cgroup/cgroup.subtree_control; } 2>/dev/null ||
      cannot "the root of the cgroups cannot give its children the memory controller"
  }
elif [ ! -w /sys/fs/cgroup/memory ]; then
  cannot "no cgroup hierarchy is writable"
fi
unshare --net --mount --pid --fork --mount-proc true 2>/dev/null || cannot "no namespaces can be made"
grep -qw overlay /proc/filesystems || cannot "the kernel has no overlayfs"
[ -e /proc/sys/net/bridge ] || modprobe -n br_netfilter 2>/dev/null ||
  cannot "the kernel does not filter what pods on a bridge send each other (br_netfilter)"
# shellcheck source=hack/download.sh
. hack/download.sh
[ -z "${NODE_KEEP_LOGS:-}" ] || [ ! -e "$NODE_KEEP_LOGS" ] || cannot "$NODE_KEEP_LOGS exists; NODE_KEEP_LOGS names a new folder"
go_can_build || cannot "there is no Go 1.21 or later, which builds Kubernetes"
[ "${1:-}" != --check ] || exit 0

hack/setup.sh node
NODE_PROGRAMS=$(hack/envtest.sh node)
NODE_HELM=$(hack/helm.sh)
NODE_KUBE_ROUTER=$(hack/kube-router.sh)
NODE_TCODER=${TCODER:-}
if [ -z "$NODE_TCODER" ]; then
  "${CARGO:-cargo}" build --locked --bin tcoder
  NODE_TCODER=${CARGO_TARGET_DIR:-target}/debug/tcoder
fi
# shellcheck source=hack/python.sh
. hack/python.sh
python_packages tests/s3
# Its path must be short: it contains sockets.
NODE_WORK=$(mktemp -d /tmp/tcoder-node.XXXXXX)
NODE_PYTHON=$python_packages
NODE_MODE=${1:-}
# The kubelet's cgroups are below this one.
NODE_CGROUP=/$(basename "$NODE_WORK" | tr . -)
export NODE_PROGRAMS NODE_HELM NODE_KUBE_ROUTER NODE_WORK NODE_TCODER NODE_PYTHON NODE_CGROUP NODE_MODE

# What the node changes of the machine itself is put back at the end. The kubelet sets these settings of the kernel:
settings=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes)
declare -A setting_before
for setting in "${settings[@]}"; do
  [ ! -r "/proc/sys/$setting" ] || setting_before[$setting]=$(cat "/proc/sys/$setting")
done
# A module of the kernel that was not loaded before.
module_added=
if [ ! -e /proc/sys/net/bridge ]; then
  modprobe br_netfilter
  module_added=br_netfilter
  # Bridges that the machine has already go on as before; hack/node/start.sh turns it on for those of the node.
  for table in iptables ip6tables arptables; do echo 0 >/proc/sys/net/bridge/bridge-nf-call-$table; done
fi
# Controllers of cgroups (version 2) which the root does not have for its children.
controllers_added=
add_controllers() {
  local control=/sys/fs/cgroup/cgroup.subtree_control controller
  [ -e $control ] || return 0
  # shellcheck disable=SC2013 # words
  for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    grep -qw "$controller" $control || ! echo "+$controller" >$control 2>/dev/null || controllers_added+=" $controller"
  done
}

node=
clean_up() {
  # All processes of the namespaces end with the first one.
  if [ -n "$node" ]; then kill -KILL "$node" 2>/dev/null || true; fi
  if [ -n "${NODE_KEEP_LOGS:-}" ] && [ -e "$NODE_WORK/log" ]; then
    cp -r "$NODE_WORK/log" "$NODE_KEEP_LOGS"
  fi
  # Mounts are gone with the namespaces; cgroups and files are not.
  for _ in $(seq 50); do
    find /sys/fs/cgroup -depth -type d -path "*$NODE_CGROUP*" -exec rmdir {} + 2>/dev/null || true
    [ -n "$(find /sys/fs/cgroup -type d -path "*$NODE_CGROUP*" -print -quit)" ] || break
    sleep 0.2
  done
  [ -z "$module_added" ] || modprobe -r "$module_added" || true
  for controller in $controllers_added; do
    echo "-$controller" >/sys/fs/cgroup/cgroup.subtree_control || true
  done
  for setting in "${!setting_before[@]}"; do
    [ "$(cat "/proc/sys/$setting")" = "${setting_before[$setting]}" ] ||
      echo "${setting_before[$setting]}" >"/proc/sys/$setting" || true
  done
  rm -rf "$NODE_WORK"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
add_controllers
hack/node/images.sh
namespaces=(unshare --net --mount --pid --fork --kill-child --mount-proc)
if [ "$NODE_MODE" = --shell ]; then
  "${namespaces[@]}" hack/node/start.sh
else
  "${namespaces[@]}" hack/node/start.sh &
  node=$!
  wait "$node"
  node=
fi
