-- State of each of these names: of the service's instances in use the best (of all, while all are draining), else of the
-- infrastructure component. A name that nobody knows gives no row.
SELECT service_name AS name,
       coalesce(min(status_rank(status)) FILTER (WHERE NOT draining), min(status_rank(status))) AS rank
FROM service_registry
WHERE service_name = ANY ($1)
GROUP BY service_name
UNION ALL
SELECT c.component_name, status_rank(c.status)
FROM infrastructure_components c
WHERE c.component_name = ANY ($1)
  AND NOT EXISTS (SELECT FROM service_registry r WHERE r.service_name = c.component_name);
