-- The instances with these keys (two arrays, pair by pair), for the projection to KV.
SELECT service_name, instance_id, incarnation, status, draining, version, host, port, dependencies, metadata,
       last_heartbeat, registered_at, config_revision, config_version, config_error
FROM service_registry
JOIN unnest($1::text[], $2::text[]) AS wanted (service_name, instance_id) USING (service_name, instance_id);
