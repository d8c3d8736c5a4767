-- Instances that may be due: silent for longer than their timeout (interval, or the default $1, times $2), or down for
-- longer than $3 seconds. The decision is the sweep's; this only spares it the others.
SELECT id, service_name, instance_id, incarnation, status, last_heartbeat, status_since, heartbeat_interval_seconds
FROM service_registry
WHERE (status <> 'down' AND last_heartbeat < clock_timestamp()
        - coalesce(heartbeat_interval_seconds, $1) * $2::double precision * interval '1 second')
   OR (status = 'down' AND greatest(last_heartbeat, status_since) < clock_timestamp() - $3::double precision * interval '1 second')
ORDER BY id
FOR NO KEY UPDATE;
