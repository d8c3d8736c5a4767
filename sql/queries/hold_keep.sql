-- Begins a hold, or notes that it grew.
INSERT INTO liveness_holds (service_name, instances, since, until) VALUES ($1, $2, $3, $4)
ON CONFLICT (service_name) DO UPDATE SET instances = excluded.instances;
