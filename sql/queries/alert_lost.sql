-- Services that have an alert of being down which nobody has seen, and of which nothing is left since the sweep removed
-- it. (Once the alert says so, the event needn't be there any more.)
SELECT a.name AS service_name
FROM hub_alerts a
WHERE a.resolved_at IS NULL AND a.source = 'service' AND a.kind = 'down' AND a.acked_at IS NULL
  AND NOT EXISTS (SELECT FROM service_registry r WHERE r.service_name = a.name)
  AND 'silent' = coalesce((
      SELECT coalesce(e.details->>'reason', '') FROM hub_events e
      WHERE e.service_name = a.name AND e.topic = 'service' AND e.kind = 'deregistered'
      ORDER BY e.at DESC, e.id DESC LIMIT 1), CASE WHEN a.details->>'removed' = 'true' THEN 'silent' END);
