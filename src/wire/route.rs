//! All subjects, in one table: subscriptions, client calls and `subjects.md` come from it.

use super::error::ErrorCode;

/// A field of a request, for the reference.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its JSON type.
    pub kind: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// What it means.
    pub doc: &'static str,
}

/// One subject that the hub serves.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Which.
    pub endpoint: Endpoint,
    /// Its name in the NATS service API.
    pub name: &'static str,
    /// The same on the command line, after `central-hub`.
    pub command: &'static str,
    /// Its subject after the prefix; `*` stands for the service.
    pub pattern: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What a request may hold.
    pub fields: &'static [Field],
    /// Codes of its own, beside those that any call can get.
    pub errors: &'static [ErrorCode],
    /// A request's body.
    pub request: &'static str,
    /// The answer to it.
    pub reply: &'static str,
}

const fn required(name: &'static str, kind: &'static str, doc: &'static str) -> Field {
    Field { name, kind, required: true, doc }
}

const fn optional(name: &'static str, kind: &'static str, doc: &'static str) -> Field {
    Field { name, kind, required: false, doc }
}

const SERVICE: Field = optional("service_name", "text", "Must agree with the subject.");
const INSTANCE: Field =
    optional("instance_id", "text", "Which instance; may be left out while the service has only one.");
const INCARNATION: Field = optional(
    "incarnation",
    "integer",
    "The registration that you got; an older one is refused, so that a delayed message can't touch a successor.",
);
const LIMIT: Field = optional(
    "limit",
    "integer",
    "Rows of the page, 1 to 1000; left out, 100. A page also ends where the hub's settings allow no more, or a NATS message would be too large.",
);
const WINDOW: Field = optional(
    "window_seconds",
    "number",
    "How far back, 1 to 34560000; left out, 86400. The answer tells how much of it is known.",
);
const CURSOR: Field = optional("cursor", "text", "`next_cursor` of the page before.");

const fn register_fields(service: Field) -> [Field; 11] {
    [
        service,
        optional(
            "instance_id",
            "text",
            "`[A-Za-z0-9_-]{1,128}`. Left out, it is derived from host and port, so that a restart replaces its own record; without those it is made up.",
        ),
        optional("version", "text", "Version of your software."),
        optional("host", "text", "Where others reach you."),
        optional("port", "integer", "1 to 65535."),
        optional("dependencies", "list of names", "Services and infrastructure components that you need; at most 256."),
        optional(
            "metadata",
            "object",
            "Anything else worth knowing, at most 32 KiB; `hub.services.list` filters by it.",
        ),
        optional("status", "text", "`healthy` (left out), `degraded` or `down`."),
        optional(
            "heartbeat_interval_seconds",
            "number",
            "How often you will beat, 0.1 to 3600. Left out, the hub's setting (30).",
        ),
        optional(
            "config_schema",
            "object, true or false",
            "A JSON Schema of the configs that you can read, at most 64 KiB: a config that you can't is refused as `incompatible` while you live.",
        ),
        optional(
            "require_dependencies",
            "true or false",
            "Refuse unless each dependency is known and not down: a service or an infrastructure component.",
        ),
    ]
}

const REGISTER: &[Field] = &register_fields(required("service_name", "text", "`[A-Za-z0-9][A-Za-z0-9_-]{0,99}`."));
const REGISTER_AS: &[Field] = &register_fields(SERVICE);

const REGISTER_REQUEST: &str =
    r#"{"service_name":"tick-aggregator","host":"10.0.0.5","port":8002,"dependencies":["nats"]}"#;
const REGISTER_REPLY: &str = r#"{"service_name":"tick-aggregator","instance_id":"10_0_0_5-8002","incarnation":7,"status":"healthy","heartbeat_interval_seconds":30.0,"service_timeout_seconds":90.0,"config":null,"dependencies":[{"name":"nats","status":"unknown"}],"warnings":[]}"#;
const INSTANCE_REPLY: &str = r#"{"service_name":"tick-aggregator","instance_id":"10_0_0_5-8002","incarnation":7,"status":"healthy","draining":true,"version":null,"host":"10.0.0.5","port":8002,"dependencies":["nats"],"metadata":{},"last_heartbeat":"2026-01-05T10:00:00.123456Z","registered_at":"2026-01-05T09:59:58.5Z","config_revision":null,"config_version":null,"config_error":null}"#;

