-- Ends holds.
DELETE FROM liveness_holds WHERE service_name = ANY ($1);
