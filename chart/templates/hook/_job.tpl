{{- /*
The Job that scales: one template for the post-install/post-upgrade hook and for the CronJob from which the launcher
(in the webhook) and people start it.
Input: root, trigger.
*/ -}}
{{- define "etcd-scaler.hook.job-spec" -}}
{{- $root := .root -}}
{{- $hook := $root.Values.hook -}}
# One run either ends the work or says why not; the launcher decides about another try.
backoffLimit: 0
# The program ends by its own deadline with a reason; this is for a program that hangs.
activeDeadlineSeconds: {{ add (int $hook.deadlineSeconds) 30 }}
# Helm does not remove hooks at uninstall.
ttlSecondsAfterFinished: 3600
template:
  metadata:
    labels:
      {{- include "etcd-scaler.hook.labels" $root | nindent 6 }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "etcd-scaler.prefix" $root }}-hook
    enableServiceLinks: false
    terminationGracePeriodSeconds: 10
    {{- include "etcd-scaler.pull-secrets" $root | nindent 4 }}
    {{- include "etcd-scaler.scheduling" $hook | nindent 4 }}
    securityContext:
      {{- include "etcd-scaler.pod-security" $root | nindent 6 }}
      {{- with include "etcd-scaler.hook.before-group" $root }}{{ . | nindent 6 }}{{ end }}
    containers:
      - name: hook
        image: {{ include "etcd-scaler.image" $root }}
        imagePullPolicy: {{ $root.Values.image.pullPolicy }}
        command: [/hook, scale]
        args:
          {{- include "etcd-scaler.target-args" $root | nindent 10 }}
          - --deadline={{ int $hook.deadlineSeconds }}s
          - --join-deadline={{ int $hook.joinDeadlineSeconds }}s
          - --lease={{ include "etcd-scaler.lease" $root }}
          {{- include "etcd-scaler.volume-args" $root | nindent 10 }}
          {{- include "etcd-scaler.hook.before-args" $root | nindent 10 }}
          {{- if $root.Values.etcd.enabled }}
          - --budget={{ $root.Values.etcd.pdb.enabled | ternary (int $root.Values.etcd.pdb.maxUnavailable) "none" }}
          {{- end }}
        env:
          {{- include "etcd-scaler.hook.env" $root | nindent 10 }}
          # Not an argument, so that the launcher can give its own.
          - name: ETCD_SCALER_TRIGGER
            value: {{ .trigger }}
          # For another command in place of the one above: docs/commands.md.
          {{- include "etcd-scaler.target-env" $root | nindent 10 }}
          - name: ETCD_SCALER_DEADLINE
            value: {{ int $hook.deadlineSeconds }}s
        # The program writes its last line there; if it could not, its log's end is shown.
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          {{- include "etcd-scaler.container-security" $root | nindent 10 }}
        resources:
          {{- toYaml $hook.resources | nindent 10 }}
        {{- with include "etcd-scaler.hook.before-mounts" $root }}
        volumeMounts:
          {{- . | nindent 10 }}
        {{- end }}
    {{- with include "etcd-scaler.hook.before-volumes" $root }}
    volumes:
      {{- . | nindent 6 }}
    {{- end }}
{{- end -}}

{{- /* By etcd-scaler.io/target the webhook finds every Job that works on this StatefulSet, whoever started it. */ -}}
{{- define "etcd-scaler.hook.labels" -}}
app.kubernetes.io/name: etcd-scaler
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: hook
etcd-scaler.io/target: {{ include "etcd-scaler.target" . }}
{{- end -}}

{{- /* What is seen to before members change, and the claim for a snapshot of before. */ -}}
{{- define "etcd-scaler.hook.before-args" -}}
- --disk-pools-namespace={{ include "etcd-scaler.hook.pools-namespace" . }}
- --disk-pools-required={{ .Values.diskPools.required }}
{{- if and .Values.snapshot.enabled .Values.snapshot.beforeChange }}
- --before-snapshot-dir=/snapshots
{{- with int .Values.snapshot.keep }}
- --before-snapshot-keep={{ . }}
{{- end }}
{{- if ne .Values.snapshot.maxAge "0s" }}
- --before-snapshot-max-age={{ .Values.snapshot.maxAge }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "etcd-scaler.hook.before-group" -}}
{{- if and .Values.snapshot.enabled .Values.snapshot.beforeChange -}}
# The claim is written to. Not for hostPath volumes: their directory must belong to 65532.
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- end -}}
{{- end -}}

{{- define "etcd-scaler.hook.before-mounts" -}}
{{- if and .Values.snapshot.enabled .Values.snapshot.beforeChange -}}
- name: snapshots
  mountPath: /snapshots
{{- end -}}
{{- end -}}

{{- define "etcd-scaler.hook.before-volumes" -}}
{{- if and .Values.snapshot.enabled .Values.snapshot.beforeChange -}}
- name: snapshots
  persistentVolumeClaim:
    claimName: {{ .Values.snapshot.persistentVolumeClaim }}
{{- end -}}
{{- end -}}

{{- define "etcd-scaler.hook.pools-namespace" -}}
{{ default .Release.Namespace .Values.diskPools.namespace }}
{{- end -}}

{{- /* The right to look at DiskPools, where they are. Input: root, account, annotations (or nothing). */ -}}
{{- define "etcd-scaler.hook.pools-rights" -}}
{{- $name := printf "%s-%s" .account .root.Release.Namespace -}}
{{- range $kind := list "Role" "RoleBinding" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  namespace: {{ include "etcd-scaler.hook.pools-namespace" $.root }}
  labels:
    {{- include "etcd-scaler.labels" $.root | nindent 4 }}
  {{- with $.annotations }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
{{- if eq $kind "Role" }}
rules:
  - apiGroups: [openebs.io]
    resources: [diskpools]
    verbs: [list]
{{- else }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $.account }}
    namespace: {{ $.root.Release.Namespace }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "etcd-scaler.hook.env" -}}
# The identity that holds the Lease.
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end -}}
