-- Locks the components of a round of checks, in the order of names, so that replicas can't deadlock.
SELECT component_name, status FROM infrastructure_components
WHERE component_name = ANY ($1)
ORDER BY component_name
FOR UPDATE;
