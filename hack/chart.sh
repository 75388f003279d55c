#!/bin/sh
# Copies what the Helm chart shares with the kustomize base: the definitions and the rules of all roles. `make crds` runs
# it, and a test compares the copies. Helm reads no file outside of a chart.
set -eu
cd "$(dirname "$0")/../manifests"
chart=helm/tcoder
mkdir -p $chart/crds $chart/files
cp crds/crds.yaml $chart/crds/crds.yaml
cp crds/users.yaml $chart/files/users.yaml
cp base/rbac.yaml $chart/files/rbac.yaml
cp overlays/cluster-wide/rbac.yaml $chart/files/cluster-rbac.yaml
cp overlays/kueue/rbac.yaml $chart/files/kueue-rbac.yaml
