-- Whether anything is known of a service, or of its instance $2 unless that is NULL.
SELECT EXISTS (SELECT FROM service_registry WHERE service_name = $1 AND ($2::text IS NULL OR instance_id = $2))
    OR EXISTS (SELECT FROM status_transitions
               WHERE subject = 'instance' AND name = $1 AND ($2::text IS NULL OR instance_id = $2))
    OR EXISTS (SELECT FROM health_metrics WHERE service_name = $1 AND ($2::text IS NULL OR instance_id = $2))
    OR $2::text IS NULL AND EXISTS (SELECT FROM config_heads WHERE service_name = $1 AND revision > 0) AS known;
