-- Gives a service a schema.
INSERT INTO config_schemas (service_name, schema) VALUES ($1, $2)
ON CONFLICT (service_name) DO UPDATE SET schema = excluded.schema, updated_at = clock_timestamp();
