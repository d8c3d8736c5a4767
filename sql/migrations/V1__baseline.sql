-- The first schema. Migrations are append-only: a change is a new file.

-- One row: which history of the database this is, and which hubs may run on its schema.
CREATE TABLE hub_meta (
    singleton      boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    -- Starts as the Unix seconds of creation; clients order configs by (epoch, revision).
    epoch          bigint      NOT NULL DEFAULT floor(extract(epoch FROM clock_timestamp()))::bigint,
    -- A hub whose newest known migration is older than this must not run here.
    oldest_schema  integer     NOT NULL DEFAULT 1,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO hub_meta DEFAULT VALUES;

-- Numbers registrations of all instances: a higher one is newer.
CREATE SEQUENCE incarnations AS bigint;

CREATE TABLE service_registry (
    id                         bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_name               text             NOT NULL,
    instance_id                text             NOT NULL,
    incarnation                bigint           NOT NULL DEFAULT nextval('incarnations'),
    status                     text             NOT NULL CHECK (status IN ('healthy', 'degraded', 'down')),
    status_since               timestamptz      NOT NULL DEFAULT clock_timestamp(),
    draining                   boolean          NOT NULL DEFAULT false,
    drain_reason               text,
    last_heartbeat             timestamptz      NOT NULL DEFAULT clock_timestamp(),
    -- Seconds between heartbeats that the instance asked for; NULL: the hub's setting.
    heartbeat_interval_seconds double precision CHECK (heartbeat_interval_seconds BETWEEN 0.1 AND 3600),
    version                    text,
    host                       text,
    port                       integer          CHECK (port BETWEEN 1 AND 65535),
    dependencies               jsonb            NOT NULL DEFAULT '[]',
    metadata                   jsonb            NOT NULL DEFAULT '{}',
    -- What the instance says that it runs.
    config_version             bigint,
    config_revision            bigint,
    config_error               text,
    registered_at              timestamptz      NOT NULL DEFAULT clock_timestamp(),
    created_at                 timestamptz      NOT NULL DEFAULT clock_timestamp(),
    updated_at                 timestamptz      NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (service_name, instance_id)
)
-- Heartbeats rewrite last_heartbeat, which no index covers: with room in the page they are heap-only updates.
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE service_configs (
    id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_name     text        NOT NULL,
    version          bigint      NOT NULL CHECK (version > 0),
    config_data      jsonb       NOT NULL CHECK (jsonb_typeof(config_data) = 'object'),
    active           boolean     NOT NULL DEFAULT false,
    -- Of the text as jsonb prints it, filled in by a trigger.
    checksum         text        NOT NULL,
    size_bytes       integer     NOT NULL,
    created_by       text        NOT NULL DEFAULT 'unknown',
    authenticated_as text,
    comment          text,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (service_name, version)
);
CREATE UNIQUE INDEX service_configs_one_active ON service_configs (service_name) WHERE active;

CREATE FUNCTION describe_config() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.checksum := encode(sha256(convert_to(NEW.config_data::text, 'UTF8')), 'hex');
    NEW.size_bytes := octet_length(NEW.config_data::text);
    RETURN NEW;
END $$;
CREATE TRIGGER service_configs_describe BEFORE INSERT OR UPDATE OF config_data ON service_configs
    FOR EACH ROW EXECUTE FUNCTION describe_config();

-- Every activation: which version was in force from when, under which revision.
CREATE TABLE config_activations (
    service_name     text        NOT NULL,
    revision         bigint      NOT NULL CHECK (revision > 0),
    version          bigint,
    action           text        NOT NULL,
    activated_by     text        NOT NULL,
    authenticated_as text,
    comment          text,
    activated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (service_name, revision)
);
CREATE INDEX config_activations_by_version ON config_activations (service_name, version, revision);

-- The newest activation of each service. Its row is the lock that puts a service's writers in order.
CREATE TABLE config_heads (
    service_name text        PRIMARY KEY,
    revision     bigint      NOT NULL DEFAULT 0,
    version      bigint,
    last_version bigint      NOT NULL DEFAULT 0,
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Outbox and timeline in one: what happened, and whether it was published.
CREATE TABLE hub_events (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic        text        NOT NULL,
    kind         text        NOT NULL,
    service_name text        NOT NULL,
    instance_id  text,
    details      jsonb       NOT NULL DEFAULT '{}',
    -- The replica that committed it, and so is the first to publish it.
    origin       text        NOT NULL,
    published_at timestamptz
);
CREATE INDEX hub_events_unpublished ON hub_events (id) WHERE published_at IS NULL;
CREATE INDEX hub_events_by_service ON hub_events (service_name, at);

-- Who leads, with a fencing token that grows with every take-over.
CREATE TABLE hub_leadership (
    singleton  boolean     PRIMARY KEY DEFAULT true CHECK (singleton),
    holder     text        NOT NULL,
    token      bigint      NOT NULL,
    expires_at timestamptz NOT NULL
);

-- One row per accepted heartbeat, partitioned by day.
CREATE TABLE health_metrics (
    id            bigint           GENERATED ALWAYS AS IDENTITY,
    service_name  text             NOT NULL,
    instance_id   text             NOT NULL,
    metric_type   text             NOT NULL DEFAULT 'heartbeat',
    metric_value  double precision,
    status        text             NOT NULL,
    metrics       jsonb,
    timestamp     timestamptz      NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (timestamp);
CREATE INDEX health_metrics_by_service ON health_metrics (service_name, timestamp);
-- Takes what no day's partition covers, so that a heartbeat never fails for lack of one.
CREATE TABLE health_metrics_default PARTITION OF health_metrics DEFAULT;

CREATE VIEW health_metric_values AS
SELECT h.service_name, h.instance_id, m.key AS metric_type, m.value::text::double precision AS metric_value, h.status, h.timestamp
FROM health_metrics h CROSS JOIN LATERAL jsonb_each(h.metrics) AS m;

-- Makes the partitions of today (UTC) and the given number of days after it.
CREATE FUNCTION create_health_partitions(days_ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day date;
BEGIN
    FOR offset_days IN 0..days_ahead LOOP
        day := (clock_timestamp() AT TIME ZONE 'UTC')::date + offset_days;
        IF to_regclass(format('health_metrics_%s', to_char(day, 'YYYYMMDD'))) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE health_metrics_%s PARTITION OF health_metrics FOR VALUES FROM (%L) TO (%L)',
                to_char(day, 'YYYYMMDD'), day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
        END IF;
    END LOOP;
END $$;
SELECT create_health_partitions(3);

-- One row per check of an infrastructure component.
CREATE TABLE infrastructure_status (
    id               bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    component_name   text             NOT NULL,
    status           text             NOT NULL,
    response_time_ms double precision,
    error_message    text,
    checked_at       timestamptz      NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX infrastructure_status_by_time ON infrastructure_status (checked_at);
