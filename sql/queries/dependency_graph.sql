-- Services and infrastructure components with their states, and what instances declared that they need, as JSON lists:
-- each list of a service once, however many of its instances declared it.
SELECT service_name AS name, 'service' AS kind,
       coalesce(min(status_rank(status)) FILTER (WHERE NOT draining), min(status_rank(status))) AS rank, NULL AS needs
FROM service_registry
GROUP BY service_name
UNION ALL
SELECT component_name, 'infrastructure', status_rank(status), NULL
FROM infrastructure_components
UNION ALL
SELECT service_name, 'needs', NULL, dependencies::text
FROM (SELECT DISTINCT service_name, dependencies FROM service_registry WHERE jsonb_typeof(dependencies) = 'array') declared;
