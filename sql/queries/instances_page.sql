-- A page of instances after a (service, instance) cursor, filtered; each filter is off when it is NULL.
SELECT service_name, instance_id, incarnation, status, draining, version, host, port, dependencies, metadata,
       last_heartbeat, registered_at, config_revision, config_version, config_error
FROM service_registry
WHERE (service_name, instance_id) > ($1, $2)
  AND ($3::text IS NULL OR status = $3)
  AND ($4::text IS NULL OR service_name = $4)
  AND ($5::jsonb IS NULL OR metadata @> $5)
  AND ($6 OR NOT draining)
ORDER BY service_name, instance_id
LIMIT $7;
