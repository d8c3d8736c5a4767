-- What changes with every registration and every removal: the graph of dependencies is the same while this is.
SELECT count(*) AS count, coalesce(sum(incarnation), 0)::text AS sum FROM service_registry;
