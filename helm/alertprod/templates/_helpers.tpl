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
{{ include "alertprod.ownEnv" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What the chart sets of it. */}}
{{- define "alertprod.ownEnv" -}}
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
{{- end }}

{{/* What the API alone has beside it: who may come in. */}}
{{- define "alertprod.accessEnv" -}}
- {name: ALERTPROD_ACCESS, value: {{ .Values.access | quote }}}
- {name: ALERTPROD_TRUSTED_PROXIES, value: {{ .Values.trustedProxies | quote }}}
{{- if eq .Values.access "tokens" }}
- {name: ALERTPROD_ADMIN_TOKEN_FILE, value: /run/secrets/alertprod/token}
{{- end }}
{{- if .Values.tlsSecret }}
- {name: ALERTPROD_TLS_CERTIFICATE, value: /run/secrets/alertprod-tls/tls.crt}
- {name: ALERTPROD_TLS_KEY, value: /run/secrets/alertprod-tls/tls.key}
{{- end }}
{{- end }}

{{/* A setting has one value: what the chart sets (or a file of it, NAME_FILE) is not set by extraEnv, and nothing twice. */}}
{{- define "alertprod.checkEnv" -}}
{{- $taken := list }}
{{- range regexFindAll "ALERTPROD_[A-Z0-9_]+" (printf "%s\n%s" (include "alertprod.ownEnv" .) (include "alertprod.accessEnv" .)) -1 }}
{{- $taken = append $taken (trimSuffix "_FILE" .) }}
{{- end }}
{{- range .Values.extraEnv }}
{{- $name := trimSuffix "_FILE" (upper .name) }}
{{- if has $name $taken }}
{{- fail (printf "extraEnv sets %s, which is set already, by another value of the chart or in extraEnv: say it once" .name) }}
{{- end }}
{{- $taken = append $taken $name }}
{{- end }}
{{- end }}

{{/* A cron expression (`text`) as Kubernetes and KEDA read it: values within their bounds, ranges upwards, steps above 0. */}}
{{- define "alertprod.checkCron" -}}
{{- $fields := regexSplit "\\s+" (trim .text) -1 }}
{{- range $at, $field := list
  (list "minute" 0 59 "") (list "hour" 0 23 "") (list "day of the month" 1 31 "")
  (list "month" 1 12 "jan feb mar apr may jun jul aug sep oct nov dec") (list "day of the week" 0 6 "sun mon tue wed thu fri sat") }}
{{- $least := index $field 1 }}
{{- $numbers := lower (index $fields $at) }}
{{- range $k, $name := splitList " " (index $field 3) }}
{{- if $name }}{{ $numbers = replace $name (toString (add $least $k)) $numbers }}{{ end }}
{{- end }}
{{- $right := regexMatch "^([*?]|[0-9]+(-[0-9]+)?)(/0*[1-9][0-9]*)?(,([*?]|[0-9]+(-[0-9]+)?)(/0*[1-9][0-9]*)?)*$" $numbers }}
{{- range splitList "," (regexReplaceAll "/[0-9]+" $numbers "") }}
{{- $ends := splitList "-" . }}
{{- if gt (float64 (first $ends)) (float64 (last $ends)) }}{{ $right = false }}{{ end }}
{{- range regexFindAll "[0-9]+" . -1 }}
{{- if or (lt (float64 .) (float64 $least)) (gt (float64 .) (float64 (index $field 2))) }}{{ $right = false }}{{ end }}
{{- end }}
{{- end }}
{{- if not $right }}
{{- fail (printf "%s is %q: %q is no %s: numbers from %d to %d%s, upward ranges (1-5), lists (1,2), *, steps (*/2)" $.name $.text (index $fields $at) (first $field) $least (index $field 2) (ternary ", names" "" (ne (index $field 3) ""))) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Nights: a zone of the tz database (sprig takes UTC for one that it does not know; a machine without the database cannot tell), two times. */}}
{{- define "alertprod.checkNight" -}}
{{- $zone := .timezone }}
{{- $abbreviation := dateInZone "MST" 1700000000 $zone }}
{{- $universal := list "UTC" "UCT" "Universal" "Zulu" "Etc/UTC" "Etc/UCT" "Etc/Universal" "Etc/Zulu" }}
{{- $database := ne (dateInZone "MST" 1700000000 "America/Santiago") "UTC" }}
{{- if or (eq $zone "Local") (and $database (eq $abbreviation "UTC") (not (has $zone $universal))) }}
{{- fail (printf "keda.night.timezone %q is no name of the tz database, such as America/Santiago" $zone) }}
{{- end }}
{{- if eq .start .end }}
{{- fail (printf "keda.night.start and keda.night.end are the same time (%s)" .start) }}
{{- end }}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "alertprod.number" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 }}
{{- if kindIs "string" . }}{{ mulf (float64 (regexFind "^[0-9.]+" .)) (get $units (regexFind "[A-Za-z]*$" .)) }}{{ else }}{{ float64 . }}{{ end }}
{{- end }}

{{/* Kubernetes takes no pod that requests more than its limit; a worker's limit is made of its jobs. */}}
{{- define "alertprod.checkResources" -}}
{{- $worker := printf "%dGi" (add (mul .Values.worker.jobs .Values.worker.jobMemoryGiB) .Values.worker.supervisorMemoryGiB) }}
{{- range $role, $spec := .Values.roles }}
{{- $limits := merge (ternary (dict "memory" $worker) (dict) (eq $role "worker")) (default dict $spec.resources.limits) }}
{{- range $kind, $request := $spec.resources.requests }}
{{- $limit := get $limits $kind }}
{{- if and $limit (gt (float64 (include "alertprod.number" $request)) (float64 (include "alertprod.number" $limit))) }}
{{- fail (printf "roles.%s.resources.requests.%s (%v) is above its limit (%v)" $role $kind $request $limit) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The network policy lets out to the ports of what the values name. */}}
{{- define "alertprod.checkPorts" -}}
{{- $open := list }}
{{- range concat .Values.networkPolicy.kafkaPorts .Values.networkPolicy.egressPorts }}{{ $open = append $open (int .) }}{{ end }}
{{- range splitList "," .Values.kafka.brokers }}
{{- if not (has (int (last (splitList ":" .))) $open) }}
{{- fail (printf "networkPolicy.kafkaPorts does not let the roles out to the broker %s of kafka.brokers" .) }}
{{- end }}
{{- end }}
{{- $port := regexFind ":[0-9]+(/|$)" .Values.otlpEndpoint | trimPrefix ":" | trimSuffix "/" }}
{{- if and $port (not (has (int $port) $open)) }}
{{- fail (printf "networkPolicy.egressPorts does not let the roles out to otlpEndpoint %s" .Values.otlpEndpoint) }}
{{- end }}
{{- end }}

{{/* What a schema cannot say: numbers that must fit each other. */}}
{{- define "alertprod.check" -}}
{{- include "alertprod.checkEnv" . }}
{{- include "alertprod.checkNight" .Values.keda.night }}
{{- include "alertprod.checkCron" (dict "name" "keda.night.start" "text" .Values.keda.night.start) }}
{{- include "alertprod.checkCron" (dict "name" "keda.night.end" "text" .Values.keda.night.end) }}
{{- range $name, $job := .Values.cronJobs }}
{{- include "alertprod.checkCron" (dict "name" (printf "cronJobs.%s.schedule" $name) "text" $job.schedule) }}
{{- end }}
{{- include "alertprod.checkResources" . }}
{{- if .Values.networkPolicy.enabled }}{{ include "alertprod.checkPorts" . }}{{ end }}
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
