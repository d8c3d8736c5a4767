-- What had an alert without a cause that ended within the last $1 seconds.
SELECT DISTINCT name AS service_name, kind
FROM hub_alerts
WHERE resolved_at > now() - $1::double precision * interval '1 second' AND cause IS NULL
  AND source IN ('service', 'infra', 'liveness') AND kind IN ('down', 'degraded', 'flapping');
