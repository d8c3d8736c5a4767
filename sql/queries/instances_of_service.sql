-- All instances of a service.
SELECT service_name, instance_id, incarnation, status, draining, version, host, port, dependencies, metadata,
       last_heartbeat, registered_at, config_revision, config_version, config_error
FROM service_registry
WHERE service_name = $1
ORDER BY instance_id;
