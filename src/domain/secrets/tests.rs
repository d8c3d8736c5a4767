//! What is a secret and what only looks like one, by example.

use super::*;
use serde_json::json;

fn found(config: Value) -> Vec<String> {
    find(&config, &BTreeSet::new())
}

/// `n` characters that look random enough. (Put together here so that no scanner of repositories takes the test's
/// fakes for somebody's keys.)
fn filler(n: usize) -> String {
    "a1B2c3D4e5F6g7H8j9".chars().cycle().take(n).collect()
}

#[test]
fn keys_that_name_a_secret() {
    for key in [
        "password",
        "db_password",
        "dbPassword",
        "DB_PASSWORD",
        "db-password",
        "db.password",
        "password2",
        "passwd",
        "pwd",
        "adminPwd",
        "passphrase",
        "secret",
        "client_secret",
        "clientSecret",
        "CLIENT-SECRET",
        "token",
        "auth_token",
        "accessToken",
        "refresh.token",
        "credential",
        "credentials",
        "awsCredentials",
        "api_key",
        "apiKey",
        "API_KEY",
        "APIKey",
        "apikey",
        "polygonApiKey",
        "x-api-key",
        "access_key",
        "accessKey",
        "secret_key",
        "SECRET_KEY",
        "private_key",
        "privateKey",
        "signing_key",
        "signingKey",
        "encryption_key",
        "bearer",
        "authBearer",
        "dbpassword",
        "DBPASSWORD",
        "rootpasswd",
        "polygonapikey",
        "authtoken",
        "accesskey",
        "clientsecret",
        "privatekey",
        "aws.secret-access_key",
        "api key",
        "x/y:token",
        "token1",
        "token_2",
        "пароль.password",
        "oauth2Token",
        "dbPASSWORD",
    ] {
        assert!(names_a_secret(key), "{key}");
        assert_eq!(found(json!({ "a": { key: "x" } })).len(), 1, "{key}");
        assert_eq!(found(json!({ key: ["", "x", ["y"]] })).len(), 2, "{key}: in lists");
    }
}

#[test]
fn keys_that_only_look_so() {
    for key in [
        "password_policy",
        "password_min_length",
        "passwordMinLength",
        "token_path",
        "token_bucket_size",
        "tokenBucketSize",
        "tokenizer",
        "max_tokens",
        "tokens",
        "api_key_header",
        "apiKeyHeader",
        "secret_santa",
        "secretary",
        "key",
        "primary_key",
        "partition_key",
        "public_key",
        "publicKey",
        "keyboard",
        "monkey",
        "access_key_id",
        "bearer_format",
        "credentials_provider",
        "pwd_file",
        "passwordless",
        "secrets_manager_region",
        "token_ttl_seconds",
        "tokenised",
        "compass",
        "bypass",
        "api",
        "cache_key",
        "sort_key",
        "routing_key",
        "token_count",
        "token_type",
        "tokens_per_minute",
        "stop_tokens",
        "special_tokens",
        "token_limit",
        "secret_name",
        "secret_ref",
        "secretKeyRef",
        "image_pull_secrets",
        "password_hash_algorithm",
        "password_reset_url",
        "forgot_password_link",
        "credentials_file",
        "credentialled",
        "api_keys_table",
        "api_version",
        "access_key_rotation_days",
        "private_key_path",
        "signing_key_id",
        "encryption_key_bits",
        "foreign_key",
        "idempotency_key",
        "keys",
        "monkey_api",
        "authorization_url",
        "bearer_only",
        "unsecret_mode",
        "cwd",
        "",
        "_",
        "2",
    ] {
        assert!(!names_a_secret(key), "{key}");
        assert_eq!(found(json!({ key: "bert" })), Vec::<String>::new(), "{key}");
    }
}

