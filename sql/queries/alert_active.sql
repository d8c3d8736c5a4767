-- Alerts that are not over.
SELECT id, severity, source, kind, name, instance_id, message, details, cause FROM hub_alerts WHERE resolved_at IS NULL;
