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
    CLOCK = "clock";
    CONFIG_ACTIVATE = "config_activate";
    CONFIG_ACTIVE = "config_active";
    CONFIG_DEACTIVATE = "config_deactivate";
    CONFIG_HEAD_COMPARE = "config_head_compare";
    CONFIG_HEAD_FORGET = "config_head_forget";
    CONFIG_HEAD_LOCK = "config_head_lock";
    CONFIG_HEADS = "config_heads";
    CONFIG_HISTORY = "config_history";
    CONFIG_INSERT = "config_insert";
    CONFIG_NAMES = "config_names";
    CONFIG_PAGE = "config_page";
    CONFIG_VERSION = "config_version";
    CONFIG_VERSIONS = "config_versions";
    DEPENDENCY_STATUS = "dependency_status";
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
    SWEEP_DOWN = "sweep_down";
    SWEEP_SILENT = "sweep_silent";
}
