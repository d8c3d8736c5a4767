-- Who else isn't heard, beside the instances $4 that are due: those that may be late (silent for longer than their timeout
-- less one interval; $1 and $2 as in sweep_silent.sql), and those that silence marked down and that were last heard at $3
-- or later. (One that says itself that it is down was heard when its status changed, or later.)
SELECT r.id, r.service_name, r.instance_id, r.incarnation, r.status, r.last_heartbeat, r.status_since,
       coalesce(r.told_interval_seconds, r.heartbeat_interval_seconds) AS interval_seconds, clock_timestamp() AS read_at,
       NOT EXISTS (SELECT FROM service_registry o WHERE o.service_name = r.service_name AND o.id <> r.id) AS alone
FROM service_registry r
WHERE (r.status <> 'down' AND r.id <> ALL ($4::bigint[]) AND r.last_heartbeat < clock_timestamp()
        - coalesce(r.told_interval_seconds, r.heartbeat_interval_seconds, $1) * ($2::double precision - 1) * interval '1 second')
   OR (r.status = 'down' AND r.last_heartbeat >= $3 AND r.last_heartbeat < r.status_since - interval '0.1 seconds');
