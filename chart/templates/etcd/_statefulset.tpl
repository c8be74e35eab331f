{{- /*
The etcd StatefulSet, rendered twice from here: as the object, and into the pre-upgrade Job's ConfigMap, which dry-runs
exactly what Helm is about to apply.

Nothing in the pod template depends on replicaCount but ETCD_INITIAL_CLUSTER (the webhook refuses a change of the count
together with any other change of the template), and nothing on the chart's version (a new chart must not restart etcd).
*/ -}}

{{- define "etcd-scaler.etcd.headless" -}}
{{ include "etcd-scaler.target" . }}-headless
{{- end -}}

{{- /* The DNS name of an ordinal's pod. Input: root, pod (a name, or an expression that the kubelet expands). */ -}}
{{- define "etcd-scaler.etcd.host" -}}
{{ .pod }}.{{ include "etcd-scaler.etcd.headless" .root }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.etcd.clusterDomain }}
{{- end -}}

{{- /* On one line: etcd refuses the multi-line form ("couldn't find local name"). */ -}}
{{- define "etcd-scaler.etcd.initial-cluster" -}}
{{- $peers := list -}}
{{- range $ordinal := until (int .Values.etcd.replicaCount) -}}
{{- $pod := printf "%s-%d" (include "etcd-scaler.target" $) $ordinal -}}
{{- $peers = append $peers (printf "%s=http://%s:2380" $pod (include "etcd-scaler.etcd.host" (dict "root" $ "pod" $pod))) -}}
{{- end -}}
{{ join "," $peers }}
{{- end -}}

{{- /*
What a member's pod starts with on an empty directory. Through annotations of the pod, which the kubelet reads at every
start of the container: once the member has served, the Job writes there that this pod may never again start as new, and
nobody restarts for it. Input: root.
*/ -}}
{{- define "etcd-scaler.etcd.bootstrap-annotations" -}}
{{- with .Values.etcd.initialClusterState }}
etcd-scaler.io/initial-cluster-state: {{ . }}
{{- end }}
{{- if eq .Values.etcd.initialCluster "auto" }}
etcd-scaler.io/initial-cluster: {{ include "etcd-scaler.etcd.initial-cluster" . }}
{{- else if .Values.etcd.initialCluster }}
etcd-scaler.io/initial-cluster: {{ .Values.etcd.initialCluster | quote }}
{{- end }}
{{- end -}}

{{- /*
The same as environment. Where the webhook has put a literal into the live object, that is rendered again: an upgrade that
changes nothing is then no change at all, and passes also while the webhook is down (to be mended by that very upgrade).
*/ -}}
{{- define "etcd-scaler.etcd.bootstrap-env" -}}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "etcd-scaler.target" .) -}}
{{- $literal := dict -}}
{{- if $live -}}
{{- range $live.spec.template.spec.containers -}}
{{- if eq .name "etcd" -}}
{{- range .env -}}
{{- if and (has .name (list "ETCD_INITIAL_CLUSTER" "ETCD_INITIAL_CLUSTER_STATE")) .value -}}
{{- $_ := set $literal .name .value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* Stopped, or kept by an earlier installation, it may be started before the webhook is there: on its data and on nothing else. */ -}}
{{- if eq (int $live.spec.replicas) 0 -}}
{{- $none := "no-start-without-data=http://a-member-that-lost-its-disk-must-not-start-empty.invalid:2380" -}}
{{- /* A member that has never run may have to start from it. */ -}}
{{- $all := not (contains "bootstrapping" (dig "etcd-scaler.io/record" "bootstrapping" (default dict $live.metadata.annotations))) -}}
{{- with get $literal "ETCD_INITIAL_CLUSTER" -}}
{{- if and $all (not (contains $none .)) -}}
{{- $_ := set $literal "ETCD_INITIAL_CLUSTER" (printf "%s,%s" . $none) -}}
{{- end -}}
{{- end -}}
{{- else if ne (int $live.spec.replicas) (int .Values.etcd.replicaCount) -}}
{{- $_ := unset $literal "ETCD_INITIAL_CLUSTER" -}}
{{- end -}}
{{- end -}}
{{- $own := include "etcd-scaler.etcd.bootstrap-annotations" . -}}
{{- range $name, $annotation := dict "ETCD_INITIAL_CLUSTER" "initial-cluster" "ETCD_INITIAL_CLUSTER_STATE" "initial-cluster-state" }}
{{- /* What the values leave out is the webhook's alone: rendered, it would move within the list. */ -}}
{{- if contains (printf "/%s:" $annotation) $own }}
- name: {{ $name }}
  {{- if hasKey $literal $name }}
  value: {{ get $literal $name | quote }}
  {{- else }}
  valueFrom:
    fieldRef:
      fieldPath: metadata.annotations['etcd-scaler.io/{{ $annotation }}']
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /*
Pods below the partition that the webhook keeps are made from the revision before, which lacks the name that keeps etcd from
starting without data. Of a StatefulSet that is stopped every pod is made anew, so none is restarted without that partition.
Input: root.
*/ -}}
{{- define "etcd-scaler.etcd.update-strategy" -}}
{{- $strategy := deepCopy .Values.etcd.updateStrategy -}}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "etcd-scaler.target" .) -}}
{{- if and $live (eq (int $live.spec.replicas) 0) (eq "RollingUpdate" (default "RollingUpdate" $strategy.type)) -}}
{{- if hasKey (default dict $live.metadata.annotations) "etcd-scaler.io/partition" -}}
{{- $strategy = merge $strategy (dict "type" "RollingUpdate" "rollingUpdate" (dict "partition" 0)) -}}
{{- end -}}
{{- end -}}
{{ toYaml $strategy }}
{{- end -}}

