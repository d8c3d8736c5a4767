-- Registers an instance, or replaces its record under a new incarnation. Draining is an operator's word and stays. $11 is the
-- interval that it is told.
INSERT INTO service_registry AS r
    (service_name, instance_id, status, heartbeat_interval_seconds, version, host, port, dependencies, metadata,
     config_schema, told_interval_seconds)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (service_name, instance_id) DO UPDATE SET
    incarnation = nextval('incarnations'),
    status = excluded.status,
    status_since = CASE WHEN r.status = excluded.status THEN r.status_since ELSE clock_timestamp() END,
    last_heartbeat = clock_timestamp(),
    heartbeat_interval_seconds = excluded.heartbeat_interval_seconds,
    told_interval_seconds = excluded.told_interval_seconds,
    version = excluded.version,
    host = excluded.host,
    port = excluded.port,
    dependencies = excluded.dependencies,
    metadata = excluded.metadata,
    config_schema = excluded.config_schema,
    config_version = NULL,
    config_revision = NULL,
    config_error = NULL,
    config_reported_at = NULL,
    registered_at = clock_timestamp(),
    updated_at = clock_timestamp()
RETURNING incarnation;
