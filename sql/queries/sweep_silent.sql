-- Instances that may be due: silent for longer than their timeout (the interval that they were told, or the default $1,
-- times $2), or down for longer than $3 seconds; and those whose times lie ahead, because the clock stepped back. The
-- decision is the sweep's; this only spares it the others.
SELECT r.id, r.service_name, r.instance_id, r.incarnation, r.status, r.last_heartbeat, r.status_since,
       coalesce(r.told_interval_seconds, r.heartbeat_interval_seconds) AS interval_seconds, clock_timestamp() AS read_at,
       NOT EXISTS (SELECT FROM service_registry o WHERE o.service_name = r.service_name AND o.id <> r.id) AS alone
FROM service_registry r
WHERE (r.status <> 'down' AND r.last_heartbeat < clock_timestamp()
        - coalesce(r.told_interval_seconds, r.heartbeat_interval_seconds, $1) * $2::double precision * interval '1 second')
   OR (r.status = 'down' AND greatest(r.last_heartbeat, r.status_since)
        < clock_timestamp() - $3::double precision * interval '1 second')
   OR greatest(r.last_heartbeat, r.status_since) > clock_timestamp()
ORDER BY r.id
FOR NO KEY UPDATE OF r;
