-- Takes the active version out of force.
UPDATE service_configs SET active = false WHERE service_name = $1 AND active;
