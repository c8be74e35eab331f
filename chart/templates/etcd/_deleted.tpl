{{- /*
An upgrade under another name, or with etcd.enabled=false, would have Helm delete the etcd that the release has: its
StatefulSet is in the release before and not in the one after. Helm's Job asks the same where nothing can be looked up
(hook preflight, membership/src/deleted.rs). A parent chart's own etcd may have the same labels but for part-of, and that
of another alias too; before that label there was our annotation of the pods.
*/ -}}
{{- define "etcd-scaler.etcd.deletes-none" -}}
{{- $root := . -}}
{{- $namespace := .Release.Namespace -}}
{{- $keeps := "" -}}
{{- $then := "no etcd of the chart's own (etcd.enabled=false)" -}}
{{- if .Values.etcd.enabled -}}
{{- $keeps = include "etcd-scaler.target" . -}}
{{- $then = printf "StatefulSet %s in its place, which would begin without any of its keys" $keeps -}}
{{- end -}}
{{- if .Release.IsUpgrade -}}
{{- range $live := (lookup "apps/v1" "StatefulSet" $namespace "").items -}}
{{- $name := $live.metadata.name -}}
{{- $labels := default dict $live.metadata.labels -}}
{{- $its := eq (dig "app.kubernetes.io/instance" "" $labels) $root.Release.Name -}}
{{- $its = and $its (eq (dig "app.kubernetes.io/name" "" $labels) "etcd") (eq (dig "app.kubernetes.io/managed-by" "" $labels) "Helm") -}}
{{- $its = and $its (eq (dig "meta.helm.sh/release-name" $root.Release.Name (default dict $live.metadata.annotations)) $root.Release.Name) -}}
{{- $pods := default dict (dig "metadata" "annotations" dict $live.spec.template) -}}
{{- $marked := hasKey $pods "etcd-scaler.io/initial-cluster" | ternary $root.Chart.Name "" -}}
{{- $its = and $its (eq (dig "app.kubernetes.io/part-of" $marked $labels) $root.Chart.Name) -}}
{{- if and $its (ne $name $keeps) (ne $name (default "" $root.Values.etcd.deletes)) (not $live.metadata.deletionTimestamp) -}}
{{- fail (printf "this upgrade would delete StatefulSet %s/%s and stop every member of it: release %s has it now, and would have %s. Keep it: --set etcd.enabled=true,etcd.fullnameOverride=%s. If it is to go: --set etcd.deletes=%s; its claims stay, and under that name it comes back with its keys" $namespace $name $root.Release.Name $then $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /*
A StatefulSet that is stopped, or that an earlier installation left, has the record of its members. Where the webhook is not
there to be asked, another count would start some of them, or others beside them. Input: root.
*/ -}}
{{- define "etcd-scaler.etcd.starts-all" -}}
{{- if .Values.etcd.enabled -}}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "etcd-scaler.target" .) -}}
{{- if and $live (eq (int $live.spec.replicas) 0) -}}
{{- $record := dig "etcd-scaler.io/record" "{}" (default dict $live.metadata.annotations) | fromJson -}}
{{- $count := len (dig "members" dict $record) -}}
{{- if and $count (ne $count (int .Values.etcd.replicaCount)) (ne 0 (int .Values.etcd.replicaCount)) -}}
{{- fail (printf "StatefulSet %s/%s is stopped with %d members. They come back together or not at all: fewer may be no quorum, and a newcomer needs one to join. Start it first: --set etcd.replicaCount=%d. Scale then" .Release.Namespace $live.metadata.name $count $count) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
