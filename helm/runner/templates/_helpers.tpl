{{/*
The name that all objects of a release have. KubeRay wants a letter first, no dots and, with the job's suffix behind it,
no more than 47 characters.
*/}}
{{- define "runner.fullname" -}}
{{- $name := .Release.Name | replace "." "-" }}
{{- if not (regexMatch "^[a-z]" $name) }}{{ $name = printf "runner-%s" $name }}{{ end }}
{{- if not (contains "runner" $name) }}{{ $name = printf "%s-runner" $name }}{{ end }}
{{- $name | trunc 38 | trimAll "-" }}
{{- end }}

{{/* The name of the RayJob: another job is another RayJob. */}}
{{- define "runner.jobName" -}}
{{ include "runner.fullname" . }}-{{ toJson .Values.job | sha256sum | trunc 8 }}
{{- end }}

{{- define "runner.labels" -}}
app.kubernetes.io/name: runner
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "runner.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "runner.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* The account of the pod that a schedule submits with: the pods that train have no rights. */}}
{{- define "runner.scheduleAccount" -}}
{{ include "runner.fullname" . }}-schedule
{{- end }}

{{/* The job as its pods get it: in the release's namespace, with the release's account. */}}
{{- define "runner.job" -}}
{{- $job := deepCopy .Values.job }}
{{- include "runner.checkJob" . }}
{{- $_ := set $job.kubernetes "namespace" .Release.Namespace }}
{{- if not $job.kubernetes.service_account }}
{{- $_ := set $job.kubernetes "service_account" (include "runner.serviceAccount" .) }}
{{- end }}
{{- if and (eq .Values.run "schedule") .Values.schedule.since_last }}
{{- $_ := set $job.data "since" "last" }}
{{- end }}
{{- toYaml $job }}
{{- end }}

{{/* Fails on what the values' schema cannot refuse. */}}
{{- define "runner.checkJob" -}}
{{- $settings := .Values.job.kubernetes }}
{{- if not (has $settings.namespace (list nil .Release.Namespace)) }}
{{- fail (printf "job.kubernetes.namespace: the job runs in %s, its release's namespace, not in %s; leave it out" .Release.Namespace $settings.namespace) }}
{{- end }}
{{- $mounted := list "/tmp" "/etc/runner" }}
{{- range $claim, $folder := $settings.volume_claims }}
{{- $place := trimSuffix "/" $folder }}
{{- if has $place $mounted }}
{{- fail (printf "job.kubernetes.volume_claims.%s: %s is mounted on already; name another folder" $claim $folder) }}
{{- end }}
{{- $mounted = append $mounted $place }}
{{- end }}
{{- end }}

{{/* Requests and limits. Arguments: cpus, memory_gib, disk_gib, gpus, and what a pod asks for where it may have more. */}}
{{- define "runner.resources" -}}
requests:
  cpu: {{ .asks_cpus | default .cpus | quote }}
  memory: {{ .asks_memory_gib | default .memory_gib }}Gi
  {{- with .disk_gib }}
  ephemeral-storage: {{ . }}Gi
  {{- end }}
  {{- with .gpus }}
  nvidia.com/gpu: {{ int64 . }}
  {{- end }}
limits:
  cpu: {{ .cpus | quote }}
  memory: {{ .memory_gib }}Gi
  {{- with .disk_gib }}
  ephemeral-storage: {{ . }}Gi
  {{- end }}
  {{- with .gpus }}
  nvidia.com/gpu: {{ int64 . }}
  {{- end }}
{{- end }}

{{/* How a provider marks nodes that may be taken away: with a label, and maybe a taint of the same name. */}}
{{- define "runner.spot" -}}
{{- if eq . "gke" }}{label: cloud.google.com/gke-spot, value: "true", has_taint: true}
{{- else if eq . "eks" }}{label: eks.amazonaws.com/capacityType, value: SPOT, has_taint: false}
{{- else if eq . "aks" }}{label: kubernetes.azure.com/scalesetpriority, value: spot, has_taint: true}
{{- else if eq . "karpenter" }}{label: karpenter.sh/capacity-type, value: spot, has_taint: false}
{{- end }}
{{- end }}