{{- /*
The cluster's token, from a ConfigMap that nothing renders: the Job writes it once it has looked at what an earlier cluster
left behind, and until then the kubelet starts no etcd (docs/decisions/0042-a-new-cluster-is-a-decision.md). It makes the
cluster's ID another one at each bootstrap. etcd reads it on an empty directory only, so a StatefulSet that has a literal keeps
it: nobody restarts for it.
*/ -}}
{{- define "etcd-scaler.etcd.token" -}}
{{- $literal := "" -}}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "etcd-scaler.target" .) -}}
{{- if $live -}}
{{- range $live.spec.template.spec.containers -}}
{{- if eq .name "etcd" -}}
{{- range .env -}}
{{- if and (eq .name "ETCD_INITIAL_CLUSTER_TOKEN") .value -}}
{{- $literal = .value -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
- name: ETCD_INITIAL_CLUSTER_TOKEN
  {{- if $literal }}
  value: {{ $literal }}
  {{- else }}
  valueFrom:
    configMapKeyRef:
      name: {{ include "etcd-scaler.target" . }}-bootstrap
      key: token
  {{- end }}
{{- end -}}

{{- /*
Gives the volume to etcd's user, and says in the container's last word what is on it: of the first log segment, the beginning,
which tells whose data it is. The Job reads it before the first bootstrap. Where the live object only has the first half,
that is rendered again: nobody restarts for the other.
*/ -}}
{{- define "etcd-scaler.etcd.volume-permissions" -}}
{{- $user := int .Values.etcd.runAsUser -}}
{{- $live := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "etcd-scaler.target" .) -}}
{{- $first := list -}}
{{- if $live -}}
{{- range $live.spec.template.spec.initContainers -}}
{{- if eq .name "volume-permissions" -}}
{{- $first = .command -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq (first $first) "chown" -}}
command: [chown, -R, "{{ $user }}:{{ $user }}", /var/lib/etcd]
{{- else -}}
command:
  - sh
  - -c
  - |
    chown -R {{ $user }}:{{ $user }} /var/lib/etcd || exit
    set -- /var/lib/etcd/data/member/wal/*.wal
    if [ -e "$1" ]; then
      first=$(head -c 512 "$1" | od -An -v -tx1 | tr -d ' \n')
      echo "wal ${first:-unreadable}"
    else
      echo "wal none"
    fi >/dev/termination-log || true
{{- end -}}
{{- end -}}

{{- define "etcd-scaler.etcd.env" -}}
{{- $host := include "etcd-scaler.etcd.host" (dict "root" . "pod" "$(POD_NAME)") -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: ETCD_NAME
  value: $(POD_NAME)
- name: ETCD_DATA_DIR
  value: /var/lib/etcd/data
- name: ETCD_LISTEN_PEER_URLS
  value: http://0.0.0.0:2380
- name: ETCD_LISTEN_CLIENT_URLS
  value: http://0.0.0.0:2379
- name: ETCD_LISTEN_METRICS_URLS
  value: http://0.0.0.0:2381
- name: ETCD_INITIAL_ADVERTISE_PEER_URLS
  value: http://{{ $host }}:2380
- name: ETCD_ADVERTISE_CLIENT_URLS
  value: http://{{ $host }}:2379
{{ include "etcd-scaler.etcd.token" . }}
{{- include "etcd-scaler.etcd.bootstrap-env" . }}
- name: ETCD_QUOTA_BACKEND_BYTES
  value: {{ include "etcd-scaler.number" .Values.etcd.quotaBackendBytes | quote }}
- name: ETCD_AUTO_COMPACTION_MODE
  value: {{ .Values.etcd.autoCompaction.mode }}
- name: ETCD_AUTO_COMPACTION_RETENTION
  value: {{ include "etcd-scaler.number" .Values.etcd.autoCompaction.retention | quote }}
{{- with .Values.etcd.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Helm 4 applies on the server, where two variables of one name are an error that names neither the value nor the chart. */ -}}
{{- define "etcd-scaler.etcd.env-checked" -}}
{{- $env := include "etcd-scaler.etcd.env" . -}}
{{- $seen := dict -}}
{{- range fromYamlArray $env -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "etcd.extraEnv: %s is set already; the chart has values of its own for what it sets" .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{ $env }}
{{- end -}}

{{- /* What etcd-scaler writes into a pod says something of that pod alone, and decides about it. */ -}}
{{- define "etcd-scaler.etcd.annotations" -}}
{{- range $key, $_ := .Values.etcd.podAnnotations -}}
{{- if hasPrefix "etcd-scaler.io/" $key -}}
{{- fail (printf "etcd.podAnnotations: %s is an annotation that only etcd-scaler writes, and only into a pod that waits to join. In a template it would be in every member's pod. Leave it out" $key) -}}
{{- end -}}
{{- end -}}
{{- with merge (include "etcd-scaler.etcd.bootstrap-annotations" . | fromYaml) .Values.etcd.podAnnotations -}}
{{ toYaml . }}
{{- end -}}
{{- end -}}

{{- define "etcd-scaler.etcd.affinity" -}}
{{- $term := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (include "etcd-scaler.etcd.selector" . | fromYaml)) -}}
{{- $affinity := .Values.etcd.affinity -}}
{{- if not $affinity -}}
{{- if eq .Values.etcd.podAntiAffinityPreset "hard" -}}
{{- $affinity = dict "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- else if eq .Values.etcd.podAntiAffinityPreset "soft" -}}
{{- $affinity = dict "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" 100 "podAffinityTerm" $term))) -}}
{{- end -}}
{{- end -}}
{{- with $affinity -}}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- /*
readyz or etcdctl, by the version that the tag begins with; readyz where it begins with none ("latest").

What is answered, run with each version as plain processes. On the metrics port, which answers as soon as the server
runs, where the client port hangs until there was a quorum (/readyz hangs without one, the probe's timeout ends it):
                                         member 0 of 3 alone   quorum lost   learner   serving voter
  3.5.35, 3.6.16
    /livez                               200                   200           200       200
    /readyz                              hangs                 hangs         503       200
    /readyz?exclude=linearizable_read    200                   200           503       200
  3.5.16: the same, but
    /readyz, with and without exclude    as above              as above      200 (!)   200
  3.4.23: /livez and /readyz are 404
    /health                              503                   503           200 (!)   200
    /health?serializable=true            503                   503           200 (!)   200
    /metrics                             200                   200           200       200
  etcdctl of each of the four, against its own server
    endpoint health                      fails                 fails         fails     passes
(!) A learner answers its clients "rpc not supported for learner": in the Service it would be an outage for whoever is
led to it. /readyz refuses a learner from 3.5.19 on; before that only a client's own request tells.
*/ -}}
{{- define "etcd-scaler.etcd.probe-kind" -}}
{{- $kind := .Values.etcd.probes -}}
{{- if eq $kind "auto" -}}
{{- $kind = "readyz" -}}
{{- with regexFind "^v?[0-9]+\\.[0-9]+(\\.[0-9]+)?" (include "etcd-scaler.number" .Values.etcd.image.tag) -}}
{{- if semverCompare "<3.5.19" . -}}
{{- $kind = "etcdctl" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ $kind }}
{{- end -}}

