//! A request that is sent twice happens once, and one that comes too late not at all.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ask::{Asker, Hub, SOON};
use crate::config_life::traces;
use crate::stack::eventually;

/// The answer without what may have become true since the first one: that KV holds it.
fn but_for_kv(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().remove("published");
    answer
}

/// Asks, and repeats what a busy hub could not do: that is what an id is for.
async fn ask(hub: &Asker, call: &str, body: &Value) -> Value {
    let answer = eventually(SOON, || async {
        match hub.send(call, body.to_string()).await.result() {
            Err(refusal) if refusal.code == "unavailable" => Err(refusal),
            other => Ok(other),
        }
    });
    but_for_kv(answer.await.unwrap_or_else(|refusal| panic!("{call} {body}: {refusal:?}")))
}

fn after(duration: Duration) -> String {
    (OffsetDateTime::now_utc() + duration).format(&Rfc3339).unwrap()
}

/// Waits until the deadline of a request has passed.
async fn passed(body: &Value) {
    let deadline = OffsetDateTime::parse(body["deadline"].as_str().unwrap(), &Rfc3339).unwrap();
    eventually(SOON, || async { OffsetDateTime::now_utc() > deadline }).await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_answer_and_does_nothing_twice() {
    let mut one = Hub::fresh().await;
    let other = Hub::start(one.process.options().replica()).await;
    // At once, on both replicas.
    let body = json!({"config": {"n": 1}, "request_id": "r-1", "created_by": "ann"});
    let answers = join_all((0..12).map(|_| ask(&one, "config.set.a", &body))).await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!((&answers[0]["version"], &answers[0]["changed"]), (&json!(1), &json!(true)));
    let first = &answers[0];

    // Each call that changes something; what is repeated is what would go on changing.
    let calls = [
        ("config.set.a", json!({"config": {"n": 2}, "request_id": "r-2"})),
        ("config.patch.a", json!({"patch": {"m": 1}, "request_id": "r-3"})),
        ("config.rollback.a", json!({"request_id": "r-4"})),
        ("config.delete.a", json!({"request_id": "r-5"})),
        ("config.rollback.a", json!({"request_id": "r-6"})),
    ];
    let mut firsts = Vec::new();
    for (call, body) in &calls {
        firsts.push(ask(&one, call, body).await);
    }
    let versions: Vec<_> = firsts.iter().map(|answer| answer["version"].as_i64()).collect();
    assert_eq!(versions, [Some(2), Some(3), Some(2), None, Some(2)]);
    let before = traces(&one).await;
    // After a kill and a restart of one, from whichever replica.
    one.process.kill9().await;
    one.process.restart().await;
    one.process.ready().await;
    for ((call, body), first) in calls.iter().zip(&firsts) {
        let again = join_all((0..6).map(|_| ask(&other, call, body))).await;
        assert!(again.iter().all(|answer| answer == first), "{call}: {again:?}");
    }
    assert_eq!(ask(&one, "config.set.a", &body).await, *first, "also when it is long replaced");
    assert_eq!(traces(&one).await, before);
    assert_eq!(one.ask("config.get.a", "").await["revision"], 6);
    let repeated = one.ask("config.set.a", &body).await;
    assert_eq!(repeated["published"], true, "KV has what came after it, or it itself");

    // The id stands for one request: another body is a mistake, even if only a space is different.
    for other in [
        json!({"config": {"n": 3}, "request_id": "r-1"}).to_string(),
        format!("{body} "),
        json!({"config": {"n": 1}, "request_id": "r-1", "created_by": "ann", "dry_run": true}).to_string(),
    ] {
        one.refused("config.set.a", other, "bad_request", "request_id").await;
    }
    assert_eq!(traces(&one).await, before);
    // On another subject it is another id.
    assert_eq!(ask(&one, "config.set.b", &body).await["service_name"], "b");
    assert_eq!(one.ask("config.patch.a", json!({"patch": {"n": 7}, "request_id": "r-1"})).await["revision"], 7);
}

#[tokio::test]
async fn an_id_is_used_by_what_is_committed_and_forgotten_after_ten_minutes() {
    let hub = Hub::fresh().await;
    // A refusal and a dry run leave the id free.
    let body = json!({"config": {"n": 1}, "request_id": "r", "expected_version": 1});
    hub.refused("config.set.a", &body, "version_conflict", "expected_version").await;
    hub.ask("config.set.a", json!({"config": {"n": 0}, "request_id": "r", "dry_run": true})).await;
    hub.ask("config.set.a", json!({"config": {"n": 0}})).await;
    let first = hub.ask("config.set.a", &body).await;
    assert_eq!((&first["version"], &first["changed"]), (&json!(2), &json!(true)));
    // What changed nothing is an answer as well.
    let same = json!({"config": {"n": 1}, "request_id": "s"});
    assert_eq!(hub.ask("config.set.a", &same).await["changed"], false);
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    let again = hub.ask("config.set.a", &same).await;
    assert_eq!((&again["changed"], &again["version"]), (&json!(false), &json!(2)));
    assert_eq!(hub.ask("config.get.a", "").await["version"], 3);
    // One id, many different requests at once: one of them has it.
    let race = (0..6).map(|n| {
        let body = json!({"config": {"racer": n}, "request_id": "x".repeat(64)}).to_string();
        async { hub.send("config.set.race", body).await.result() }
    });
    let outcomes = join_all(race).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    for refusal in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!((refusal.code.as_str(), &refusal.details["field"]), ("bad_request", &json!("request_id")));
    }
    assert_eq!(hub.ask("config.history.race", "").await["activations"].as_array().unwrap().len(), 1);

    let database = hub.database().await;
    let age = |minutes: i32| format!("UPDATE config_requests SET at = at - interval '{minutes} minutes'");
    database.batch_execute(&age(9)).await.unwrap();
    assert_eq!(ask(&hub, "config.set.a", &body).await, but_for_kv(first));
    database.batch_execute(&age(2)).await.unwrap();
    // Neither does an old id stand in the way of a new request, nor is it kept.
    let new = json!({"config": {"n": 5}, "request_id": "r"});
    assert_eq!(hub.ask("config.set.a", new).await["version"], 4);
    eventually(SOON, || async {
        let rows = database.query("SELECT request_id FROM config_requests", &[]).await.unwrap();
        let kept: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if kept == ["r"] { Ok(()) } else { Err(kept) }
    })
    .await;
}

