#!/bin/bash
# What tcoder does on a real node, with kubectl as docs/kubernetes.md says. A check that fails ends the script.
set -euo pipefail
shopt -s inherit_errexit
space=tcoder-try-out
worker=app.kubernetes.io/component=worker
s3=http://localhost:8333

step() { printf '%(%T)T  %s\n' -1 "$*"; }
fail() {
  echo "WRONG: $*" >&2
  kubectl get pods -A -o wide >&2
  kubectl get tj -A -o wide >&2
  kubectl get events -A --sort-by=.lastTimestamp >&2 | tail -n 20
  for deployment in tcoder-controller tcoder-worker; do
    kubectl -n $space logs "deployment/$deployment" --tail=20 >&2 || true
  done
  exit 1
}
# What a TranscodeJob's status says: `of NAME .status.phase`.
of() { kubectl get tj "$1" -o "jsonpath={$2}"; }
phase_is() { kubectl wait --for=jsonpath='{.status.phase}'="$2" "tj/$1" --timeout="${3:-120s}" >/dev/null || fail "$1 is not $2"; }
# An idle controller looks at its pods every few minutes.
patience=360
# shellcheck source=hack/node/lib.sh
. hack/node/lib.sh
# Waits until a job is being encoded: processes of pods are in the PID namespace of this script.
encodes() {
  phase_is "$1" Running
  until_true "FFmpeg encodes $1" pgrep -x ffmpeg
}
# Holds the encode of a job up, so that it lasts as long as what happens to its worker takes.
freeze() {
  encodes "$1"
  pkill -STOP -x ffmpeg
}
# The commands of the block that follows this line of docs/kubernetes.md.
documented() {
  awk -v line="$1" '$0 == line { found = 1 } inside && /^```$/ { exit } inside { print } found && /^```sh$/ { inside = 1 }' \
    docs/kubernetes.md
}
workers() { kubectl -n $space get pods -l $worker -o name; }
worker_is_ready() { kubectl -n $space rollout status deployment/tcoder-worker --timeout=180s >/dev/null || fail "no worker"; }
# A job of the longer film: `submit NAME BACKOFF-LIMIT`.
submit() {
  kubectl apply -f - >/dev/null <<Y
apiVersion: tcoder.dev/v1alpha1
kind: TranscodeJob
metadata: {name: $1}
spec: {input: {key: films/long.mp4}, preset: hls, qualities: [720p], backoffLimit: $2}
Y
}
# How many Events say that a job is complete.
completions() {
  kubectl get events --field-selector "involvedObject.name=$1,reason=Completed" -o json |
    jq '[.items[] | .series.count // .count // 1] | add // 0'
}
# Waits until a job is complete, and asserts that this happened once.
complete_once() {
  phase_is "$1" Complete 300s
  until_true "an Event says that $1 is complete" eval "[ \"\$(completions $1)\" -gt 0 ]"
  local completed
  completed=$(completions "$1")
  [ "$completed" = 1 ] || fail "$1 was completed $completed times"
  curl -fsS --output /dev/null "$s3/output/$(of "$1" '.status.outputs[0].key')" || fail "$1 has no output"
}

step "install, as docs/kubernetes.md says"
kubectl apply -k manifests/crds >/dev/null
kubectl apply -k hack/node/overlay >/dev/null
kubectl -n $space wait --for=condition=Available deployment --all --timeout=5m >/dev/null || fail "not all are available"
# The pods run under the restricted Pod Security Standard, which is enforced.
if said=$(kubectl -n $space run pod --image=redis:7 2>&1); then fail "the namespace takes any pod"; fi
[[ $said == *'violates PodSecurity "restricted'* ]] || fail "$said"

step "upload a video through the port of the S3 server"
films=$NODE_WORK/films
mkdir "$films"
ffmpeg -v error -f lavfi -i testsrc2=size=1280x720:rate=30:duration=5 -f lavfi -i sine=duration=5 -c:v libx264 -preset ultrafast \
  -pix_fmt yuv420p -c:a aac "$films/holiday.mov"
ffmpeg -v error -f lavfi -i testsrc2=size=1280x720:rate=30:duration=8 -c:v libx264 -preset ultrafast \
  -pix_fmt yuv420p "$films/long.mp4"
kubectl -n $space port-forward service/s3 8333 >/dev/null &
forward=$!
until_true "the port is forwarded" curl -s $s3/output
kubectl apply -f manifests/samples/upload.yaml >/dev/null
phase_is holiday Uploading
curl -fsS --connect-to s3:8333:localhost:8333 -T "$films/holiday.mov" "$(of holiday .status.uploadUrl)"
complete_once holiday
codecs=$(ffprobe -v error -show_entries stream=codec_name -of csv=p=0 "$(of holiday '.status.outputs[0].url')")
[[ $codecs == *h264*aac* ]] || fail "the output cannot be read: $codecs"

