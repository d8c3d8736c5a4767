-- Takes an instance out of use, or back in.
UPDATE service_registry
SET draining = $2, drain_reason = $3, updated_at = clock_timestamp()
WHERE id = $1
RETURNING service_name, instance_id, incarnation, status, draining, version, host, port, dependencies, metadata,
          last_heartbeat, registered_at, config_revision, config_version, config_error;
