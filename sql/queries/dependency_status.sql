-- Status of the best instance of each named service; a name that nobody registered under gives no row.
SELECT service_name, min(CASE status WHEN 'healthy' THEN 0 WHEN 'degraded' THEN 1 ELSE 2 END) AS rank
FROM service_registry
WHERE service_name = ANY ($1)
GROUP BY service_name;
