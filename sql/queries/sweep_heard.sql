-- When instances ($1) were last heard ($2), where their records say something else: the leader heard heartbeats that nobody
-- could take, or the clock stepped back.
UPDATE service_registry r
SET last_heartbeat = h.heard_at, status_since = least(r.status_since, clock_timestamp())
FROM unnest($1::bigint[], $2::timestamptz[]) AS h (id, heard_at)
WHERE r.id = h.id;