const INFRA_REPLY: &str = r#"{"components":[{"component_name":"kafka","kind":"kafka","status":"down","response_time_ms":null,"error_message":"connection refused","checked_at":"2026-01-05T10:00:00.123456Z","critical":false,"uptime_pct_24h":99.31}]}"#;
const ALERTS_REPLY: &str = r#"{"alerts":[{"id":7,"severity":"critical","source":"service","kind":"down","name":"tick-aggregator","instance_id":null,"message":"tick-aggregator is down: none of its 2 instances is up","cause":null,"details":{"down":2,"in_use":2,"instances":["10_0_0_5-8002","10_0_0_6-8002"],"affects":["feature-engineering"]},"raised_at":"2026-01-05T10:00:00.123456Z","resolved_at":null,"acked_at":null,"acked_by":null,"silenced_until":null}],"next_cursor":"alert/7"}"#;

/// A call's own fields and those of every config call that changes something.
const fn write_fields<const OWN: usize, const ALL: usize>(own: [Field; OWN]) -> [Field; ALL] {
    let mut all = [SERVICE; ALL];
    let mut at = 0;
    while at < OWN {
        all[at] = own[at];
        at += 1;
    }
    let mut from = 0;
    while from < WRITE_FIELDS.len() {
        all[at] = WRITE_FIELDS[from];
        at += 1;
        from += 1;
    }
    assert!(at == ALL, "the length of the list is the sum of its parts");
    all
}

const NOT_SECRET: Field =
    optional("not_secret", "list of JSON pointers", "Values that look like secrets and aren't, at most 100. Recorded.");
const REQUEST_ID: Field = optional(
    "request_id",
    "text",
    "At most 64 characters. The same subject, id and body again within ten minutes gets the first answer and does nothing twice; another body is `bad_request`.",
);
const DEADLINE: Field = optional(
    "deadline",
    "RFC 3339 time",
    "Refuse when the hub gets to it later than this. (What was done in time under the same `request_id` is still answered.)",
);

const WRITE_FIELDS: [Field; 9] = [
    optional("created_by", "text", "Who writes; left out, `unknown`."),
    optional("comment", "text", "Why."),
    optional("expected_version", "integer", "Refuse unless this version is active; 0: unless none is."),
    optional(
        "expected_revision",
        "integer",
        "Refuse unless this revision is the newest; 0: unless there never was one.",
    ),
    optional("dry_run", "true or false", "Check everything and answer what would happen, and do nothing."),
    optional("force", "true or false", "Publish although a live instance declared that it can't read it. Recorded."),
    NOT_SECRET,
    REQUEST_ID,
    DEADLINE,
];

const CHANGE_ERRORS: &[ErrorCode] = &[
    ErrorCode::VersionConflict,
    ErrorCode::SchemaViolation,
    ErrorCode::SecretDetected,
    ErrorCode::Incompatible,
    ErrorCode::Expired,
];

const CHANGE_REPLY: &str = r#"{"service_name":"tick-aggregator","version":2,"revision":3,"epoch":1767603540,"changed":true,"published":true,"warnings":[]}"#;

