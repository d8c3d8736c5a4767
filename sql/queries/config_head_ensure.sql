-- Makes the row that puts a service's writers in order.
INSERT INTO config_heads (service_name) VALUES ($1) ON CONFLICT DO NOTHING;
