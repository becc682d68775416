{{- define "tidegate.name" -}}
{{- $full := printf "%s-%s" .Release.Name .Chart.Name }}
{{- if contains .Chart.Name .Release.Name }}{{ $full = .Release.Name }}{{ end }}
{{- $full | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "tidegate.secret" -}}
{{ .Values.admin.existingSecret | default (include "tidegate.name" .) }}
{{- end }}

{{- define "tidegate.config" -}}
{{- $admin := dict "bind" (printf "0.0.0.0:%v" .Values.admin.port) "token_file" "/run/secrets/tidegate/token" }}
{{- $shutdown := dict "drain_timeout" (printf "%vs" .Values.shutdown.drain) }}
{{- merge (dict "admin" $admin "shutdown" $shutdown) .Values.config | toYaml }}
{{- end }}

{{- /* The image: with a digest the tag is for people, and the digest decides. */ -}}
{{- define "tidegate.image" -}}
{{- $image := .Values.image -}}
{{- $tag := (not (empty $image.digest)) | ternary $image.tag ($image.tag | default .Chart.AppVersion) -}}
{{- $image.repository }}{{ with $tag }}:{{ . }}{{ end }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}
