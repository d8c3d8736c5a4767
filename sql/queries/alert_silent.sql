-- Whether an alert that was raised in silence outlasts it: then alert_speak.sql has something to do.
SELECT EXISTS (
    SELECT FROM hub_alerts a
    WHERE a.resolved_at IS NULL AND a.details ? 'silenced'
      AND NOT alert_is_silenced(a.severity, a.source, a.kind, a.name, a.instance_id)
) AS outlasted;
