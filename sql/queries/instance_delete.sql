-- Removes records; their history stays.
DELETE FROM service_registry WHERE id = ANY ($1);
