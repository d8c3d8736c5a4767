-- Mass expiries that are held back, or were until they ran out. (An empty name is the fleet.)
SELECT service_name, instances, since, until FROM liveness_holds;
