-- All instances, for the comparison with KV.
SELECT service_name, instance_id FROM service_registry;
