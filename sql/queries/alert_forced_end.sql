-- Ends the alerts of forced configs that another one has replaced, of a service ($1; NULL: of each).
UPDATE hub_alerts a
SET resolved_at = clock_timestamp()
WHERE a.source = 'config' AND a.kind = 'forced' AND ($1::text IS NULL OR a.name = $1) AND a.resolved_at IS NULL
  AND NOT EXISTS (
      SELECT 1 FROM config_heads h
      WHERE h.service_name = a.name AND h.revision = (a.details ->> 'revision')::bigint)
RETURNING a.id, a.severity, a.source, a.kind, a.name, a.instance_id, a.message, a.details, a.cause, false AS replaced;
