-- As timeline.sql, of the service or component $9 only: a statement of its own, for the index by service.
SELECT e.id, e.at, e.topic, e.kind, e.service_name, e.instance_id, e.details
FROM hub_events e
WHERE e.service_name = $9
  AND (e.at, e.id) < (coalesce($4::timestamptz, 'infinity'), $5)
  AND e.at > statement_timestamp() - $3::double precision * interval '1 second'
  AND (e.topic = ANY ($1) OR e.kind = ANY ($2)) AND e.topic = ANY ($6) AND e.kind = ANY ($7)
ORDER BY e.at DESC, e.id DESC
LIMIT $8;
