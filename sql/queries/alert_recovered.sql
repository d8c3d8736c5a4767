-- Alerts of failures that ended within the last $1 seconds.
SELECT id, severity, source, kind, name, instance_id, message, details, cause
FROM hub_alerts
WHERE resolved_at > now() - $1::double precision * interval '1 second'
  AND source IN ('service', 'infra', 'liveness') AND kind IN ('down', 'degraded', 'flapping');
