-- Takes a service's schema away.
DELETE FROM config_schemas WHERE service_name = $1;
