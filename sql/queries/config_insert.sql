-- A new version, in force.
INSERT INTO service_configs (service_name, version, config_data, active, created_by, authenticated_as, comment, not_secret)
VALUES ($1, $2, $3::text::jsonb, true, $4, $5, $6, $7);
