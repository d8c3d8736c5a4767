-- What the live instances of a service can read.
SELECT instance_id, config_schema
FROM service_registry
WHERE service_name = $1 AND status <> 'down' AND config_schema IS NOT NULL
ORDER BY instance_id;
