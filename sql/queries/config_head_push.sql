-- Outside a change freeze, what was committed is what instances should run.
UPDATE config_heads SET pushed_revision = revision, pushed_version = version
WHERE pushed_revision <> revision;
