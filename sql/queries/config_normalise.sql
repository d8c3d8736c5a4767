-- A config's text as jsonb prints it, which is what is compared, counted and hashed.
SELECT $1::text::jsonb::text AS config;
