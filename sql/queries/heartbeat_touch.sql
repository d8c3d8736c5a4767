-- The hot path: all heartbeats of a batch that change nothing but the time, in one statement. A heartbeat whose record
-- is unknown, speaks for another incarnation or says something new gives no row; heartbeat_apply.sql's path serves it.
-- $10 is the default interval. At most one heartbeat per instance; rows are locked in the order of ids, so that replicas can't deadlock.
WITH beat AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[])
        WITH ORDINALITY AS b
            (service_name, instance_id, incarnation, status, metrics, config_revision, config_version, config_error, position)
), target AS (
    SELECT r.id, b.position, b.service_name, b.instance_id, b.status, b.metrics
    FROM beat b
    JOIN service_registry r ON r.service_name = b.service_name AND r.instance_id = b.instance_id
    WHERE r.status = b.status
      AND (b.incarnation IS NULL OR b.incarnation = r.incarnation)
      AND (b.config_revision IS NULL OR b.config_revision IS NOT DISTINCT FROM r.config_revision)
      AND (b.config_version IS NULL OR b.config_version IS NOT DISTINCT FROM r.config_version)
      -- A revision without an error clears the error; neither of them leaves it.
      AND (b.config_error IS NOT DISTINCT FROM r.config_error OR b.config_error IS NULL AND b.config_revision IS NULL)
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
), touched AS (
    UPDATE service_registry r SET
        last_heartbeat = clock_timestamp(),
        told_interval_seconds = coalesce(r.heartbeat_interval_seconds, $10)
    FROM target t WHERE r.id = t.id
    RETURNING t.position, t.service_name, r.told_interval_seconds
), recorded AS (
    INSERT INTO health_metrics (service_name, instance_id, status, metrics)
    SELECT service_name, instance_id, status, metrics::jsonb FROM target WHERE $9
)
SELECT t.position, t.told_interval_seconds, h.pushed_version AS version, h.pushed_revision AS revision,
       (SELECT epoch FROM hub_meta) AS epoch
FROM touched t
LEFT JOIN config_heads h ON h.service_name = t.service_name AND h.pushed_revision > 0
-- A heartbeat that changes no status may be lost with a crash of Postgres: the grace makes that harmless. Once for the
-- statement, as the epoch is, not once a row.
WHERE (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL;
