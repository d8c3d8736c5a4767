-- A page of configs after a service.
SELECT service_name, version, revision, updated_at
FROM config_heads
WHERE service_name > $1 AND revision > 0
ORDER BY service_name
LIMIT $2;
