-- Marks instances as down.
UPDATE service_registry
SET status = 'down', status_since = clock_timestamp(), updated_at = clock_timestamp()
WHERE id = ANY ($1);
