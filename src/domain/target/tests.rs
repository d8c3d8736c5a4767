//! Targets that are taken and that are not, and how references in them are resolved.

use super::*;
use proptest::prelude::*;

fn resolved(kind: Kind, text: &str, value: &str) -> String {
    Target::new(kind, text).unwrap().resolve(|_| Some(value.to_owned())).unwrap()
}

#[test]
fn forms_of_each_kind() {
    for (kind, good, bad) in [
        (
            Kind::Postgresql,
            &["postgresql://db/x", "postgres://u:${env:CENTRAL_HUB_PROBE_P}@db:5432/x?sslmode=require"][..],
            &["db:5432", "mysql://db", "host=db password=x", "postgresql://"][..],
        ),
        (
            Kind::Nats,
            &["nats://a:4222", "nats://a,tls://b:4222", "nats://${env:CENTRAL_HUB_PROBE_T}@a", "nats://u:@a"],
            &[
                "a:4222",
                "nats://a,b",
                "nats://u:p@a",
                "nats://a,nats://u:p@b",
                "nats://u:p,q@a",
                "http://a",
                "nats://token@a",
                "nats://a,nats://token@b",
            ],
        ),
        (
            Kind::Kafka,
            &[
                "a:9092",
                "a:9092,b:9092",
                "a:9092,b",
                "kafka://a:9092,b",
                "kafka+ssl://u:${env:CENTRAL_HUB_PROBE_P}@a:9093",
                "u:${env:CENTRAL_HUB_PROBE_P}@a:9093",
                "${env:CENTRAL_HUB_PROBE_A}:9092,${env:CENTRAL_HUB_PROBE_B}:9092",
            ],
            &["a", "http://a:9092", "kafka://", "kafka://a:0", "a:9092,", "a:9092/x", "a:9092?x=y", "kafka://u@a:1"],
        ),
        (Kind::Clickhouse, &["http://a:8123", "https://a/?database=x"], &["a:8123", "clickhouse://a"]),
        (Kind::Redis, &["redis://a", "rediss://:${env:CENTRAL_HUB_PROBE_P}@a:6379/1"], &["a:6379", "http://a"]),
        (
            Kind::Http,
            &[
                "http://a/health",
                "https://a",
                "http://a:8080/x?verbose=1&partition_key=7&max_tokens=5",
                "http://[::1]:8080",
                "http://u:${env:CENTRAL_HUB_PROBE_P}@a/x@y",
                "http://a/?token=${env:CENTRAL_HUB_PROBE_P}&page=${env:CENTRAL_HUB_PROBE_Q}",
                "http://${env:CENTRAL_HUB_PROBE_H}/",
            ],
            &[
                "a",
                "ftp://a",
                "file:///etc/passwd",
                "HTTP//a",
                "http:///a",
                "http://",
                "http://?x",
                "http://a:0/",
                "http://a:99999/",
                "http://[::1/",
                "http://a#b",
                "http://a\\b",
                "http://1.2.3.400/",
                "http://a,b/",
            ],
        ),
        (
            Kind::Tcp,
            &["a:22", "[::1]:22", "tcp://a:22", "a:65535", "127.0.0.1:${env:CENTRAL_HUB_PROBE_X}"],
            &["a", "http://a:22", "a:0", "a:65536", "a:", ":1", "a:x", "::1", "[::1]", "[::1:22", "1.2.3:1", "a b:1"],
        ),
    ] {
        for text in good {
            assert!(Target::new(kind, text).is_ok(), "{kind} {text}");
        }
        for text in bad.iter().chain(&["", " ", "a:1 b:2", "a:\n1", &"a".repeat(1_001)]) {
            assert!(Target::new(kind, text).is_err(), "{kind} {text}");
        }
        assert!(Target::new(kind, "${env:CENTRAL_HUB_PROBE_ALL}").is_ok(), "a whole target may come from outside");
    }
}

