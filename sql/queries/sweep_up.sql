-- How many instances of each service aren't down.
SELECT service_name, count(*) AS instances FROM service_registry WHERE status <> 'down' GROUP BY service_name;
