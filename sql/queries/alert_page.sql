-- A page of alerts before an id (all when it is NULL), newest first; each filter is off when it is NULL.
SELECT id, severity, source, kind, name, instance_id, message, cause, details, raised_at, resolved_at, acked_at, acked_by,
       silenced_until
FROM hub_alerts
WHERE ($1::bigint IS NULL OR id < $1)
  AND ($2::boolean IS NULL OR (resolved_at IS NULL) = $2)
  AND ($3::text IS NULL OR severity = $3)
  AND ($4::text IS NULL OR name = $4)
ORDER BY id DESC
LIMIT $5;