#[test]
fn values_of_well_known_forms() {
    let base32: String = "ABCDEFGHJKLMNPQRSTUVWXYZ234567".chars().cycle().take(56).collect();
    for value in [
        format!("-----BEGIN {}PRIVATE KEY-----\nMII…", "RSA "),
        format!("-----BEGIN {}PRIVATE KEY-----", ""),
        format!("x\n-----BEGIN {}PRIVATE KEY-----", "OPENSSH "),
        format!("-----BEGIN {}PRIVATE KEY-----", "EC "),
        format!("-----BEGIN {}PRIVATE KEY-----", "ENCRYPTED "),
        format!("-----BEGIN PGP {} BLOCK-----", "PRIVATE KEY"),
        format!("AKIA{}", "IOSFODNN7EXAMPLE"),
        format!("id=ASIA{}", "Y34FZKBOKMUTVV7A"),
        format!("ghp_{}", filler(36)),
        format!("gho_{}", filler(36)),
        format!("ghs_{}", filler(36)),
        format!("github_pat_{}", filler(30)),
        format!("glpat-{}", filler(20)),
        format!("gldt-{}", filler(20)),
        format!("xoxb-{}", filler(24)),
        format!("xoxp-{}", filler(24)),
        format!("xapp-1-{}", filler(24)),
        format!("https://hooks.slack.com/services/T{}/B{}/{}", filler(8), filler(8), filler(24)),
        format!("sk_live_{}", filler(24)),
        format!("sk_test_{}", filler(24)),
        format!("rk_live_{}", filler(24)),
        format!("whsec_{}", filler(32)),
        format!("AIza{}", filler(35)),
        format!("ya29.{}", filler(40)),
        format!("GOCSPX-{}", filler(28)),
        format!("123456789:{}", filler(35)),
        format!("sk-{}", filler(48)),
        format!("sk-proj-{}", filler(40)),
        format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{}", filler(20)),
        format!("SU{base32}"),
        format!("SA{base32}"),
        "postgres://hub:hunter2@db:5432/x".into(),
        "redis://:hunter2@cache".into(),
        "amqp+ssl://u:p@h".into(),
        "clickhouse+http://h:8123/?user=u&password=hunter2".into(),
        "postgres://h/db?PASSWORD=x".into(),
        "postgres://h/db?sslmode=require&sslpassword=x".into(),
        "https://h/?passw%6Frd=x".into(),
        "https://h/?user=u&db_passwd=hunter2 and more".into(),
        "https://h/?api_key=3f9a77b1c2".into(),
        "https://h/?page=2&access_token=3f9a77b1c2".into(),
        "https://h/x?sv=2024-01-01&sig=a1B2%2Bc3D4%3D".into(),
        "https://h/?X-Amz-Signature=0123456789abcdef".into(),
        "first https://h/ then https://h/hook?token=a1b2c3d4e5".into(),
        "redis://:hunter2${env:CENTRAL_HUB_PROBE_P}@cache".into(),
        "redis://:${env:CENTRAL_HUB_PROBE_P}hunter2@cache".into(),
        format!("ghp_${{env:CENTRAL_HUB_PROBE_P}}{}", filler(36)),
        format!("Bearer {}", filler(20)),
        "bearer abcdef123456".into(),
        format!("Authorization: Bearer {}", filler(12)),
        "Basic dXNlcjpwYXNzd29yZA==".into(),
        "Basic aGVsbG86d29ybGQxMjM".into(),
        "Basic dXNlcjpwYXNz".into(),
        "basic YTpi".into(),
        "Authorization: Basic w7xzZXI6cMOkc3M=".into(),
        "first basic training, then Basic dXNlcjpwYXNz".into(),
        format!("bearer {}", "AbCdEfGhIjKlMnOpQrStUvWxYz"),
        format!("sk-ant-api03-{}-{}", filler(40), filler(30)),
        format!("sk-{}_{}", filler(10), filler(24)),
        "mongodb+srv://u:p@cluster.example/db".into(),
        "jdbc:postgresql://u:p@h/db".into(),
        "primary=nats://a:b@n1:4222 then more".into(),
        "https://:secret@example.com".into(),
        "postgres://probe:x${env:A}@db".into(),
        "postgres://probe:${env:}@db".into(),
        format!("npm_{}", filler(36)),
        format!("pypi-AgE{}", filler(60)),
        format!("hf_{}", filler(34)),
        format!("SG.{}.{}", filler(22), filler(43)),
        format!("dop_v1_{}", "0123456789abcdef".repeat(4)),
        format!("AccountName=x;AccountKey={}==;", filler(86)),
        format!("xoxe-1-{}", filler(20)),
        format!("ghu_{} at the end", filler(40)),
        format!("{{\"key\":\"AIza{}\"}}", filler(35)),
    ] {
        assert_eq!(found(json!({ "a": [{ "note": value }] })), ["/a/0/note"], "{value}");
    }
}