{{- define "etcd-scaler.etcd.probes" -}}
{{- $kind := include "etcd-scaler.etcd.probe-kind" . -}}
{{- $ordered := eq .Values.etcd.podManagementPolicy "OrderedReady" -}}
{{- if and $ordered (eq $kind "etcdctl") -}}
{{- fail (printf "etcd.podManagementPolicy OrderedReady needs etcd 3.5.19 or later, etcd.image.tag is %s: an older member 0 cannot become Ready before there is a quorum. Use Parallel" (include "etcd-scaler.number" .Values.etcd.image.tag)) -}}
{{- end -}}
{{- $alive := eq $kind "etcdctl" | ternary "/metrics" "/livez" -}}
# Loading a large backend takes minutes: until then, nothing restarts etcd.
startupProbe:
  httpGet: {path: {{ $alive }}, port: metrics}
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 1800
# Passes without a quorum and on a learner. A restart cures neither.
livenessProbe:
  httpGet: {path: {{ $alive }}, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
{{- if eq $kind "etcdctl" }}
# A linearizable read, not a learner: whoever cannot serve is taken out of the Service. This version's /readyz, if it has
# one, passes on a learner. etcdctl gives up before the kubelet does, so that an Event has its words.
readinessProbe:
  exec:
    command: [etcdctl, --command-timeout=2s, endpoint, health]
  periodSeconds: 3
  timeoutSeconds: 5
  failureThreshold: 3
{{- else }}
{{- if $ordered }}
# Member 0 has no quorum until member 1 exists, which is made only when member 0 is Ready: so this cannot ask
# for a linearizable read. It still takes a learner and a corrupt member out of the Service.
readinessProbe:
  httpGet: {path: "/readyz?exclude=linearizable_read", port: metrics}
{{- else }}
# A linearizable read, no corruption, not a learner: whoever cannot serve is taken out of the Service.
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
{{- end }}
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 3
{{- end }}
{{- end -}}

{{- define "etcd-scaler.etcd.statefulset" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "etcd-scaler.target" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "etcd-scaler.etcd.selector" . | nindent 4 }}
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    # That this chart made it, or this alias of it. Not in the selector, nor on the pods.
    app.kubernetes.io/part-of: {{ .Chart.Name }}
  {{- if or .Values.etcd.bootstrap (ne .Values.onReset "refuse") }}
  annotations:
    {{- if ne .Values.onReset "refuse" }}
    # With the request itself: the webhook's own flag would change only when its new pods are up.
    etcd-scaler.io/on-reset: {{ .Values.onReset }}
    {{- end }}
    {{- with .Values.etcd.bootstrap }}
    etcd-scaler.io/bootstrap: {{ . | quote }}
    {{- end }}
  {{- end }}
spec:
  replicas: {{ int .Values.etcd.replicaCount }}
  serviceName: {{ include "etcd-scaler.etcd.headless" . }}
  podManagementPolicy: {{ .Values.etcd.podManagementPolicy }}
  updateStrategy:
    {{- include "etcd-scaler.etcd.update-strategy" . | nindent 4 }}
  selector:
    matchLabels:
      {{- include "etcd-scaler.etcd.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "etcd-scaler.etcd.selector" . | nindent 8 }}
        {{- with .Values.etcd.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with include "etcd-scaler.etcd.annotations" . }}
      annotations:
        {{- . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ include "etcd-scaler.target" . }}
      automountServiceAccountToken: false
      # A Service of the namespace must not become environment of etcd (ETCD_PORT=tcp://… is a flag to it).
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ int .Values.etcd.terminationGracePeriodSeconds }}
      {{- include "etcd-scaler.pull-secrets" . | nindent 6 }}
      {{- include "etcd-scaler.scheduling" .Values.etcd | nindent 6 }}
      {{- include "etcd-scaler.etcd.affinity" . | nindent 6 }}
      securityContext:
        runAsNonRoot: true
        runAsUser: {{ int .Values.etcd.runAsUser }}
        runAsGroup: {{ int .Values.etcd.runAsUser }}
        fsGroup: {{ int .Values.etcd.runAsUser }}
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      {{- with .Values.etcd.volumePermissions }}
      {{- if .enabled }}
      initContainers:
        - name: volume-permissions
          image: {{ .image.repository }}:{{ include "etcd-scaler.number" .image.tag }}
          imagePullPolicy: {{ .image.pullPolicy }}
          {{- include "etcd-scaler.etcd.volume-permissions" $ | nindent 10 }}
          securityContext:
            runAsNonRoot: false
            runAsUser: 0
            runAsGroup: 0
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
              # DAC_OVERRIDE: etcd's directories are 0700 and may belong to another chart's user.
              add: [CHOWN, DAC_OVERRIDE]
          volumeMounts:
            - name: data
              mountPath: /var/lib/etcd
      {{- end }}
      {{- end }}
      containers:
        - name: etcd
          image: {{ .Values.etcd.image.repository }}:{{ include "etcd-scaler.number" .Values.etcd.image.tag }}
          imagePullPolicy: {{ .Values.etcd.image.pullPolicy }}
          command:
            {{- toYaml .Values.etcd.command | nindent 12 }}
          env:
            {{- include "etcd-scaler.etcd.env-checked" . | nindent 12 }}
          ports:
            - {name: client, containerPort: 2379}
            - {name: peer, containerPort: 2380}
            - {name: metrics, containerPort: 2381}
          {{- include "etcd-scaler.etcd.probes" . | nindent 10 }}
          {{- with .Values.etcd.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          securityContext:
            {{- include "etcd-scaler.container-security" . | nindent 12 }}
          terminationMessagePolicy: FallbackToLogsOnError
          volumeMounts:
            - name: data
              mountPath: /var/lib/etcd
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .Values.etcd.persistence.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .Values.etcd.persistence.size }}
{{- end -}}