macro_rules! routes {
    ($($endpoint:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        /// Names each subject that the hub serves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Endpoint {
            $(#[allow(missing_docs, reason = "the route's summary says what it is")] $endpoint,)*
        }

        /// All subjects, in the order of the reference.
        pub static ROUTES: &[Route] = &[$(Route { endpoint: Endpoint::$endpoint, $($field: $value),* },)*];
    };
}

routes! {
    Register {
        name: "register",
        command: "services register tick-aggregator --host 10.0.0.5 --port 8002 --needs nats",
        pattern: "register",
        summary: "A process says that it runs. The same instance id again replaces the record, under a new incarnation.",
        fields: REGISTER,
        errors: &[ErrorCode::DependencyUnavailable, ErrorCode::SecretDetected],
        request: REGISTER_REQUEST,
        reply: REGISTER_REPLY,
    }
    RegisterAs {
        name: "register-as",
        command: "services register tick-aggregator --host 10.0.0.5 --port 8002 --needs nats",
        pattern: "register.*",
        summary: "The same, on a subject that NATS permissions can bind to one service.",
        fields: REGISTER_AS,
        errors: &[ErrorCode::DependencyUnavailable, ErrorCode::SecretDetected],
        request: r#"{"host":"10.0.0.5","port":8002,"dependencies":["nats"]}"#,
        reply: REGISTER_REPLY,
    }
    Heartbeat {
        name: "heartbeat",
        command: "heartbeat tick-aggregator --status degraded --metric cpu=0.93 --metric lag_ms=1840",
        pattern: "heartbeat.*",
        summary: "An instance is alive, and says how well. The answer tells which config should be in force, so a process that missed a push repairs itself.",
        fields: &[
            SERVICE,
            INSTANCE,
            INCARNATION,
            optional("status", "text", "`healthy` (left out), `degraded` or `down`."),
            optional("metrics", "object", "Numbers by name (`[A-Za-z0-9_.:-]{1,100}`), at most 64."),
            optional("config_revision", "integer", "The config in force; without `config_error` it clears the error."),
            optional("config_version", "integer", "The config in force."),
            optional("config_error", "text", "Why the newest config was refused. Control characters in it become spaces."),
        ],
        errors: &[ErrorCode::NotRegistered, ErrorCode::StaleIncarnation, ErrorCode::AmbiguousInstance],
        request: r#"{"status":"degraded","metrics":{"cpu":0.93,"lag_ms":1840}}"#,
        reply: r#"{"service_name":"tick-aggregator","instance_id":"10_0_0_5-8002","status":"degraded","config":{"version":2,"revision":2,"epoch":1767603540},"heartbeat_interval_seconds":30.0}"#,
    }
    Deregister {
        name: "deregister",
        command: "services deregister tick-aggregator --instance 10_0_0_5-8002",
        pattern: "deregister.*",
        summary: "An instance says goodbye. Its record goes, its history stays.",
        fields: &[SERVICE, INSTANCE, INCARNATION],
        errors: &[ErrorCode::NotRegistered, ErrorCode::StaleIncarnation, ErrorCode::AmbiguousInstance],
        request: r#"{"instance_id":"10_0_0_5-8002","incarnation":7}"#,
        reply: r#"{"service_name":"tick-aggregator","instance_id":"10_0_0_5-8002"}"#,
    }
    ServicesList {
        name: "services-list",
        command: "services list --status healthy",
        pattern: "services.list",
        summary: "Who is there, ordered by service and instance.",
        fields: &[
            optional("status", "text", "Only instances with this status."),
            optional("service_name", "text", "Only instances of this service."),
            optional("metadata", "object", "Only instances whose metadata holds all of this."),
            optional("include_draining", "true or false", "Left out, draining instances are listed too."),
            LIMIT,
            CURSOR,
        ],
        errors: &[],
        request: r#"{"status":"healthy","limit":1}"#,
        reply: r#"{"services":[{"service_name":"tick-aggregator","instance_id":"10_0_0_5-8002","incarnation":7,"status":"healthy","draining":false,"version":null,"host":"10.0.0.5","port":8002,"dependencies":["nats"],"metadata":{},"last_heartbeat":"2026-01-05T10:00:00.123456Z","registered_at":"2026-01-05T09:59:58.5Z","config_revision":null,"config_version":null,"config_error":null}],"next_cursor":"instance/tick-aggregator.10_0_0_5-8002"}"#,
    }
    ServicesGet {
        name: "services-get",
        command: "services get tick-aggregator",
        pattern: "services.get.*",
        summary: "Where a service is. `status` is its best instance's; `host` and `port` are those of one healthy instance that isn't draining, spread over calls, else of a degraded one, else null.",
        fields: &[SERVICE],
        errors: &[ErrorCode::NotFound],
        request: "",
        reply: r#"{"service_name":"tick-aggregator","status":"healthy","host":"10.0.0.5","port":8002,"instances":[{"service_name":"tick-aggregator","instance_id":"10_0_0_5-8002","incarnation":7,"status":"healthy","draining":false,"version":null,"host":"10.0.0.5","port":8002,"dependencies":["nats"],"metadata":{},"last_heartbeat":"2026-01-05T10:00:00.123456Z","registered_at":"2026-01-05T09:59:58.5Z","config_revision":null,"config_version":null,"config_error":null}]}"#,
    }
    ServicesDrain {
        name: "services-drain",
        command: "services drain tick-aggregator --reason 'host is replaced'",
        pattern: "services.drain.*",
        summary: "An operator takes an instance out of use, or back in. Neither heartbeats nor a restart of the instance undo it.",
        fields: &[
            SERVICE,
            INSTANCE,
            required("draining", "true or false", "Out of use, or back in."),
            optional("reason", "text", "Why; it stands in the event."),
        ],
        errors: &[ErrorCode::NotFound, ErrorCode::AmbiguousInstance, ErrorCode::SecretDetected],
        request: r#"{"draining":true,"reason":"host is replaced"}"#,
        reply: INSTANCE_REPLY,
    }
    ConfigGet {
        name: "config-get",
        command: "config get tick-aggregator",
        pattern: "config.get.*",
        summary: "The active config, from the hub's memory; or any version.",
        fields: &[
            SERVICE,
            optional("version", "integer", "Left out, the active version."),
            optional("min_revision", "integer", "Answer with this revision or a newer one of the same epoch, or with `not_found`: read your writes on any replica."),
        ],
        errors: &[ErrorCode::NotFound],
        request: "",
        reply: r#"{"service_name":"tick-aggregator","version":2,"revision":2,"epoch":1767603540,"active":true,"config":{"operational": {"interval": 5}},"checksum":"6b1c…","created_by":"admin","created_at":"2026-01-05T10:00:00.123456Z","comment":null}"#,
    }
    ConfigSet {
        name: "config-set",
        command: r#"config set tick-aggregator '{"operational":{"interval":5}}'"#,
        pattern: "config.set.*",
        summary: "Publishes a config: commits it, then pushes it to KV. Content that is active already changes nothing.",
        fields: &write_fields::<2, 11>([
            SERVICE,
            required("config", "object", "The content: at most 400 KiB, 20,000 keys, 64 levels."),
        ]),
        errors: CHANGE_ERRORS,
        request: r#"{"config":{"operational":{"interval":5}},"created_by":"admin"}"#,
        reply: r#"{"service_name":"tick-aggregator","version":2,"revision":2,"epoch":1767603540,"changed":true,"published":true,"warnings":[]}"#,
    }
    ConfigPatch {
        name: "config-patch",
        command: r#"config patch tick-aggregator '{"operational":{"interval":6,"old_key":null}}'"#,
        pattern: "config.patch.*",
        summary: "Publishes what a JSON merge patch (RFC 7396) makes of the active config: what it names is replaced, `null` removes a key.",
        fields: &write_fields::<2, 11>([
            SERVICE,
            required("patch", "object", "What to change."),
        ]),
        errors: &[ErrorCode::NotFound, ErrorCode::VersionConflict, ErrorCode::SchemaViolation, ErrorCode::SecretDetected, ErrorCode::Incompatible, ErrorCode::Expired],
        request: r#"{"patch":{"operational":{"interval":6,"old_key":null}},"created_by":"admin"}"#,
        reply: CHANGE_REPLY,
    }
    ConfigRollback {
        name: "config-rollback",
        command: "config rollback tick-aggregator -m 'latency went up'",
        pattern: "config.rollback.*",
        summary: "Puts an older version back in force under a new revision. Without `to_version` it takes back the newest change that isn't taken back yet; twice in a row walks further back.",
        fields: &write_fields::<2, 11>([
            SERVICE,
            optional("to_version", "integer", "Left out, what was in force before the newest change."),
        ]),
        errors: &[ErrorCode::NotFound, ErrorCode::VersionConflict, ErrorCode::SchemaViolation, ErrorCode::SecretDetected, ErrorCode::Incompatible, ErrorCode::Expired],
        request: r#"{"comment":"latency went up","created_by":"admin"}"#,
        reply: r#"{"service_name":"tick-aggregator","version":1,"revision":4,"epoch":1767603540,"changed":true,"published":true,"warnings":[]}"#,
    }
    ConfigDelete {
        name: "config-delete",
        command: "config delete tick-aggregator",
        pattern: "config.delete.*",
        summary: "Takes the config out of force: KV gets a tombstone, versions stay in the history, numbers go on, and a rollback undoes it.",
        fields: &write_fields::<1, 10>([SERVICE]),
        errors: &[ErrorCode::NotFound, ErrorCode::VersionConflict, ErrorCode::SecretDetected, ErrorCode::Expired],
        request: r#"{"expected_version":1,"created_by":"admin"}"#,
        reply: r#"{"service_name":"tick-aggregator","version":null,"revision":5,"epoch":1767603540,"changed":true,"published":true,"warnings":[]}"#,
    }
    ConfigDiff {
        name: "config-diff",
        command: "config diff tick-aggregator 1",
        pattern: "config.diff.*",
        summary: "What changes from one version to another, as a JSON Patch (RFC 6902).",
        fields: &[
            SERVICE,
            required("from", "integer", "A version."),
            optional("to", "integer", "Another; left out, the active one."),
        ],
        errors: &[ErrorCode::NotFound],
        request: r#"{"from":1,"to":2}"#,
        reply: r#"{"from":1,"to":2,"patch":[{"op":"replace","path":"/operational/interval","value":6}]}"#,
    }
    ConfigValidate {
        name: "config-validate",
        command: r#"config validate tick-aggregator '{"operational":{"interval":5}}'"#,
        pattern: "config.validate.*",
        summary: "Would this config be taken? Changes nothing.",
        fields: &[SERVICE, required("config", "object", "The content."), NOT_SECRET],
        errors: &[],
        request: r#"{"config":{"operational":{"interval":0}}}"#,
        reply: r#"{"valid":false,"violations":[{"path":"/operational/interval","message":"value is less than the minimum of 1"}],"secrets":[],"incompatible_instances":[]}"#,
    }
    ConfigStatus {
        name: "config-status",
        command: "config status tick-aggregator",
        pattern: "config.status.*",
        summary: "Who runs what: `published` says that KV holds the newest activation, `converged` that every live instance says it runs it.",
        fields: &[SERVICE],
        errors: &[ErrorCode::NotFound],
        request: "",
        reply: r#"{"version":2,"revision":3,"published":true,"converged":false,"instances":[{"instance_id":"10_0_0_5-8002","config_version":1,"config_revision":1,"state":"behind","config_error":null,"since":"2026-01-05T10:00:00.123456Z"}]}"#,
    }
    SchemaGet {
        name: "config-schema-get",
        command: "config schema get tick-aggregator",
        pattern: "config.schema.get.*",
        summary: "What the service's configs must look like.",
        fields: &[SERVICE],
        errors: &[],
        request: "",
        reply: r#"{"service_name":"tick-aggregator","schema":{"properties":{"operational":{"type":"object"}}},"warnings":[]}"#,
    }
    SchemaSet {
        name: "config-schema-set",
        command: r#"config schema set tick-aggregator '{"properties":{"operational":{"type":"object"}}}'"#,
        pattern: "config.schema.set.*",
        summary: "Says what the service's configs must look like: a JSON Schema, draft 2020-12, at most 64 KiB. Set, patch and rollback are checked from then on, unless that would take more than 200,000 steps: then they are refused.",
        fields: &[
            SERVICE,
            required("schema", "object, true, false or null", "`null` takes it away. No references to other documents; regular expressions without look-around and back-references."),
            REQUEST_ID,
            DEADLINE,
        ],
        errors: &[ErrorCode::SecretDetected, ErrorCode::Expired],
        request: r#"{"schema":{"properties":{"operational":{"type":"object"}}}}"#,
        reply: r#"{"service_name":"tick-aggregator","schema":{"properties":{"operational":{"type":"object"}}},"warnings":[]}"#,
    }
    ConfigHistory {
        name: "config-history",
        command: "config history tick-aggregator --limit 1",
        pattern: "config.history.*",
        summary: "What was in force when, and by whom; newest first. `forced: true` stands at what live instances had declared that they can't read, `authenticated_as` where NATS vouches for somebody.",
        fields: &[
            SERVICE,
            LIMIT,
            optional("before_revision", "integer", "Only activations before this one: the last of the page before."),
        ],
        errors: &[ErrorCode::NotFound],
        request: r#"{"limit":1}"#,
        reply: r#"{"activations":[{"revision":2,"version":2,"action":"published","by":"admin","at":"2026-01-05T10:00:00.123456Z","comment":null}],"versions":[{"version":2,"checksum":"6b1c…","created_by":"admin","created_at":"2026-01-05T10:00:00.123456Z","active":true,"size_bytes":32}]}"#,
    }
    ConfigList {
        name: "config-list",
        command: "config list",
        pattern: "config.list",
        summary: "Which services have a config, ordered by service.",
        fields: &[LIMIT, CURSOR],
        errors: &[],
        request: "",
        reply: r#"{"configs":[{"service_name":"tick-aggregator","version":2,"revision":2,"updated_at":"2026-01-05T10:00:00.123456Z"}]}"#,
    }
    Health {
        name: "health",
        command: "health",
        pattern: "health",
        summary: "How the hub itself is, from whichever replica got the question.",
        fields: &[],
        errors: &[],
        request: "",
        reply: r#"{"status":"healthy","version":"0.1.0","replica_id":"hub-1","leader":true,"uptime_seconds":86400.0,"now":"2026-01-05T10:00:00.123456Z","postgres":{"status":"healthy","response_time_ms":0.4},"nats":{"status":"healthy","rtt_ms":0.2,"server_version":"2.15.1"},"projection":{"pending":0}}"#,
    }
    Status {
        name: "status",
        command: "status",
        pattern: "status",
        summary: "The fleet at a glance: services and instances by status, infrastructure, alerts that are not over, configs that not everybody runs.",
        fields: &[],
        errors: &[],
        request: "",
        reply: r#"{"services":{"total":18,"healthy":17,"degraded":1,"down":0},"instances":{"total":24,"healthy":23,"degraded":1,"down":0},"draining":0,"infra":[{"component_name":"postgresql","kind":"postgresql","status":"healthy","response_time_ms":0.8,"error_message":null,"checked_at":"2026-01-05T10:00:00.123456Z","critical":true}],"alerts":{"critical":0,"warning":1,"info":0,"acked":0},"configs":{"total":18,"not_converged":1,"services":["tick-aggregator"]}}"#,
    }
    Metrics {
        name: "metrics",
        command: "metrics tick-aggregator cpu --since 10m --bucket 5m",
        pattern: "metrics.*",
        summary: "What a service's instances measured, in buckets of time; metrics by name, at most 128 a page. Buckets in which nothing was measured are left out.",
        fields: &[
            SERVICE,
            optional("metric_type", "text", "Only this metric."),
            optional("instance_id", "text", "Only what this instance measured."),
            optional("since_seconds", "number", "How far back, 1 to 31622400; left out, 3600."),
            optional("bucket_seconds", "number", "Length of a bucket, 0.1 to 31622400; left out, a sixtieth of `since_seconds`. At most 1,000 buckets. They begin at whole multiples of their length since 1970."),
            LIMIT,
            CURSOR,
        ],
        errors: &[ErrorCode::NotFound],
        request: r#"{"metric_type":"cpu","since_seconds":600,"bucket_seconds":300}"#,
        reply: r#"{"series":[{"metric_type":"cpu","points":[{"at":"2026-01-05T09:55:00Z","min":0.2,"avg":0.35,"max":0.93,"count":10}]}]}"#,
    }
    UptimeOf {
        name: "uptime-of",
        command: "uptime tick-aggregator --window 1h",
        pattern: "uptime.*",
        summary: "For how much of a window a service, one of its instances or an infrastructure component was up; exactly, from its status transitions. A service is up while any of its instances is, and down once all have left; time in which nobody knows isn't counted.",
        fields: &[
            SERVICE,
            optional("instance_id", "text", "Only this instance."),
            WINDOW,
        ],
        errors: &[ErrorCode::NotFound],
        request: r#"{"window_seconds":3600}"#,
        reply: r#"{"service_name":"tick-aggregator","kind":"service","uptime_pct":98.75,"window_seconds":3600.0,"covered_seconds":2400.0,"covered_since":"2026-01-05T09:20:00Z","down_seconds":30.0,"transitions":[{"at":"2026-01-05T09:20:00Z","status":"healthy"},{"at":"2026-01-05T09:30:00Z","status":"down"},{"at":"2026-01-05T09:30:30Z","status":"healthy"}]}"#,
    }
    Uptime {
        name: "uptime",
        command: "uptime",
        pattern: "uptime",
        summary: "The same of all services and components that were there within the window, without their transitions.",
        fields: &[WINDOW, LIMIT, CURSOR],
        errors: &[],
        request: "",
        reply: r#"{"window_seconds":86400.0,"services":[{"service_name":"tick-aggregator","kind":"service","uptime_pct":98.75,"window_seconds":86400.0,"covered_seconds":2400.0,"covered_since":"2026-01-05T09:20:00Z","down_seconds":30.0}],"components":[]}"#,
    }
    InfraStatus {
        name: "infra-status",
        command: "infra",
        pattern: "infra.status",
        summary: "How each infrastructure component was when it was last checked.",
        fields: &[],
        errors: &[],
        request: "",
        reply: INFRA_REPLY,
    }
    InfraCheck {
        name: "infra-check",
        command: "infra --check",
        pattern: "infra.check",
        summary: "Checks every infrastructure component now, and tells.",
        fields: &[],
        errors: &[],
        request: "",
        reply: INFRA_REPLY,
    }
    DepsGraph {
        name: "deps-graph",
        command: "deps",
        pattern: "deps.graph",
        summary: "Who needs whom, as registrations say; circles; and in which order to start everything. A component that has the name of a registered service is that service here, as it is in the status of a dependency, until nobody is registered under the name.",
        fields: &[],
        errors: &[],
        request: "",
        reply: r#"{"nodes":[{"name":"nats","kind":"infrastructure","status":"healthy"},{"name":"tick-aggregator","kind":"service","status":"healthy"}],"edges":[{"from":"tick-aggregator","to":"nats"}],"cycles":[],"start_order":[["nats"],["tick-aggregator"]]}"#,
    }
    DepsImpact {
        name: "deps-impact",
        command: "deps --impact tick-aggregator",
        pattern: "deps.impact.*",
        summary: "Who suffers if a service or component goes down.",
        fields: &[SERVICE],
        errors: &[ErrorCode::NotFound],
        request: "",
        reply: r#"{"name":"tick-aggregator","direct":["feature-engineering"],"transitive":["feature-engineering","order-execution"]}"#,
    }
    AlertsList {
        name: "alerts-list",
        command: "alerts --limit 1",
        pattern: "alerts.list",
        summary: "What needs a person's attention, and what did; newest first.",
        fields: &[
            optional("active", "true or false", "Only those that are not over, or only those that are."),
            optional("severity", "text", "`critical`, `warning` or `info`."),
            optional("service_name", "text", "Only those about this service or component."),
            LIMIT,
            CURSOR,
        ],
        errors: &[],
        request: r#"{"active":true,"limit":1}"#,
        reply: ALERTS_REPLY,
    }
    AlertsAck {
        name: "alerts-ack",
        command: "alerts ack 7 --by ann --silence 1h",
        pattern: "alerts.ack",
        summary: "Somebody saw an alert, over or not, and may silence it: should the same come again meanwhile, it is kept and not sent.",
        fields: &[
            required("id", "integer", "Which."),
            optional("by", "text", "Who."),
            optional("silence_seconds", "number", "For how long it is silenced, 0 to 2592000; 0: no longer."),
        ],
        errors: &[ErrorCode::NotFound, ErrorCode::SecretDetected],
        request: r#"{"id":7,"by":"ann","silence_seconds":3600}"#,
        reply: r#"{"id":7,"severity":"critical","source":"service","kind":"down","name":"tick-aggregator","instance_id":null,"message":"tick-aggregator is down: none of its 2 instances is up","cause":null,"details":{"down":2,"in_use":2,"instances":["10_0_0_5-8002","10_0_0_6-8002"],"affects":["feature-engineering"]},"raised_at":"2026-01-05T10:00:00.123456Z","resolved_at":null,"acked_at":"2026-01-05T10:01:00Z","acked_by":"ann","silenced_until":"2026-01-05T11:01:00Z"}"#,
    }
    Timeline {
        name: "timeline",
        command: "timeline tick-aggregator --kinds config,down --limit 1",
        pattern: "timeline",
        summary: "What happened, of all kinds in one order, newest first: what changed just before it broke?",
        fields: &[
            optional("service_name", "text", "Only what happened to this service or component."),
            optional("since_seconds", "number", "How far back, 1 to 31622400; left out, 86400."),
            optional("kinds", "list of texts", "Only these topics (`service`, `config`, `infra`, `alert`) or kinds (`down`, `published`, …)."),
            LIMIT,
            CURSOR,
        ],
        errors: &[],
        request: r#"{"service_name":"tick-aggregator","kinds":["config","down"],"limit":1}"#,
        reply: r#"{"events":[{"id":"1767607200123456-42","at":"2026-01-05T10:00:00.123456Z","topic":"service","kind":"down","service_name":"tick-aggregator","instance_id":"10_0_0_5-8002","details":{"from":"healthy","reason":"silent","silent_seconds":91.2,"timeout_seconds":90.0}}],"next_cursor":"event/1767607200123456-42"}"#,
    }
}

impl Endpoint {
    /// What the table says of it.
    #[must_use]
    pub fn route(self) -> &'static Route {
        // The table is built from the enum's own list, in its order.
        &ROUTES[self as usize]
    }

    /// The subject to send a request to. `service` stands where the pattern has a `*`.
    #[must_use]
    pub fn subject(self, prefix: &str, service: Option<&str>) -> String {
        format!("{prefix}.{}", self.route().pattern.replace('*', service.unwrap_or("*")))
    }

    /// Whether its subject ends in a service.
    #[must_use]
    pub fn names_service(self) -> bool {
        self.route().pattern.ends_with(".*")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{
        Fields, Request, alert, config, dependency, fleet, health, infra, metrics, registry, timeline, uptime,
    };
    use super::*;
    use crate::domain::limits::Limits;

    /// Decodes the route's own example and checks that decoder, table and reply type agree.
    fn agrees<R: Request>(endpoint: Endpoint) {
        let route = endpoint.route();
        let limits = Limits::default();
        let token = endpoint.names_service().then_some("tick-aggregator");
        let mut fields = Fields::parse(route.request.as_bytes(), token, &limits).unwrap();
        R::decode(&mut fields).unwrap();
        let asked = fields.asked().to_vec();
        fields.finish().unwrap();
        let documented: Vec<_> = route.fields.iter().map(|field| field.name).collect();
        assert_eq!(asked, documented, "{}: what the decoder reads, and what the table says", route.name);
        serde_json::from_str::<R::Reply>(route.reply).unwrap();
        for field in route.fields.iter().filter(|field| field.required) {
            let error = R::decode(&mut Fields::parse(b"", token, &limits).unwrap()).map(|_| ()).unwrap_err();
            assert_eq!(error.details["field"], field.name, "{}: a required field is missed by name", route.name);
        }
    }

    #[test]
    fn decoders_and_table_agree() {
        for route in ROUTES {
            match route.endpoint {
                Endpoint::Register => agrees::<registry::Register>(route.endpoint),
                Endpoint::RegisterAs => agrees::<registry::Register>(route.endpoint),
                Endpoint::Heartbeat => agrees::<registry::Heartbeat>(route.endpoint),
                Endpoint::Deregister => agrees::<registry::Deregister>(route.endpoint),
                Endpoint::ServicesList => agrees::<registry::ServicesList>(route.endpoint),
                Endpoint::ServicesGet => agrees::<registry::ServicesGet>(route.endpoint),
                Endpoint::ServicesDrain => agrees::<registry::ServicesDrain>(route.endpoint),
                Endpoint::ConfigGet => agrees::<config::ConfigGet>(route.endpoint),
                Endpoint::ConfigSet => agrees::<config::ConfigSet>(route.endpoint),
                Endpoint::ConfigPatch => agrees::<config::ConfigPatch>(route.endpoint),
                Endpoint::ConfigRollback => agrees::<config::ConfigRollback>(route.endpoint),
                Endpoint::ConfigDelete => agrees::<config::ConfigDelete>(route.endpoint),
                Endpoint::ConfigDiff => agrees::<config::ConfigDiff>(route.endpoint),
                Endpoint::ConfigValidate => agrees::<config::ConfigValidate>(route.endpoint),
                Endpoint::ConfigStatus => agrees::<config::ConfigStatus>(route.endpoint),
                Endpoint::SchemaGet => agrees::<config::SchemaGet>(route.endpoint),
                Endpoint::SchemaSet => agrees::<config::SchemaSet>(route.endpoint),
                Endpoint::ConfigHistory => agrees::<config::ConfigHistory>(route.endpoint),
                Endpoint::ConfigList => agrees::<config::ConfigList>(route.endpoint),
                Endpoint::Health => agrees::<health::Health>(route.endpoint),
                Endpoint::Status => agrees::<fleet::FleetStatus>(route.endpoint),
                Endpoint::Metrics => agrees::<metrics::Metrics>(route.endpoint),
                Endpoint::UptimeOf => agrees::<uptime::UptimeOf>(route.endpoint),
                Endpoint::Uptime => agrees::<uptime::UptimeOfAll>(route.endpoint),
                Endpoint::InfraStatus => agrees::<infra::InfraStatus>(route.endpoint),
                Endpoint::InfraCheck => agrees::<infra::InfraCheck>(route.endpoint),
                Endpoint::DepsGraph => agrees::<dependency::DepsGraph>(route.endpoint),
                Endpoint::DepsImpact => agrees::<dependency::DepsImpact>(route.endpoint),
                Endpoint::AlertsList => agrees::<alert::AlertsList>(route.endpoint),
                Endpoint::AlertsAck => agrees::<alert::AlertsAck>(route.endpoint),
                Endpoint::Timeline => agrees::<timeline::Timeline>(route.endpoint),
            }
        }
    }

    #[test]
    fn the_table_has_each_endpoint_once_in_order() {
        for (index, route) in ROUTES.iter().enumerate() {
            assert_eq!(route.endpoint as usize, index);
            assert!(ROUTES.iter().all(|other| other.endpoint == route.endpoint || other.pattern != route.pattern));
        }
    }
}
