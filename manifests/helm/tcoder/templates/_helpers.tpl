{{/* The name of what belongs to the controller. */}}
{{- define "tcoder.controller" -}}
{{ printf "%s-controller" .Release.Name }}
{{- end }}

{{- define "tcoder.secret" -}}
{{ .Values.secretName | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "tcoder.labels" -}}
app.kubernetes.io/part-of: tcoder
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels by which the pods of this release are selected. */}}
{{- define "tcoder.selector" -}}
app.kubernetes.io/name: tcoder
app.kubernetes.io/component: controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/*
The documents of the files of kustomize in `files`, as a map of one list, `items`.
*/}}
{{- define "tcoder.documents" -}}
items:
{{- range $document := regexSplit "(?m)^---$" . -1 }}
- {{ fromYaml $document | toJson }}
{{- end }}
{{- end }}

{{/*
The name of an object in those files for this release: without the namespace before a colon, and with the name of the
release for that of the project. What belongs to the cluster has the namespace of the release before it, because
another namespace may have a release of this name.
*/}}
{{- define "tcoder.rename" -}}
{{- $name := .name | splitList ":" | last | trimPrefix "tcoder-" | printf "%s-%s" .root.Release.Name -}}
{{- if .cluster }}{{ .root.Release.Namespace }}:{{ end }}{{ $name }}
{{- end }}
