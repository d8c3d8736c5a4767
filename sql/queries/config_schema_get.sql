-- A service's schema.
SELECT schema FROM config_schemas WHERE service_name = $1;
