-- Events to publish, oldest first: this replica's and those of writes by hand at once, another's when it had its time and
-- didn't.
SELECT e.id, e.at, e.topic, e.kind, e.service_name, e.instance_id, e.details
FROM hub_events e
WHERE e.published_at IS NULL AND e.id > $3 AND (e.origin IN ($1, 'sql') OR e.at < clock_timestamp() - interval '1 second')
ORDER BY e.id
LIMIT $2;
