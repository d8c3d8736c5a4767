-- Gives the lease up, so that another replica leads at once.
UPDATE hub_leadership SET expires_at = clock_timestamp() WHERE holder = $1 AND expires_at > clock_timestamp();
