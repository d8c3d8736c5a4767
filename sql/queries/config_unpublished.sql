-- Whether a service's newest activations are still on their way.
SELECT EXISTS (
    SELECT 1 FROM hub_events WHERE published_at IS NULL AND topic = 'config' AND service_name = $1
) AS unpublished;
