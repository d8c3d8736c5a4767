-- Heartbeats that change a record, after instances_lock.sql and the decision. $6 is the default interval.
UPDATE service_registry r
SET last_heartbeat = clock_timestamp(),
    told_interval_seconds = coalesce(r.heartbeat_interval_seconds, $6),
    status_since = CASE WHEN r.status = b.status THEN r.status_since ELSE clock_timestamp() END,
    status = b.status,
    config_revision = b.config_revision,
    config_version = b.config_version,
    config_error = b.config_error,
    config_reported_at = CASE
        WHEN (r.config_revision, r.config_version, r.config_error)
             IS DISTINCT FROM (b.config_revision, b.config_version, b.config_error)
        THEN clock_timestamp() ELSE r.config_reported_at END,
    updated_at = CASE
        WHEN (r.status, r.config_revision, r.config_version, r.config_error)
             IS DISTINCT FROM (b.status, b.config_revision, b.config_version, b.config_error)
        THEN clock_timestamp() ELSE r.updated_at END
FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
    AS b (id, status, config_revision, config_version, config_error)
WHERE r.id = b.id;
