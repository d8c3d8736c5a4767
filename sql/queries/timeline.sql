-- A page of what happened before (at $4, row $5) within the last $3 seconds, newest first: events whose topic is among $1 or
-- whose kind is among $2, as far as this hub knows both (among $6 and $7).
SELECT e.id, e.at, e.topic, e.kind, e.service_name, e.instance_id, e.details
FROM hub_events e
WHERE (e.at, e.id) < (coalesce($4::timestamptz, 'infinity'), $5)
  AND e.at > statement_timestamp() - $3::double precision * interval '1 second'
  AND (e.topic = ANY ($1) OR e.kind = ANY ($2)) AND e.topic = ANY ($6) AND e.kind = ANY ($7)
ORDER BY e.at DESC, e.id DESC
LIMIT $8;
