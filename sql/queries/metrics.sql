-- What a service's instances measured within the last $4 seconds: only the metric $2 and only the instance $3, unless they
-- are NULL.
SELECT timestamp,
       (CASE WHEN $2::text IS NULL THEN metrics ELSE jsonb_build_object($2, metrics -> $2) END)::text AS metrics
FROM health_metrics
WHERE service_name = $1
  AND ($3::text IS NULL OR instance_id = $3)
  AND timestamp > statement_timestamp() - $4::double precision * interval '1 second'
  AND timestamp <= statement_timestamp()
  AND CASE WHEN $2::text IS NULL THEN metrics IS NOT NULL ELSE metrics ? $2 END
LIMIT $5;
