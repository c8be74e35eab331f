{{- /* Names, labels and images. The names are a contract with the programs and with people: see README.md. */ -}}

{{- /* The prefix of every object that is ours and not etcd's. */ -}}
{{- define "etcd-scaler.prefix" -}}
{{- /* The longest name made from it is that of a Job (63), then RELEASE-etcd plus the hash of a revision (63). */ -}}
{{- if gt (len .Release.Name) 36 -}}
{{- fail (printf "release name %q has %d characters: use at most 36, names of pods and Jobs are made from it" .Release.Name (len .Release.Name)) -}}
{{- end -}}
{{ .Release.Name }}-etcd-scaler
{{- end -}}

{{- /* Names of cluster-scoped objects hold the namespace: two releases of one name may exist. */ -}}
{{- define "etcd-scaler.cluster-name" -}}
{{ include "etcd-scaler.prefix" . }}-{{ .Release.Namespace }}
{{- end -}}

{{- /* The StatefulSet that we look after: this chart's, or the one named in `target`. */ -}}
{{- define "etcd-scaler.target" -}}
{{- if .Values.etcd.enabled -}}
{{ default (printf "%s-etcd" .Release.Name) .Values.etcd.fullnameOverride }}
{{- else -}}
{{ required "etcd.enabled is false: target.statefulset must name the etcd StatefulSet to look after" .Values.target.statefulset }}
{{- end -}}
{{- end -}}

{{- define "etcd-scaler.lease" -}}
{{ include "etcd-scaler.target" . }}-scaler
{{- end -}}

{{- /* Labels of our objects. */ -}}
{{- define "etcd-scaler.labels" -}}
app.kubernetes.io/name: etcd-scaler
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Labels that select the webhook's pods. */ -}}
{{- define "etcd-scaler.webhook.selector" -}}
app.kubernetes.io/name: etcd-scaler
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: webhook
{{- end -}}

{{- /* Labels that select etcd's pods: immutable in the StatefulSet, so nothing of the chart's version is in them. */ -}}
{{- define "etcd-scaler.etcd.selector" -}}
app: etcd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/name: etcd
{{- end -}}

{{- define "etcd-scaler.image" -}}
{{ .Values.image.repository }}:{{ include "etcd-scaler.number" (default .Chart.AppVersion .Values.image.tag) }}
{{- end -}}

{{- define "etcd-scaler.pv.host-path" -}}
{{ default (printf "/var/local/%s/etcd/pod-" .Release.Name) .Values.pv.hostPath }}
{{- end -}}

{{- /* For resourceNames: a Role has no pattern, so the seven ordinals are written out. Input: the prefix with its "-". */ -}}
{{- define "etcd-scaler.ordinals" -}}
{{- $names := list -}}
{{- range $ordinal := until 7 -}}
{{- $names = append $names (printf "%s%d" $ $ordinal) -}}
{{- end -}}
{{ toJson $names }}
{{- end -}}

{{- /* Our own pods satisfy the `restricted` Pod Security Standard. */ -}}
{{- define "etcd-scaler.pod-security" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "etcd-scaler.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* The flags that name the StatefulSet and its addresses: the same for the webhook and every Job. */ -}}
{{- define "etcd-scaler.target-args" -}}
- --namespace={{ .Release.Namespace }}
- --statefulset={{ include "etcd-scaler.target" . }}
- --cronjob={{ include "etcd-scaler.prefix" . }}
{{- if .Values.etcd.enabled }}
- --container=etcd
- --peer-scheme=http
- --peer-port=2380
- --client-scheme=http
- --client-port=2379
{{- else }}
- --container={{ .Values.target.container }}
- --peer-scheme={{ .Values.target.peerScheme }}
- --peer-port={{ .Values.target.peerPort }}
- --client-scheme={{ .Values.target.clientScheme }}
- --client-port={{ .Values.target.clientPort }}
{{- end }}
- --cluster-domain={{ .Values.etcd.clusterDomain }}
- --log-format={{ .Values.logFormat }}
- --log-filter={{ .Values.logFilter }}
{{- end -}}

{{- /* The same as variables, for another command of the image in the same container (docs/commands.md). */ -}}
{{- define "etcd-scaler.target-env" -}}
{{- range include "etcd-scaler.target-args" . | fromYamlArray }}
{{- $flag := splitn "=" 2 (trimPrefix "--" .) }}
- name: ETCD_SCALER_{{ $flag._0 | upper | replace "-" "_" }}
  value: {{ $flag._1 | quote }}
{{- end }}
{{- end -}}

{{- /* The flags that say how volumes are made. */ -}}
{{- define "etcd-scaler.volume-args" -}}
- --release={{ .Release.Name }}
- --release-namespace={{ .Release.Namespace }}
- --pv-name-prefix={{ .Values.pv.namePrefix }}
- --pv-host-path={{ include "etcd-scaler.pv.host-path" . }}
- --pv-capacity={{ default .Values.etcd.persistence.size .Values.pv.capacity }}
- --pv-reclaim-policy={{ .Values.pv.reclaimPolicy }}
- --pv-pin={{ .Values.pv.pin }}
- --pv-bound-by-controller={{ .Values.pv.boundByController }}
- --on-scale-down={{ .Values.pv.onScaleDown }}
{{- end -}}

{{- /* The claims of the ordinals. */ -}}
{{- define "etcd-scaler.claims" -}}
{{- $template := ternary "data" .Values.target.volumeClaimTemplate .Values.etcd.enabled -}}
{{ include "etcd-scaler.ordinals" (printf "%s-%s-" $template (include "etcd-scaler.target" .)) }}
{{- end -}}

{{- define "etcd-scaler.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "etcd-scaler.pull-secrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* A value in full digits: a number from YAML is a float to Helm, and 8589934592 would print as 8.589934592e+09. */ -}}
{{- define "etcd-scaler.number" -}}
{{ kindIs "string" . | ternary . (int64 .) }}
{{- end -}}