#[tokio::test]
async fn after_its_deadline_nothing_is_done() {
    let hub = Hub::fresh().await;
    hub.ask("config.set.a", json!({"config": {"n": 1}})).await;
    hub.ask("config.set.a", json!({"config": {"n": 2}})).await;
    let before = traces(&hub).await;
    for (call, mut body) in [
        ("config.set.a", json!({"config": {"n": 3}})),
        ("config.patch.a", json!({"patch": {"n": 3}})),
        ("config.rollback.a", json!({})),
        ("config.delete.a", json!({})),
        ("config.schema.set.a", json!({"schema": {}})),
    ] {
        body["deadline"] = json!("2026-01-05T10:00:00.25-03:30");
        body["request_id"] = json!("late");
        let earlier = hub.ask("health", "").await["now"].as_str().unwrap().to_owned();
        let details = hub.refused(call, body, "expired", "deadline").await;
        let now = details["now"].as_str().unwrap().to_owned();
        let later = hub.ask("health", "").await["now"].as_str().unwrap().to_owned();
        assert!(earlier <= now && now <= later, "the hub's own time: {earlier} {now} {later}");
    }
    assert_eq!(traces(&hub).await, before);

    // It counts when the hub gets to it: what waited for another writer until then is too late.
    let mut holder = hub.database().await;
    let held = holder.transaction().await.unwrap();
    held.execute("SELECT FROM config_heads WHERE service_name = 'a' FOR UPDATE", &[]).await.unwrap();
    let late = json!({"config": {"n": 4}, "deadline": after(Duration::from_millis(700))});
    let waited = hub.refused("config.set.a", &late, "expired", "deadline");
    let release = async {
        passed(&late).await;
        held.rollback().await.unwrap();
    };
    tokio::join!(waited, release);
    assert_eq!(traces(&hub).await, before);

    // Whoever asks again for what was done in time is told that it was done.
    let in_time = json!({"config": {"n": 5}, "request_id": "r", "deadline": after(Duration::from_secs(3))});
    let first = ask(&hub, "config.set.a", &in_time).await;
    assert_eq!(first["version"], 3);
    passed(&in_time).await;
    assert_eq!(ask(&hub, "config.set.a", &in_time).await, first);
    hub.refused("config.patch.a", with(&in_time, "patch", json!({"n": 6})), "expired", "deadline").await;
}

fn with(body: &Value, field: &str, value: Value) -> Value {
    let mut body = body.clone();
    body.as_object_mut().unwrap().remove("config");
    body[field] = value;
    body
}