#[test]
fn values_that_only_look_so() {
    for value in [
        "-----BEGIN CERTIFICATE-----\nMIIB…\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "AKIA",
        "pk_live_a1B2c3D4e5F6g7H8j9a1",
        "ghp_short",
        "sk-learn",
        "task-force-is-a-word-with-dashes",
        "risk-management-service-instance-1",
        "disk-usage-percent-threshold-high",
        "https://example.com/path?x=1",
        "https://user@example.com/",
        "nats://nats:4222,nats://nats-2:4222",
        "postgres://hub@db:5432/central_hub",
        "http://[::1]:8080/x@y",
        "https://h/reset?password_policy=strict",
        "https://h/?password=",
        "https://h/?q=password",
        "https://h/?page_token=a1b2c3d4e5f6",
        "https://h/?next_page_token=a1b2c3d4e5f6&limit=10",
        "https://h/?token=short1",
        "https://h/?token=symbol&api_key=default",
        "https://h/?api_key={api_key_v1}",
        "https://h/?api_key=<your-key-1>",
        "https://h/?api_key=YOUR_API_KEY",
        "https://h/?api_key=${env:API_KEY}&access_token=${env:TOKEN}",
        "https://h/?token_path=/run/secrets/token1234",
        "https://h/?sig_alg=sha256withrsa",
        "https://h/?key=partition12345",
        "https://h/#token=a1b2c3d4e5f6",
        "token=a1b2c3d4e5f6",
        "https://h/?password_reset=a1b2c3d4",
        "redis://:${env:CENTRAL_HUB_PROBE_P}@cache",
        "kafka://u:${env:CENTRAL_HUB_PROBE_P}@a:9092,b:9092",
        "https://h/?user=u&password=${env:CENTRAL_HUB_PROBE_P}",
        "Basic auth",
        "basic authentication",
        "Bearer of news",
        "bearer authentication",
        "10:30:00",
        "2026-01-05T10:00:00Z",
        "EURUSD",
        "eyJ",
        "SUMMARY",
        "550e8400-e29b-41d4-a716-446655440000",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "5m",
        "token",
        "password",
        "Bearer token-based-authentication-scheme",
        "Bearer realm=\"example\"",
        "bearer of good tidings to 24 people",
        "Basic HTTP authentication",
        "basic training",
        "Basic plan",
        "Basic YWJjZGVmZ2g=",
        "BASIC",
        "sk-learn-gradient-boosting-classifier",
        "sk-SK.locale-of-the-slovak-republic",
        "npm_config_registry",
        "hf_transfer",
        "SG.south.east",
        "AccountKey=",
        "http://example.com:8080/a@b",
        "http://example.com:8080?to=a@b",
        "http://example.com:8080#a@b",
        "git@github.com:owner/name.git",
        "ssh://git@host:22/path",
        "user:password",
        "redis://cache:6379/0",
        "kafka://b1:9092,b2:9092",
        "${HOME}/.config",
        "{{ template }}",
        "eyJhbGciOiJIUzI1NiJ9",
        "a.b.c",
        "1700000000:550e8400-e29b-41d4-a716-446655440000",
        "2026-01-05T10:00:00+01:00",
        "AKIALOWER",
        "postgres://probe:${env:CENTRAL_HUB_PROBE_PG}@db:5432/x",
        "postgres://${env:PGUSER}:${env:PGPASSWORD}@db/x",
        "postgres://${env:PGUSER}@db/central_hub",
        "Authorization: Bearer ${env:TOKEN}",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample",
        "-----BEGIN CERTIFICATE REQUEST-----",
        "-----BEGIN EC PARAMETERS-----",
        "glpat-short",
        "xoxb-1",
        "SUNDAY",
        "UABCDEFGHJKLMNPQRSTUVWXYZ234567ABCDEFGHJKLMNPQRSTUVWXYZ2",
        "0123456789abcdef0123456789abcdef",
    ] {
        assert_eq!(found(json!({ "note": value })), Vec::<String>::new(), "{value}");
    }
}

