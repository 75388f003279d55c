# NetworkPolicies on the node: the part of checks.sh about who can reach what. kube-router keeps them.

# Runs a command in the network namespace of a process: `in_net PID COMMAND...`.
in_net() { nsenter --net="/proc/$1/ns/net" "${@:2}"; }
# Whether the address $2 answers a process: `reaches PID URL`.
reaches() { in_net "$1" curl -s -o /dev/null --connect-timeout 3 --max-time 5 "$2"; }
address_of() { kubectl -n $space get pods -l "$1" -o 'jsonpath={.items[0].status.podIP}'; }

step "the controller reaches what its NetworkPolicy names, and nothing else; others reach only its metrics"
controller=$(pgrep -f '^/usr/local/bin/tcoder controller')
redis=$(pgrep -x redis-server)
# A port that no policy names, in the pods of the controller and of Redis.
for process in "$controller" "$redis"; do
  in_net "$process" "$NODE_PYTHON/bin/python3" -m http.server 9999 --directory "$films" >/dev/null 2>&1 &
  until_true "a port is open beside $process" reaches "$process" http://127.0.0.1:9999
done
redis_address=$(address_of app.kubernetes.io/name=redis)
s3_address=$(address_of app.kubernetes.io/name=s3)
controller_address=$(address_of app.kubernetes.io/component=controller)
s3_process=$(pgrep -f '/usr/local/lib/s3.py')
reaches "$s3_process" "http://$redis_address:9999" || fail "pods without a policy do not reach each other"
reaches "$controller" "http://$s3_address:8333" || fail "the controller does not reach the storage"
if reaches "$controller" "http://$redis_address:9999"; then fail "the controller reaches a port that no policy names"; fi
reaches "$redis" "http://$controller_address:9090/livez" || fail "others do not reach the metrics of the controller"
if reaches "$redis" "http://$controller_address:9999"; then fail "others reach a port of the controller that no policy names"; fi
pkill -f 'http.server 9999'
