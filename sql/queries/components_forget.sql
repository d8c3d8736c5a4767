-- Removes components that the settings no longer name; their history stays.
DELETE FROM infrastructure_components WHERE component_name <> ALL ($1) RETURNING component_name;
