-- Puts an older version back in force.
UPDATE service_configs SET active = true WHERE service_name = $1 AND version = $2;
