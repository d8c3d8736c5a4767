-- A round of checks, column by column, each with its age in seconds: a row each, and the newest state of each component.
-- A component that was checked later meanwhile keeps what that check found.
WITH checked AS (
    SELECT *, clock_timestamp() - age * interval '1 second' AS at
    FROM unnest($1::text[], $2::text[], $3::text[], $4::double precision[], $5::text[], $6::boolean[], $7::double precision[])
        AS c (component_name, kind, status, response_time_ms, error_message, critical, age)
), kept AS (
    INSERT INTO infrastructure_status (component_name, status, response_time_ms, error_message, checked_at)
    SELECT component_name, status, response_time_ms, error_message, at FROM checked ORDER BY component_name
)
INSERT INTO infrastructure_components AS c
    (component_name, kind, status, status_since, response_time_ms, error_message, critical, checked_at)
SELECT component_name, kind, status, at, response_time_ms, error_message, critical, at FROM checked ORDER BY component_name
ON CONFLICT (component_name) DO UPDATE SET
    kind = excluded.kind,
    status = excluded.status,
    status_since = CASE WHEN c.status = excluded.status THEN c.status_since ELSE excluded.checked_at END,
    response_time_ms = excluded.response_time_ms,
    error_message = excluded.error_message,
    critical = excluded.critical,
    checked_at = excluded.checked_at
WHERE excluded.checked_at > c.checked_at
RETURNING component_name, status;
