-- Infrastructure components as their last check left them; those named in $1, or all when it is NULL.
SELECT component_name, kind, status, response_time_ms, error_message, critical, checked_at
FROM infrastructure_components
WHERE $1::text[] IS NULL OR component_name = ANY ($1)
ORDER BY component_name;
