-- Raises an alert, unless it is up already.
INSERT INTO hub_alerts (severity, source, name, instance_id, message, details)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
RETURNING id;
