-- Ends alerts (two arrays, alert by alert), and tells whether another takes their place.
UPDATE hub_alerts a
SET resolved_at = clock_timestamp()
FROM unnest($1::bigint[], $2::boolean[]) AS over (id, replaced)
WHERE a.id = over.id AND a.resolved_at IS NULL
RETURNING a.id, a.severity, a.source, a.kind, a.name, a.instance_id, a.message, a.details, a.cause, over.replaced;
