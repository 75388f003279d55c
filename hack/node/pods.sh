# Pods as machines, on the node: the part of checks.sh about a WorkerPool with `provider.pods`.

pod_of_pool=tcoder.dev/worker-pool=pods
# The pool: `pool MAX MEMORY-LIMIT`.
pool() {
  kubectl apply -f - >/dev/null <<Y
apiVersion: tcoder.dev/v1alpha1
kind: WorkerPool
metadata: {name: pods, namespace: $space}
spec:
  max: $1
  idleTimeoutSeconds: 5
  image: ghcr.io/tcoder/tcoder-worker:$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
  provider:
    pods:
      resources:
        requests: {cpu: 50m, memory: 128Mi, ephemeral-storage: 1Gi}
        limits: {memory: $2, ephemeral-storage: 1Gi}
      template: {spec: {containers: [{name: worker, envFrom: [{secretRef: {name: $secret}}]}]}}
Y
}
pool_is_ready() {
  local said
  said=$(kubectl -n $space get wp pods -o 'jsonpath={.status.conditions[?(@.type=="Ready")]}')
  [ "$(jq -r .status <<<"$said")" = True ] || fail "the pool is not ready: $said"
}
machines() { kubectl -n $space get pods -l $pod_of_pool "$@" -o name; }
no_machine() { [ -z "$(machines)" ]; }
# Asserts that no attempt at a job was lost.
first_attempt() { [ "$(of "$1" .status.attempts)" = 1 ] || fail "$1 needed $(of "$1" .status.attempts) attempts"; }
# Waits until the controller says why it removed a pod: `ended REGEX`.
ended() {
  until_true "the log says of a pod: $1" eval "kubectl -n $space logs deployment/tcoder-controller |
    grep -E 'its process has ended, and its provider cannot start it again: $1'"
}
drain() { kubectl drain node --pod-selector=$pod_of_pool --delete-emptydir-data --timeout=240s; }

step "pods as machines: the controller makes a pod for a job; eviction through the API is refused, and a drain waits"
kubectl -n $space scale deployment/tcoder-worker --replicas=0 >/dev/null
until_true "there is no worker" eval "[ -z \"\$(kubectl -n $space get pods -l $worker -o name)\" ]"
pool 1 1Gi
# The budget of the sample.
sed "1,/^---\$/d; s/^  namespace: .*/  namespace: $space/" manifests/samples/workerpool-pods.yaml | kubectl apply -f - >/dev/null
submit pooled 2
freeze pooled
pod=$(machines)
budget_counts() { kubectl -n $space get pdb tcoder-workers -o json | jq -e '.status.expectedPods == 1 and .status.currentHealthy == 1'; }
until_true "the budget counts the pod" budget_counts
if said=$(kubectl create --raw "/api/v1/namespaces/$space/pods/${pod#pod/}/eviction" -f - 2>&1 <<J
{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "${pod#pod/}", "namespace": "$space"}}
J
); then fail "the pod was evicted"; fi
[[ $said == *"disruption budget"* ]] || fail "$said"
drain >"$films/drain" 2>&1 &
drain=$!
until_true "the drain waits for the budget" grep -q "disruption budget" "$films/drain"
pkill -CONT -x ffmpeg
complete_once pooled
wait $drain || fail "the drain does not end: $(cat "$films/drain")"
first_attempt pooled
kubectl uncordon node >/dev/null
kubectl -n $space delete pdb tcoder-workers >/dev/null

step "drain the node without a budget: the job is given back, and goes on elsewhere"
submit pool-drained 2
freeze pool-drained
drain >/dev/null 2>&1 || fail "the drain does not end"
no_capacity() { kubectl -n $space get wp pods -o json | jq -e '.status.conditions[] | select(.type == "Ready" and .reason == "NoCapacity")'; }
until_true "the next pod has no node" no_capacity
kubectl uncordon node >/dev/null
complete_once pool-drained
first_attempt pool-drained

step "kill the worker of such a pod during an encode: the job ends once"
submit pool-killed 2
freeze pool-killed
kill -KILL "$(pgrep -f '^/usr/local/bin/tcoder worker$')"
complete_once pool-killed
ended 'Error .exit code 137.'

step "memory runs out in such a pod: another one follows, and the log tells it from a failed launch"
submit pool-starved 2
freeze pool-starved
# A process of the node fills the memory of the container. The kernel prefers to kill the worker, since the kubelet has marked
# the processes of pods.
starved=$(pgrep -f '^/usr/local/bin/tcoder worker$')
path=$(awk -F: '$2 == "memory" || $2 == "" { print $3; exit }' "/proc/$starved/cgroup")
for root in /sys/fs/cgroup/memory /sys/fs/cgroup; do [ ! -d "$root$path" ] || break; done
bash -c "echo \$\$ >$root$path/cgroup.procs && head -c 4G /dev/zero | tail -c 4G" >/dev/null 2>&1 || true
complete_once pool-starved
ended OOMKilled
pool_is_ready

step "the kubelet evicts such a pod, whose disk is full: another one follows"
submit pool-evicted 2
freeze pool-evicted
uid=$(kubectl -n $space get "$(machines --field-selector=status.phase=Running)" -o 'jsonpath={.metadata.uid}')
fallocate -l 1100M "$NODE_WORK/kubelet/pods/$uid/volumes/kubernetes.io~empty-dir/tcoder-scratch/full"
evicted() { [ -n "$(kubectl -n $space get events --field-selector=reason=Evicted -o name)" ]; }
until_true "the kubelet evicts the pod" evicted
complete_once pool-evicted
pool_is_ready
until_true "there is no pod without work" no_machine

step "delete the pool during an encode: none of its pods is left, and the job waits for another worker"
submit pool-deleted 2
freeze pool-deleted
kubectl -n $space delete wp pods >/dev/null
until_true "no pod of the pool is left" no_machine
phase_is pool-deleted Queued
pool 10 4Gi
complete_once pool-deleted
first_attempt pool-deleted
until_true "there is no pod without work" no_machine

step "from no pod to ten"
began=$(date +%s%3N)
for n in $(seq 12); do submit "ten-$n" 2; done
ten_run() { [ "$(machines --field-selector=status.phase=Running | wc -l)" -ge 10 ]; }
until_true "ten pods run" ten_run
awk -v ms=$(($(date +%s%3N) - began)) 'BEGIN { printf "          pods_0_to_10_s %.1f s\n", ms / 1000 }'
kubectl delete tj --all --timeout=120s >/dev/null || fail "the jobs are not deleted"
until_true "there is no pod without work" no_machine
