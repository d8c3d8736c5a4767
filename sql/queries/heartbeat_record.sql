-- One row per accepted heartbeat.
INSERT INTO health_metrics (service_name, instance_id, status, metrics)
SELECT service_name, instance_id, status, metrics::jsonb
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS b (service_name, instance_id, status, metrics);
