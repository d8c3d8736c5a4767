-- Removes versions beyond the newest $2 of a service ($1; NULL: of each), but none that is active, that instances are to
-- run, or ($3) that a rollback without argument would need.
DELETE FROM service_configs c
USING config_heads h
LEFT JOIN config_activations a ON a.service_name = h.service_name AND a.revision = h.revision
LEFT JOIN config_activations u ON u.service_name = h.service_name AND u.revision = a.undo_revision
WHERE ($1::text IS NULL OR h.service_name = $1) AND c.service_name = h.service_name
  AND c.version <= h.last_version - $2
  AND NOT c.active
  AND c.version IS DISTINCT FROM h.pushed_version
  AND NOT ($3 AND c.version IS NOT DISTINCT FROM u.version);
