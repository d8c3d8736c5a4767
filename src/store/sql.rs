//! The statements, from `sql/queries/`.

macro_rules! queries {
    ($($name:ident = $file:literal;)*) => {
        $(
            #[doc = concat!("`sql/queries/", $file, ".sql`")]
            pub const $name: &str = include_str!(concat!("../../sql/queries/", $file, ".sql"));
        )*

        /// All statements with their names: a test prepares each against the migrated schema.
        pub const ALL: &[(&str, &str)] = &[$(($file, $name),)*];
    };
}

queries! {
    ALERT_ACK = "alert_ack";
    ALERT_ACTIVE = "alert_active";
    ALERT_BEGIN = "alert_begin";
    ALERT_CHANGE = "alert_change";
    ALERT_COMPONENTS = "alert_components";
    ALERT_CONFIGS = "alert_configs";
    ALERT_END = "alert_end";
    ALERT_FORCED_END = "alert_forced_end";
    ALERT_HOLDS = "alert_holds";
    ALERT_LOST = "alert_lost";
    ALERT_PAGE = "alert_page";
    ALERT_RECOVERED = "alert_recovered";
    ALERT_SERVICES = "alert_services";
    ALERT_SILENT = "alert_silent";
    ALERT_SPEAK = "alert_speak";
    BUCKET_SEQUENCE_GET = "bucket_sequence_get";
    BUCKET_SEQUENCE_NOTE = "bucket_sequence_note";
    CLOCK = "clock";
    COMPONENTS = "components";
    COMPONENTS_FORGET = "components_forget";
    COMPONENTS_LOCK = "components_lock";
    COMPONENTS_RECORD = "components_record";
    CONFIG_ACTIVATE = "config_activate";
    CONFIG_ACTIVE = "config_active";
    CONFIG_DEACTIVATE = "config_deactivate";
    CONFIG_HEAD_FORGET = "config_head_forget";
    CONFIG_HEAD_LOCK = "config_head_lock";
    CONFIG_HEAD_PUSH = "config_head_push";
    CONFIG_HEADS = "config_heads";
    CONFIG_HISTORY = "config_history";
    CONFIG_INSERT = "config_insert";
    CONFIG_NAMES = "config_names";
    CONFIG_NORMALISE = "config_normalise";
    CONFIG_PAGE = "config_page";
    CONFIG_PRUNE = "config_prune";
    CONFIG_PUSHED = "config_pushed";
    CONFIG_REACTIVATE = "config_reactivate";
    CONFIG_READERS = "config_readers";
    CONFIG_REQUEST_FIND = "config_request_find";
    CONFIG_REQUEST_KEEP = "config_request_keep";
    CONFIG_REQUEST_PRUNE = "config_request_prune";
    CONFIG_SCHEMA_DROP = "config_schema_drop";
    CONFIG_SCHEMA_GET = "config_schema_get";
    CONFIG_SCHEMA_SET = "config_schema_set";
    CONFIG_STATE = "config_state";
    CONFIG_STATUS = "config_status";
    CONFIG_VERSION = "config_version";
    CONFIG_VERSIONS = "config_versions";
    DEPENDENCY_GRAPH = "dependency_graph";
    DEPENDENCY_STATUS = "dependency_status";
    EPOCH_RAISE = "epoch_raise";
    EPOCH_RECOGNISE = "epoch_recognise";
    EVENT_INSERT = "event_insert";
    EVENT_PENDING = "event_pending";
    EVENT_PUBLISHED = "event_published";
    EVENT_UNPUBLISHED = "event_unpublished";
    FLEET = "fleet";
    HEARTBEAT_APPLY = "heartbeat_apply";
    HEARTBEAT_RECORD = "heartbeat_record";
    HEARTBEAT_TOUCH = "heartbeat_touch";
    HOLD_END = "hold_end";
    HOLD_KEEP = "hold_keep";
    HOLD_LIST = "hold_list";
    INSTANCE_DELETE = "instance_delete";
    INSTANCE_DRAIN = "instance_drain";
    INSTANCE_NAMES = "instance_names";
    INSTANCE_REGISTER = "instance_register";
    INSTANCES_BY_KEY = "instances_by_key";
    INSTANCES_LOCK = "instances_lock";
    INSTANCES_OF_SERVICE = "instances_of_service";
    INSTANCES_PAGE = "instances_page";
    LEASE_ACQUIRE = "lease_acquire";
    LEASE_FENCE = "lease_fence";
    LEASE_RELEASE = "lease_release";
    META = "meta";
    METRICS = "metrics";
    PARTITION_CREATE = "partition_create";
    PARTITION_DROP = "partition_drop";
    PROBE = "probe";
    REGISTRATIONS = "registrations";
    RETENTION_ALERTS = "retention_alerts";
    RETENTION_CHECKS = "retention_checks";
    RETENTION_EVENTS = "retention_events";
    RETENTION_HEARTBEATS = "retention_heartbeats";
    RETENTION_TRANSITIONS = "retention_transitions";
    SERVICE_KNOWN = "service_known";
    SNAPSHOT = "snapshot";
    STANDING = "standing";
    STREAMS_LOCK = "streams_lock";
    SWEEP_DOWN = "sweep_down";
    SWEEP_FALLEN = "sweep_fallen";
    SWEEP_HEARD = "sweep_heard";
    SWEEP_SILENT = "sweep_silent";
    SWEEP_UP = "sweep_up";
    TIMELINE = "timeline";
    TIMELINE_OF_SERVICE = "timeline_of_service";
    UPTIME_NAMES = "uptime_names";
    UPTIME_TRANSITIONS = "uptime_transitions";
}
