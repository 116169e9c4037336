{{/* Names, labels, and what every pod of the chart has. */}}
{{- define "alertprod.labels" -}}
app.kubernetes.io/name: alertprod
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{/* A Deployment keeps the selector with which it was made. */}}
{{- define "alertprod.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "alertprod.account" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default .Release.Name }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* Image by name of the values (image, workerImage). */}}
{{- define "alertprod.image" -}}
{{- if .pixels -}}
{{ .root.Values.workerImage.repository | default (printf "%s-worker" .root.Values.image.repository) }}:{{ .root.Values.workerImage.tag | default .root.Values.image.tag }}
{{- else -}}
{{ .root.Values.image.repository }}:{{ .root.Values.image.tag }}
{{- end -}}
{{- end }}

{{- define "alertprod.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "alertprod.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where a pod may run, and with what it comes. */}}
{{- define "alertprod.placing" -}}
serviceAccountName: {{ include "alertprod.account" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment of every role, job and CronJob. */}}
{{- define "alertprod.env" -}}
- name: ALERTPROD_DATABASE_URI
  valueFrom: {secretKeyRef: {name: {{ .Values.databaseSecret }}, key: database-uri}}
- {name: ALERTPROD_KAFKA_BROKERS, value: {{ .Values.kafka.brokers | quote }}}
{{- if .Values.kafka.clientSecret }}
- name: ALERTPROD_KAFKA_CLIENT
  valueFrom: {secretKeyRef: {name: {{ .Values.kafka.clientSecret }}, key: client}}
{{- end }}
{{- if .Values.registrySecret }}
- name: ALERTPROD_SCHEMA_REGISTRY
  valueFrom: {secretKeyRef: {name: {{ .Values.registrySecret }}, key: url}}
{{- end }}
- {name: ALERTPROD_ALERT_TOPIC, value: {{ .Values.kafka.alertTopic | quote }}}
- {name: ALERTPROD_VISIT_TOPIC, value: {{ .Values.kafka.visitTopic | quote }}}
- {name: ALERTPROD_ALERT_PARTITIONS, value: {{ .Values.kafka.partitions | quote }}}
- {name: ALERTPROD_TOPIC_REPLICATION, value: {{ .Values.kafka.replication | quote }}}
- {name: ALERTPROD_DATA_ROOTS, value: '["/data/images"]'}
- {name: ALERTPROD_UPLOAD_DIR, value: /data/uploads}
- {name: ALERTPROD_TEMPLATE_DIR, value: /data/templates}
- {name: ALERTPROD_ARCHIVE_DIR, value: /data/alerts}
{{- if .Values.keepDifferences }}
- {name: ALERTPROD_PRODUCTS_DIR, value: /data/products}
{{- end }}
- {name: ALERTPROD_WORKERS, value: {{ .Values.worker.jobs | quote }}}
- {name: ALERTPROD_JOB_MEMORY_GB, value: {{ .Values.worker.jobMemoryGiB | quote }}}
- {name: ALERTPROD_JOB_TIMEOUT_S, value: {{ .Values.jobTimeoutSeconds | quote }}}
- {name: ALERTPROD_DRAIN_S, value: {{ .Values.drainSeconds | quote }}}
- {name: ALERTPROD_METRICS_PORT, value: {{ .Values.metrics.port | quote }}}
- {name: ALERTPROD_METRICS_HOST, value: 0.0.0.0}
{{- if .Values.otlpEndpoint }}
- {name: ALERTPROD_OTLP_ENDPOINT, value: {{ .Values.otlpEndpoint | quote }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What a schema cannot say: numbers that must fit each other. */}}
{{- define "alertprod.check" -}}
{{- if lt (int .Values.drainSeconds) (int .Values.jobTimeoutSeconds) }}
{{- fail (printf "drainSeconds (%v) must be jobTimeoutSeconds (%v) or more: a worker that is stopped ends its visits" .Values.drainSeconds .Values.jobTimeoutSeconds) }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" }}
{{- end }}
{{- if or (gt (int .Values.keda.minReplicas) (int .Values.keda.maxReplicas)) (gt (int .Values.keda.night.replicas) (int .Values.keda.maxReplicas)) }}
{{- fail "keda.minReplicas or keda.night.replicas is above keda.maxReplicas" }}
{{- end }}
{{- if hasKey (dig "resources" "limits" dict .Values.roles.worker) "memory" }}
{{- fail "roles.worker.resources.limits.memory is worker.jobs * worker.jobMemoryGiB + worker.supervisorMemoryGiB: set those" }}
{{- end }}
{{- if and .Values.cronJobs.precovery (.Values.cronJobs.precovery).enabled (not .Values.keepDifferences) }}
{{- fail "cronJobs.precovery measures on stored differences: set keepDifferences" }}
{{- end }}
{{- $alerts := .Values.kafka.alertTopic }}
{{- if or (has .Values.kafka.visitTopic (list $alerts (printf "%s.progress" $alerts) (printf "%s.corrections" $alerts))) (eq $alerts (printf "%s.dlq" .Values.kafka.visitTopic)) }}
{{- fail "kafka.visitTopic and kafka.alertTopic must differ, with what is derived from them: alerts would be read as visits" }}
{{- end }}
{{- end }}
