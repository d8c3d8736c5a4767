-- Locks a service's config against other writers; makes the row that they queue for when there is none yet. By itself: a
-- statement that waits for the lock still sees other tables as they were before it waited.
INSERT INTO config_heads AS h (service_name) VALUES ($1)
ON CONFLICT (service_name) DO UPDATE SET revision = h.revision WHERE false;
