-- Alerts that were raised in silence and are not over, when the silence is: from now on they count as told.
UPDATE hub_alerts a
SET details = a.details - 'silenced'
WHERE a.resolved_at IS NULL AND a.details ? 'silenced'
  AND NOT alert_is_silenced(a.severity, a.source, a.kind, a.name, a.instance_id)
RETURNING a.id, a.severity, a.source, a.kind, a.name, a.instance_id, a.message, a.details, a.cause, NULL::boolean AS replaced;
