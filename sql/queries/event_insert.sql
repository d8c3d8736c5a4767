-- What happened, in the transaction that made it happen. Arrays, event by event.
INSERT INTO hub_events (topic, kind, service_name, instance_id, details, origin)
SELECT e.topic, e.kind, e.service_name, e.instance_id, e.details::jsonb, $6
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    AS e (topic, kind, service_name, instance_id, details)
RETURNING id;
