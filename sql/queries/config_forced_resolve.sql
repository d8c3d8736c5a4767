-- Ends the alert of a forced config when another one replaces it.
UPDATE hub_alerts a
SET resolved_at = clock_timestamp()
WHERE a.source = 'config' AND a.name = $1 AND a.instance_id = '' AND a.resolved_at IS NULL
RETURNING a.id, a.severity, a.source, a.name, a.instance_id, a.message;