{{/*
The fields of a pod that say where it may run: workers where they may be taken away, all others never there.
Arguments: kind (head or worker), spot (of the workers), container.
*/}}
{{- define "runner.nodes" -}}
{{- $isWorker := eq .container "ray-worker" }}
{{- $selector := deepCopy (.kind.node_selector | default dict) }}
{{- $tolerations := list }}
{{- range .kind.tolerations | default list }}
{{- $toleration := dict "operator" (kindIs "invalid" .value | ternary "Exists" "Equal") }}
{{- range $field, $value := . }}{{ if not (kindIs "invalid" $value) }}{{ $_ := set $toleration $field $value }}{{ end }}{{ end }}
{{- $tolerations = append $tolerations $toleration }}
{{- end }}
{{- with .spot }}
{{- $spot := include "runner.spot" . | fromYaml }}
{{- if not $isWorker }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            # Also true of nodes without the label.
            - {key: {{ $spot.label }}, operator: NotIn, values: [{{ $spot.value | quote }}]}
{{- else }}
{{- $_ := set $selector $spot.label $spot.value }}
{{- if $spot.has_taint }}
{{- $tolerations = append $tolerations (dict "key" $spot.label "operator" "Equal" "value" $spot.value "effect" "NoSchedule") }}
{{- end }}
{{- end }}
{{- end }}
{{- with $selector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What the restricted Pod Security profile asks of a pod and of a container. */}}
{{- define "runner.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 0
fsGroup: 0
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "runner.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/*
A pod of the job. Arguments: job, configMap, container, kind (head or worker), those of runner.resources; and where it is
not one of the Ray cluster's: command, and submitsAs, an account whose token it gets.
*/}}
{{- define "runner.pod" -}}
{{- $settings := .job.kubernetes }}
metadata:
  labels:
    app.kubernetes.io/part-of: runner
spec:
  automountServiceAccountToken: {{ hasKey . "submitsAs" }}
  enableServiceLinks: false
  {{- if eq .container "ray-worker" }}
  terminationGracePeriodSeconds: 120
  {{- end }}
  {{- with .submitsAs | default $settings.service_account }}
  serviceAccountName: {{ . | quote }}
  {{- end }}
  {{- with $settings.priority_class }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $settings.image_pull_secrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with include "runner.nodes" (dict "kind" .kind "spot" $settings.worker.spot "container" .container) }}
  {{- . | trim | nindent 2 }}
  {{- end }}
  securityContext: {{- include "runner.podSecurity" . | nindent 4 }}
  containers:
    - name: {{ .container }}
      image: {{ $settings.image | quote }}
      imagePullPolicy: {{ $settings.image_pull_policy }}
      {{- if eq .container "ray-worker" }}
      lifecycle:
        preStop:
          exec: {command: [python, -m, runner.train.preempt]}
      {{- end }}
      {{- with .command }}
      command: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "runner.containerSecurity" . | nindent 8 }}
      env:
        - name: RUNNER_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        {{- range $name, $value := $settings.environment }}
        - name: {{ $name | quote }}
          value: {{ $value | quote }}
        {{- end }}
      {{- with $settings.secrets }}
      envFrom:
        {{- range . }}
        - secretRef: {name: {{ . | quote }}}
        {{- end }}
      {{- end }}
      resources: {{- include "runner.resources" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: job, mountPath: /etc/runner, readOnly: true}
        {{- $number := 0 }}
        {{- range $claim, $folder := $settings.volume_claims }}
        - {name: claim-{{ $number }}, mountPath: {{ $folder | quote }}}
        {{- $number = add $number 1 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {{ with .disk_gib }}{sizeLimit: {{ . }}Gi}{{ else }}{}{{ end }}
    - name: job
      configMap: {name: {{ .configMap }}}
    {{- $number := 0 }}
    {{- range $claim, $folder := $settings.volume_claims }}
    - name: claim-{{ $number }}
      persistentVolumeClaim: {claimName: {{ $claim | quote }}}
    {{- $number = add $number 1 }}
    {{- end }}
{{- end }}
