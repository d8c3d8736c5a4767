-- A new version, in force.
INSERT INTO service_configs (service_name, version, config_data, active, created_by, comment)
VALUES ($1, $2, $3::text::jsonb, true, $4, $5);
