-- Raises alerts (arrays, alert by alert), unless they are up already. One that somebody silenced says so. One that takes
-- the place of a more severe one that somebody has seen counts as seen, too.
INSERT INTO hub_alerts (severity, source, kind, name, message, details, cause, acked_at, acked_by)
SELECT n.severity, n.source, n.kind, n.name, n.message,
       n.details::jsonb || CASE WHEN alert_is_silenced(n.severity, n.source, n.kind, n.name, '')
                                THEN '{"silenced": true}'::jsonb ELSE '{}' END,
       n.cause, seen.acked_at, seen.acked_by
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[])
    WITH ORDINALITY AS n (severity, source, kind, name, message, details, cause, replaces, position)
LEFT JOIN hub_alerts seen ON seen.id = n.replaces AND (seen.severity = 'critical' OR n.severity = 'info')
ORDER BY n.position
ON CONFLICT DO NOTHING
RETURNING id, severity, source, kind, name, instance_id, message, details, cause, NULL::boolean AS replaced;
