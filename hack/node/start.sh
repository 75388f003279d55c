#!/bin/bash
# Starts a cluster of one node, in the namespaces that hack/test-node.sh has made, then the checks. Everything ends with
# this process, which is the first of its PID namespace.
set -euo pipefail

node=10.77.0.1       # the address of the node, its API server and its DNS server
pods=10.88.0.0/16
services=10.96.0.0/16
domain=cluster.local
work=$NODE_WORK
log=$work/log
mkdir -p "$log" "$work"/{cni,hosts,kubelet,containerd,run}
mkdir "$work/bin"
ln -s "$NODE_HELM" "$work/bin/helm"
PATH=$NODE_PROGRAMS:$work/bin:$PATH
HOME=$work
export HOME PATH KUBECONFIG=$work/kubeconfig

fail() {
  echo "$1" >&2
  for file in "$log"/*.log; do
    printf '\n== %s\n' "$file" >&2
    tail -n 15 "$file" >&2
  done
  exit 1
}

# Runs a program in the background, with a log of its name.
start() {
  local name=$1
  shift
  "$@" >"$log/$name.log" 2>&1 &
}

patience=120
# shellcheck source=hack/node/lib.sh
. hack/node/lib.sh

# Nothing leaves this network namespace: it has loopback, and the bridge of the pods.
ip link set lo up
ip address add $node/32 dev lo
sysctl -qw net.ipv4.ip_forward=1
# Nor is anything left in the folders of the machine that containerd, its plugins and the kubelet write to.
for folder in run var/lib var/log; do
  mkdir -p "$work/over/$folder" "$work/over/$folder.work"
  mount -n -t overlay -o "lowerdir=/$folder,upperdir=$work/over/$folder,workdir=$work/over/$folder.work" overlay "/$folder"
done
mount --make-rshared /

# The API server.
openssl genrsa -out "$work/sa.key" 2048 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,admin,admin,system:masters" >"$work/tokens.csv"
start etcd etcd --data-dir "$work/etcd"
start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 \
  --advertise-address=$node --cert-dir="$work/certificates" --service-cluster-ip-range=$services \
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$work/sa.key" \
  --service-account-signing-key-file="$work/sa.key" --token-auth-file="$work/tokens.csv" \
  --authorization-mode=Node,RBAC --kubelet-preferred-address-types=InternalIP --allow-privileged=false
cat >"$KUBECONFIG" <<Y
apiVersion: v1
kind: Config
current-context: node
clusters: [{name: node, cluster: {server: "https://$node:6443", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: $token}}]
contexts: [{name: node, context: {cluster: node, user: admin}}]
Y
until_true "the API server is ready" kubectl get --raw /readyz
start kube-controller-manager kube-controller-manager --kubeconfig="$KUBECONFIG" --leader-elect=false \
  --flex-volume-plugin-dir="$work/plugins" \
  --service-account-private-key-file="$work/sa.key" --root-ca-file="$work/certificates/apiserver.crt"
start kube-scheduler kube-scheduler --kubeconfig="$KUBECONFIG" --leader-elect=false

# Containers.
cat >"$work/cni/10-bridge.conflist" <<J
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$work/cni-data", "ranges": [[{"subnet": "$pods"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "loopback"}]}
J
cni=/usr/lib/cni
[ -x $cni/bridge ] || cni=/opt/cni/bin
cat >"$work/containerd.toml" <<T
version = 2
root = "$work/containerd"
state = "$work/run/containerd"
[grpc]
  address = "$work/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$cni"
    conf_dir = "$work/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
  path = "$work/opt"
T
start containerd containerd --config "$work/containerd.toml"
ctr() { command ctr --address "$work/run/containerd.sock" --namespace k8s.io "$@"; }
until_true "containerd answers" ctr version
for image in "$work"/images/*.tar; do
  ctr images import "$image" >>"$log/images.log" 2>&1 || fail "The image cannot be imported: $image"
done
rm -rf "$work/images"

# Names of Services. A hosts file is all that a cluster without CoreDNS needs here.
echo "nameserver $node" >"$work/resolv.conf"
start dnsmasq dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
  --listen-address=$node --bind-interfaces --hostsdir="$work/hosts" --log-facility=-
follow_services() {
  while sleep 1; do
    kubectl get services -A -o json 2>/dev/null | jq -r --arg domain "$domain" \
      '.items[] | select(.spec.clusterIP != "None") | "\(.spec.clusterIP) \(.metadata.name).\(.metadata.namespace).svc.\($domain)"' \
      >"$work/services.new" || continue
    cmp -s "$work/services.new" "$work/hosts/services" || cp "$work/services.new" "$work/hosts/services"
  done
}
start names follow_services

cat >"$work/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: node
clusterCIDR: $pods
clientConnection: {kubeconfig: $KUBECONFIG}
# A reply from a pod on the same bridge must come back through the node.
nftables: {masqueradeAll: true}
conntrack: {maxPerCore: 0, min: 0}
Y
start kube-proxy kube-proxy --config "$work/proxy.yaml"

cat >"$work/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
# This works on both versions of cgroups.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: $NODE_CGROUP
containerRuntimeEndpoint: unix://$work/run/containerd.sock
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDNS: [$node]
clusterDomain: $domain
resolvConf: $work/resolv.conf
podLogsDir: $log/pods
volumePluginDir: $work/plugins
registerNode: true
# No image can be pulled again, thus none is removed on a machine whose disk is nearly full.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# The use of disks by pods, for evictions, is looked at once a minute otherwise.
volumeStatsAggPeriod: 5s
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
Y
# The kubelet does not make the root of its cgroups.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mkdir -p "/sys/fs/cgroup$NODE_CGROUP"
  # shellcheck disable=SC2013 # words
  for controller in $(cat "/sys/fs/cgroup$NODE_CGROUP/cgroup.controllers"); do
    echo "+$controller" >"/sys/fs/cgroup$NODE_CGROUP/cgroup.subtree_control" 2>/dev/null || true
  done
else
  for controller in /sys/fs/cgroup/*/; do
    mkdir -p "$controller$NODE_CGROUP"
  done
  for file in cpuset.cpus cpuset.mems; do
    cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset$NODE_CGROUP/$file"
  done
fi
start kubelet kubelet --config "$work/kubelet.yaml" --kubeconfig "$KUBECONFIG" --root-dir "$work/kubelet" \
  --hostname-override=node --node-ip=$node
until_true "the node registers" kubectl get node node
# Keeps the NetworkPolicies. Pods on the same bridge reach each other through the node's rules.
sysctl -qw net.bridge.bridge-nf-call-iptables=1
start kube-router "$NODE_KUBE_ROUTER" --kubeconfig="$KUBECONFIG" --hostname-override=node --run-firewall=true \
  --run-router=false --run-service-proxy=false --service-cluster-ip-range=$services
kubectl wait --for=condition=Ready node/node --timeout=120s >/dev/null || fail "The node is not ready."
until_true "there is a default ServiceAccount" kubectl get serviceaccount default

if [ "$NODE_MODE" = --shell ]; then
  echo "KUBECONFIG=$KUBECONFIG; logs are in $log. The node ends with this shell."
  bash -i
else
  hack/node/checks.sh || fail "A check failed."
fi
