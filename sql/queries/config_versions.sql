-- The named versions of a config, newest first, without their content.
SELECT version, checksum, created_by, created_at, active, size_bytes
FROM service_configs
WHERE service_name = $1 AND version = ANY ($2)
ORDER BY version DESC;
