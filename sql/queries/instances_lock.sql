-- Locks the instances that calls speak of: those with these keys (two arrays, pair by pair), and all of the services in
-- the third array (for calls that name no instance). In the order of ids, as everywhere, so that replicas can't deadlock.
SELECT id, service_name, instance_id, incarnation, status, draining, config_revision, config_version, config_error,
       heartbeat_interval_seconds
FROM service_registry
WHERE (service_name, instance_id) IN (SELECT * FROM unnest($1::text[], $2::text[])) OR service_name = ANY ($3)
ORDER BY id
FOR NO KEY UPDATE;