step "the first job, by the commands of docs/kubernetes.md"
curl -fsS -T "$films/holiday.mov" $s3/input/films/sintel.mov
commands=$(documented "The first job, in any namespace:")
[[ $commands == *"kubectl get tj -w"* ]] || fail "docs/kubernetes.md has no such commands: $commands"
# Nothing here reaches the web, from which the sample has its video.
sed 's,^    url: .*,    key: films/sintel.mov,' manifests/samples/hls.yaml >"$films/hls.yaml"
commands=${commands/manifests\/samples\/hls.yaml/$films\/hls.yaml}
commands=${commands/timeout=1h/timeout=5m}
# The watch does not end by itself.
kubectl get tj -w >"$films/watched" &
watch=$!
said=$(eval "${commands/kubectl get tj -w/}") || fail "the commands do not work: $said"
until_true "the watch shows the end of the job" grep -qE '^sintel .* Complete' "$films/watched"
kill $watch
complete_once sintel
for key in $(tail -n 1 <<<"$said"); do curl -fsS --output /dev/null "$s3/output/$key"; done
kubectl describe tj sintel | grep -qE 'Normal +Completed' || fail "describe does not show the Event of the end"

step "kill the worker with SIGKILL during an encode: the job ends once"
curl -fsS -T "$films/long.mp4" $s3/input/films/long.mp4
submit killed 2
freeze killed
kill -KILL "$(pgrep -f '^/usr/local/bin/tcoder worker$')"
complete_once killed
restarts=$(kubectl -n $space get pods -l $worker -o 'jsonpath={.items[0].status.containerStatuses[0].restartCount}')
[ "$restarts" -gt 0 ] || fail "the worker was not killed"

step "delete the pod by force during an encode: the job ends once"
submit deleted 2
freeze deleted
kubectl -n $space delete pod -l $worker --grace-period=0 --force >/dev/null 2>&1
complete_once deleted

step "drain the node during an encode: the job goes on elsewhere"
worker_is_ready
submit drained 2
freeze drained
before=$(workers)
kubectl drain node --pod-selector=$worker --delete-emptydir-data --timeout=120s >/dev/null 2>&1 || fail "the drain does not end"
[ "$(workers)" != "$before" ] || fail "the worker was not evicted"
until_true "the next worker has no node" eval "kubectl -n $space get pods -l $worker -o json |
  jq -e '.items[].status.conditions[] | select(.reason == \"Unschedulable\")'"
kubectl uncordon node >/dev/null
complete_once drained

step "too little memory: the failure says so"
worker_is_ready
kubectl -n $space set resources deployment/tcoder-worker --requests=memory=64Mi --limits=memory=64Mi >/dev/null
worker_is_ready
submit starved 0
phase_is starved Failed 300s
said=$(of starved .status.lastFailure.message)
echo "          $said"
# With cgroups of version 2 the kernel kills the whole container, and the worker cannot say anything.
[ -e /sys/fs/cgroup/cgroup.controllers ] || [[ $said == *'ran out of memory'* ]] || fail "the failure does not name the memory"
kubectl -n $space set resources deployment/tcoder-worker --requests=memory=512Mi --limits=memory=4Gi >/dev/null
worker_is_ready

step "scale to zero: a job waits, and runs when there is a worker"
kubectl -n $space scale deployment/tcoder-worker --replicas=0 >/dev/null
until_true "there is no worker" eval "[ -z \"\$(kubectl -n $space get pods -l $worker -o name)\" ]"
submit waiting 2
phase_is waiting Queued
kubectl -n $space scale deployment/tcoder-worker --replicas=1 >/dev/null
complete_once waiting

# Before there is a second controller.
# shellcheck source=hack/node/policies.sh
. hack/node/policies.sh

step "a second installation for all namespaces waits, and says why"
secret=$(kubectl -n $space get deployment tcoder-controller -o 'jsonpath={.spec.template.spec.containers[0].envFrom[1].secretRef.name}')
kubectl create namespace second >/dev/null
kubectl -n $space get secret "$secret" -o json | jq '{apiVersion, kind, type, data, metadata: {name: "second-secrets"}}' |
  kubectl -n second apply -f - >/dev/null
helm install second manifests/helm/tcoder --namespace second --set replicas=1 --set podDisruptionBudget.enabled=false >/dev/null
# The name of Redis there is that of the first installation.
kubectl -n second create service externalname redis --external-name=redis.$space.svc.cluster.local >/dev/null
until_true "the second installation names the first" eval "kubectl -n second logs deployment/second-controller |
  grep 'another installation reconciles the objects of all namespaces' | grep '\"namespace\":\"$space\"'"
[ "$(kubectl -n second get deployment second-controller -o 'jsonpath={.status.readyReplicas}')" = "" ] || fail "the second installation is ready"
helm uninstall second --namespace second >/dev/null
kubectl get crd transcodejobs.tcoder.dev >/dev/null || fail "the definitions are gone"

# shellcheck source=hack/node/pods.sh
. hack/node/pods.sh

step "uninstall: the definitions remain"
kill $forward
kubectl delete tj,wp -A --all --timeout=120s >/dev/null || fail "the jobs are not deleted"
kubectl delete -k hack/node/overlay --timeout=180s >/dev/null || fail "the installation is not deleted"
kubectl get crd transcodejobs.tcoder.dev workerpools.tcoder.dev >/dev/null || fail "the definitions are gone"
left=$(kubectl get clusterroles,clusterrolebindings -o name | grep tcoder-try-out) || left=
[ -z "$left" ] || fail "something is left: $left"
step "done"