#[test]
fn schemas_give_no_secret_as_a_value() {
    let token = format!("ghp_{}", filler(36));
    let schema = json!({
        "properties": {
            "password": { "type": "string", "title": "of the database", "pattern": "^sk-[A-Za-z0-9]{20,}$" },
            "url": { "default": "postgres://u:hush@db/x", "examples": ["postgres://u:${env:P}@db/x"] },
            "a/b": { "enum": ["x", token] },
            "api_key": { "default": "hush", "examples": ["${env:KEY}", "hush"], "minLength": 4 },
            "secret": { "anyOf": [{ "const": "hush" }, { "const": "" }, { "properties": { "of": { "const": "x" } } }] },
            "default": { "type": "string", "description": "no value, though it is called so" },
            "db": { "default": { "host": "h", "pwd": "hush" } },
            "name": { "default": "x", "const": "x" },
        },
        "$defs": { "token": { "items": { "default": "hush" } } },
        "patternProperties": { "^db_password$": { "default": "hush" } },
        "$comment": "Bearer of news",
    });
    let mut found = find_in_schema(&schema);
    found.sort();
    assert_eq!(
        found,
        [
            "/$defs/token/items/default",
            "/patternProperties/^db_password$/default",
            "/properties/api_key/default",
            "/properties/api_key/examples/1",
            "/properties/a~1b/enum/1",
            "/properties/db/default/pwd",
            "/properties/secret/anyOf/0/const",
            "/properties/url/default",
        ]
    );
}

#[test]
fn keys_of_a_well_known_form() {
    let (token, other) = (format!("ghp_{}", filler(36)), format!("AKIA{}", "IOSFODNN7EXAMPLE"));
    let below = json!({ &token: { "password": "x" }, &other: 1, "b": 2 });
    assert_eq!(found(json!({ "a/b": [below] })), ["/a~1b/0"], "the object, once, and nothing that holds the key");
    assert_eq!(found(json!({ &token: 1 })), [""]);
    assert_eq!(find_in_schema(&json!({ "properties": { "a": true, &token: {} } })), ["/properties"]);
    assert_eq!(find_in_schema(&json!({ "dependentRequired": { &token: ["a"] } })), ["/dependentRequired"]);
    for allowed in ["/a".to_owned(), format!("/a/{token}")] {
        let config = json!({ "a": { &token: 1 } });
        assert_eq!(find(&config, &BTreeSet::from([allowed.clone()])), Vec::<String>::new(), "{allowed}");
    }
}

#[test]
fn what_is_no_text_is_no_secret() {
    let config = json!({
        "password": null, "token": 5, "secret": false, "pwd": "", "api_key": {"header": "X-Key"}, "credentials": [],
        "secret_santa": false, "token_bucket_size": 5,
    });
    assert_eq!(found(config), Vec::<String>::new());
}

#[test]
fn references_pass_as_whole_values_only() {
    let config = json!({ "password": "${env:DB_PASSWORD}", "tokens": { "token": ["${env:A_1}"] } });
    assert_eq!(found(config), Vec::<String>::new());
    for value in ["${env:}", "${env:1A}", "x${env:A}", "${env:A}x", "${env:A}\n", "${ENV:A}", "$A"] {
        assert_eq!(found(json!({ "password": value })), ["/password"], "{value:?}");
    }
}

#[test]
fn what_the_writer_vouches_for_passes() {
    let config = json!({ "a/b": { "token": "x" }, "password": ["x", "y"], "secret": "z" });
    assert_eq!(found(config.clone()), ["/a~1b/token", "/password/0", "/password/1", "/secret"]);
    let allowed = BTreeSet::from(["/a~1b/token".to_owned(), "/password".to_owned()]);
    assert_eq!(find(&config, &allowed), ["/secret"]);
}
