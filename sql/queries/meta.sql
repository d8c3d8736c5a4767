-- The epoch, and which hubs may run on this schema.
SELECT epoch, oldest_schema FROM hub_meta;
