-- Notes who saw an alert ($1, by $2), and silences it for $3 seconds; NULL: no word about that, 0: no longer. The newest
-- word on an alert holds: it ends the silences of others of its kind about its name.
WITH acked AS (
    UPDATE hub_alerts
    SET acked_at = clock_timestamp(), acked_by = $2,
        silenced_until = CASE WHEN $3::double precision IS NULL THEN silenced_until
                              WHEN $3 > 0 THEN clock_timestamp() + $3 * interval '1 second' END
    WHERE id = $1
    RETURNING *
), outspoken AS (
    UPDATE hub_alerts o
    SET silenced_until = NULL
    FROM acked a
    WHERE $3 IS NOT NULL AND o.id <> a.id AND o.silenced_until IS NOT NULL
      AND (o.source, o.kind, o.name, o.instance_id) = (a.source, a.kind, a.name, a.instance_id)
)
SELECT id, severity, source, kind, name, instance_id, message, cause, details, raised_at, resolved_at, acked_at, acked_by,
       silenced_until
FROM acked;
