-- Mass expiries that are held back.
SELECT service_name, instances, until FROM liveness_holds;
