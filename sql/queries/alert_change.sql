-- Has alerts say something new (arrays, alert by alert).
UPDATE hub_alerts a
SET message = n.message, details = n.details::jsonb, cause = n.cause
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS n (id, message, details, cause)
WHERE a.id = n.id AND a.resolved_at IS NULL;
