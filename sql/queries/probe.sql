-- Whether PostgreSQL answers a query at all: the infrastructure probe.
SELECT 1;