/// Wherever a credential can hide from one reader of URLs and not from another.
#[test]
fn credentials_in_clear_are_told_as_such() {
    let open = |kind, text: &str| matches!(Target::new(kind, text), Err(BadTarget::Credential(_)));
    for text in [
        "http://a/?passw%6Frd=hush",
        "http://a/?%70%61%73%73word=hush",
        "http://a/?sslpassword=hush",
        "http://a/?x=1&token=hush",
        "http://a/?api_key=hush",
        "http://a/?apikey=hush",
        "http://a/?X-Api-Key=hush",
        "http://a/?access_key=hush",
        "http://a/?access-token=hush",
        "http://a/?sv=1&sig=hush",
        "http://a/?X-Amz-Signature=hush",
        "http://a/?key=hush",
        "http://a/?client_secret=hush",
        "http://a/?token=x${env:CENTRAL_HUB_PROBE_P}",
        "http://a/?token=${env:CENTRAL_HUB_PROBE_P}x",
        "http://a/x;password=hush",
        "http://a/token=hush/x",
        "http://a/#token=hush",
        "http://hush@a/",
        "http://hush:@a/",
        "http://u:hush@a/",
        "http://:hush@a/",
        "http://u:hush${env:CENTRAL_HUB_PROBE_P}@a/",
        "http://${env:CENTRAL_HUB_PROBE_P}u:hush@a/",
        "${env:CENTRAL_HUB_PROBE_P}://u:hush@a/",
        "http://u:hush@@a/",
        "http://a@u:hush@a/",
        "http:\\\\u:hush@a",
        "http:/\\u:hush@a",
        "http:/u:hush@a",
        "http:u:hush@a",
        "http:///u:hush@a",
        "http://\\u:hush@a",
        "u:hush@a",
        "http://a:0/?password=hush",
        "http://u:hush@a:99999/",
        "http://u:hush@[::1",
        "http://a/?AKIA%49OSFODNN7EXAMPLE",
    ] {
        assert!(open(Kind::Http, text), "{text}: {:?}", Target::new(Kind::Http, text));
    }
    for (kind, text) in [
        (Kind::Tcp, "u:hush@127.0.0.1:1"),
        (Kind::Tcp, "hush@127.0.0.1:1"),
        (Kind::Tcp, "tcp://u:hush@127.0.0.1:1"),
        (Kind::Kafka, "u:hush@127.0.0.1:1"),
        (Kind::Kafka, "hush@127.0.0.1:1"),
        (Kind::Kafka, "kafka://u:hush@a,b"),
        (Kind::Redis, "redis://hush@a"),
        (Kind::Redis, "rediss://:hush@a"),
        (Kind::Clickhouse, "http://default@a"),
        (Kind::Clickhouse, "http://a/?user=u&password=hush"),
        (Kind::Nats, "nats://a,nats://hush@b"),
        (Kind::Nats, "nats://a,nats://u:hush@b"),
        (Kind::Postgresql, "postgresql://u:hush@a/x"),
        (Kind::Postgresql, "postgresql://u%3Ahush@a/x"),
        (Kind::Postgresql, "postgresql:///u:hush@a/x"),
        (Kind::Postgresql, "postgresql://a/x?sslpassword=hush"),
        (Kind::Postgresql, "host=a password=hush"),
    ] {
        assert!(open(kind, text), "{kind} {text}: {:?}", Target::new(kind, text));
    }
    let told = Target::new(Kind::Http, "http://hush@a/").unwrap_err().to_string();
    assert!(told.contains("CENTRAL_HUB_PROBE_") && !told.contains("hush"), "{told}");
    for text in ["postgresql://u@a,b:5433/x", "postgresql:///x?host=%2Frun%2Fpostgresql", "postgresql://u:@a/x"] {
        assert!(Target::new(Kind::Postgresql, text).is_ok(), "{text}");
    }
}

#[test]
fn only_variables_made_for_probes_can_be_named() {
    for name in ["CENTRAL_HUB_PROBE_A", "CENTRAL_HUB_PROBE_a_1"] {
        let target = Target::new(Kind::Http, &format!("http://a/${{env:{name}}}")).unwrap();
        assert_eq!(target.variables().collect::<Vec<_>>(), [name]);
    }
    for reference in [
        "${env:CENTRAL_HUB_DB_PASSWORD}",
        "${env:CENTRAL_HUB_PROBE_}",
        "${env:central_hub_probe_A}",
        "${env:HOME}",
        "${env:CENTRAL_HUB_PROBE_A",
        "${env:CENTRAL_HUB_PROBE_A-B}",
        "${env:CENTRAL_HUB_PROBE_A}${env:HOME}",
        "${file:/etc/passwd}",
        "${CENTRAL_HUB_PROBE_A}",
        "${",
    ] {
        assert!(Target::new(Kind::Http, &format!("http://a/{reference}")).is_err(), "{reference}");
    }
}

#[test]
fn values_are_encoded_where_they_would_break_the_url() {
    let reference = "${env:CENTRAL_HUB_PROBE_X}";
    for (kind, text, expected) in [
        (Kind::Redis, format!("redis://:{reference}@a:1/2"), "redis://:p%40%2F%3A%3Fw@a:1/2"),
        (Kind::Kafka, format!("kafka://u:{reference}@a:1,b:2"), "kafka://u:p%40%2F%3A%3Fw@a:1,b:2"),
        (Kind::Nats, format!("nats://a,nats://{reference}@b"), "nats://a,nats://p%40%2F%3A%3Fw@b"),
        (Kind::Http, format!("http://a/x?k={reference}&l={reference}"), "http://a/x?k=p%40%2F%3A%3Fw&l=p%40%2F%3A%3Fw"),
        (Kind::Http, format!("http://a/{reference}/x"), "http://a/p@/:?w/x"),
        (Kind::Http, reference.to_owned(), "p@/:?w"),
        (Kind::Http, "http://a/x".to_owned(), "http://a/x"),
    ] {
        assert_eq!(resolved(kind, &text, "p@/:?w"), expected);
    }
    let target = Target::new(Kind::Tcp, "a:${env:CENTRAL_HUB_PROBE_X}").unwrap();
    assert_eq!(target.resolve(|_| None), Err(Unset("CENTRAL_HUB_PROBE_X".into())));
    assert_eq!(target.resolve(|name| Some(name.len().to_string())).unwrap(), "a:19");
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "\\PC{0,60}|[${}env:CENTRAL_HUB_PROBE_/@,?ä]{0,60}") {
        for kind in Kind::ALL {
            if let Ok(target) = Target::new(kind, &text) {
                prop_assert!(target.variables().all(|name| name.starts_with(VARIABLE_PREFIX)));
                let _ = target.resolve(|_| Some(text.clone()));
            }
        }
    }

    #[test]
    fn a_password_comes_out_as_it_went_in(password in "\\PC{1,40}") {
        let url = resolved(Kind::Redis, "redis://u:${env:CENTRAL_HUB_PROBE_X}@a", &password);
        let encoded = url.get("redis://u:".len()..url.len() - "@a".len()).unwrap();
        prop_assert!(encoded.is_ascii() && !encoded.contains(['@', '/', ':', '?', '#']));
    }
}
