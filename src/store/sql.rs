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
    ALERT_RAISE = "alert_raise";
    BUCKET_SEQUENCE_GET = "bucket_sequence_get";
    BUCKET_SEQUENCE_NOTE = "bucket_sequence_note";
    CLOCK = "clock";
    CONFIG_ACTIVATE = "config_activate";
    CONFIG_ACTIVE = "config_active";
    CONFIG_BEHIND = "config_behind";
    CONFIG_BEHIND_RESOLVE = "config_behind_resolve";
    CONFIG_DEACTIVATE = "config_deactivate";
    CONFIG_FORCED_RESOLVE = "config_forced_resolve";
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
    DEPENDENCY_STATUS = "dependency_status";
    EPOCH_RAISE = "epoch_raise";
    EPOCH_RECOGNISE = "epoch_recognise";
    EVENT_INSERT = "event_insert";
    EVENT_PENDING = "event_pending";
    EVENT_PUBLISHED = "event_published";
    EVENT_UNPUBLISHED = "event_unpublished";
    HEARTBEAT_APPLY = "heartbeat_apply";
    HEARTBEAT_RECORD = "heartbeat_record";
    HEARTBEAT_TOUCH = "heartbeat_touch";
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
    PARTITIONS_CREATE = "partitions_create";
    STANDING = "standing";
    SWEEP_DOWN = "sweep_down";
    SWEEP_SILENT = "sweep_silent";
}
