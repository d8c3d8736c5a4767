-- Ends the alerts of instances that caught up, went down or left.
UPDATE hub_alerts a
SET resolved_at = clock_timestamp()
WHERE a.source = 'config' AND a.instance_id <> '' AND a.resolved_at IS NULL
  AND NOT EXISTS (
      SELECT 1 FROM service_registry r JOIN config_heads h ON h.service_name = r.service_name
      WHERE r.service_name = a.name AND r.instance_id = a.instance_id
        AND r.status <> 'down' AND r.config_revision < h.pushed_revision)
RETURNING a.id, a.severity, a.source, a.name, a.instance_id, a.message;
